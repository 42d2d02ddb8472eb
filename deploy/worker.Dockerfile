# The worker image (a pool and its workers, the prefetchers, the doctor), and as another target the stand-ins of the demo:
#   docker build -f deploy/worker.Dockerfile .      docker build -f deploy/worker.Dockerfile --target demo .
# No syntax line and no heredocs: older engines and mirrors without a registry build it, too.
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
COPY deploy/requirements/build.lock /build/
RUN pip install -q --no-cache-dir --require-hashes -r /build/build.lock \
 && uv venv -q --python /usr/local/bin/python /opt/venv && mkdir /empty

FROM tools AS dependencies
COPY deploy/requirements/worker.lock /build/
# one of them has no wheel: what builds it is locked as well
RUN uv pip install -q --python /opt/venv/bin/python --require-hashes --no-deps --build-constraints /build/build.lock \
      --compile-bytecode -r /build/worker.lock

FROM tools AS demo-dependencies
COPY deploy/requirements/demo.lock /build/
RUN uv pip install -q --python /opt/venv/bin/python --require-hashes --no-deps --build-constraints /build/build.lock \
      --compile-bytecode -r /build/demo.lock

# in a layer of its own, so that a new version is a small one
FROM tools AS offhook
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY router router
COPY shared shared
COPY worker worker
RUN hatchling build -t wheel -d /dist \
 && uv pip install -q --python /opt/venv/bin/python --target /opt/offhook --no-deps --compile-bytecode /dist/*.whl

FROM offhook AS offhook-worker
RUN rm -r /opt/offhook/router

FROM ${PYTHON} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/offhook/bin:/opt/venv/bin:$PATH PYTHONPATH=/opt/offhook HOME=/tmp \
    PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ASSETS_DIR=/app/audio_assets REDIS_URL=redis://redis:6379/0
COPY --from=tools --chown=10001:10001 /empty /run/offhook
COPY --from=tools --chown=10001:10001 /empty /var/lib/offhook/recordings
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM

FROM runtime AS demo
LABEL org.opencontainers.image.title="offhook demo" \
      org.opencontainers.image.description="Stand-ins of the providers with offline speech, and a caller; never for production"
COPY --from=demo-dependencies /opt/venv /opt/venv
COPY --from=offhook /opt/offhook /opt/offhook
COPY audio_assets /app/audio_assets
COPY tests /app/tests
COPY deploy /app/deploy
ENV PYTHONPATH=/opt/offhook:/app
CMD ["python", "-m", "deploy.demo.standins", "--settings", "/run/demo/settings.env"]

FROM runtime AS worker
LABEL org.opencontainers.image.title="offhook worker" \
      org.opencontainers.image.description="A pool of voice agents that are ready before the phone rings; also the prefetchers"
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=offhook-worker /opt/offhook /opt/offhook
COPY audio_assets /app/audio_assets
EXPOSE 9100
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
  CMD ["python", "-m", "shared.healthcheck", "http://127.0.0.1:9100/readyz"]
CMD ["python", "-m", "worker"]
