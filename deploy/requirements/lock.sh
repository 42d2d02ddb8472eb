#!/usr/bin/env bash
# Write the locks of the images: what requirements.lock has of each, so that images and tests run the same versions.
set -euo pipefail
cd "$(dirname "$0")/../.."

lock() {
  local name=$1; shift
  .venv/bin/python -m uv pip compile -q "$@" --universal --python-version 3.11 --generate-hashes --no-header \
    --no-annotate --no-emit-index-url -o "deploy/requirements/$name.lock"
}

lock router pyproject.toml --extra router --extra tracing -c requirements.lock
lock worker pyproject.toml --extra worker --extra tracing -c requirements.lock --override deploy/requirements/without.txt
lock demo pyproject.toml --extra router --extra worker --extra tracing --extra local -c requirements.lock --override deploy/requirements/without.txt
lock build deploy/requirements/build.in
