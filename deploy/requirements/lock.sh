#!/usr/bin/env bash
# Write requirements.lock and the locks of the images: what it has of each, so that images and tests run the same versions.
# --upgrade: newer ones, too.
set -euo pipefail
cd "$(dirname "$0")/../.."
upgrade=("$@")

lock() {
  local file=$1; shift
  .venv/bin/python -m uv pip compile -q "$@" "${upgrade[@]}" --universal --python-version 3.11 --generate-hashes --no-header \
    --no-annotate --no-emit-index-url -o "$file"
}

lock requirements.lock pyproject.toml --all-extras --group dev

images=deploy/requirements
of_project=(pyproject.toml --extra tracing -c requirements.lock)
lock $images/router.lock "${of_project[@]}" --extra router
lock $images/worker.lock "${of_project[@]}" --extra worker --override $images/without.txt
lock $images/demo.lock "${of_project[@]}" --extra router --extra worker --extra local --override $images/without.txt
lock $images/build.lock $images/build.in
