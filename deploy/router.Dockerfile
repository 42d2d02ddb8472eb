# The router, without Pipecat. Build it from the top of the project: docker build -f deploy/router.Dockerfile .
# No syntax line and no heredocs: older engines and mirrors without a registry build it, too.
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
COPY deploy/requirements/build.lock /build/
RUN pip install -q --no-cache-dir --require-hashes -r /build/build.lock \
 && uv venv -q --python /usr/local/bin/python /opt/venv && mkdir /empty

FROM tools AS dependencies
COPY deploy/requirements/router.lock /build/
RUN uv pip install -q --python /opt/venv/bin/python --require-hashes --no-deps --no-build --compile-bytecode -r /build/router.lock

# in a layer of its own, so that a new version is a small one
FROM tools AS offhook
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY router router
COPY shared shared
COPY worker/__init__.py worker/__init__.py
# the project names three packages; of the worker this image has no code
RUN hatchling build -t wheel -d /dist \
 && uv pip install -q --python /opt/venv/bin/python --target /opt/offhook --no-deps --compile-bytecode /dist/*.whl \
 && rm -r /opt/offhook/worker /opt/offhook/bin

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="offhook router" \
      org.opencontainers.image.description="Answers Twilio's webhook and hands each media WebSocket to a worker" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/offhook HOME=/tmp \
    PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ASSETS_DIR=/app/audio_assets REDIS_URL=redis://redis:6379/0 ROUTER_HEALTH_SOCKET=/tmp/router.sock
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=tools --chown=10001:10001 /empty /run/offhook
COPY --from=offhook /opt/offhook /opt/offhook
COPY audio_assets /app/audio_assets
WORKDIR /app
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
  CMD ["python", "-m", "shared.healthcheck", "unix:/tmp/router.sock:/readyz"]
CMD ["python", "-m", "router"]
