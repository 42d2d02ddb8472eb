#!/usr/bin/env bash
# Update an installation on one host without dropping a call, or take over changed settings:
#
#   deploy/update.sh                 build the images, then replace router, workers and prefetchers
#   deploy/update.sh --no-build      the images are there (pulled, or built before), or only .env has changed
#
# New containers are started beside the old ones and have to become ready; if they do not, or if this is interrupted, they are
# removed, nothing else has changed, and the exit status is 1. Then the new router answers (both share the port meanwhile), the
# old ones are stopped, and last the old pools drain: this waits until their calls are over, DRAIN_TIMEOUT at most. Interrupting
# it then stops nothing, and another update may follow at once.
#
# COMPOSE_PROFILES, COMPOSE_PROJECT_NAME, COMPOSE_FILE and the variables of compose.yaml are taken from the environment.
# READY_WITHIN (120): seconds the new containers have to become ready.
set -euo pipefail
COMPOSE_FILE=${COMPOSE_FILE:-$(dirname "$0")/compose.yaml}
export COMPOSE_FILE

# The routers last: half of all calls are the new one's as soon as it is there, and the old one's until it is gone.
readonly SERVICES=(worker prefetcher router)
declare -A before old new

say() { printf 'offhook: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

ids_of() { docker compose ps --all --quiet "$@" | sort; }

# The running containers of a service, without those an earlier update has told to leave.
staying() {
  local id
  for id in $(docker compose ps --quiet "$1"); do
    [ "$(docker inspect --format '{{.HostConfig.RestartPolicy.Name}}' "$id")" = no ] || printf '%s\n' "$id"
  done
}

# Which version of the control protocol an image speaks: a new router is ready also with the old pools, which are about to leave.
spoken_by() {
  docker compose run --rm --no-deps --no-TTY --entrypoint python "$1" -c \
    'from shared.messages import PROTOCOL_VERSION as version; print(version)' 2>/dev/null || echo unknown
}

# Start as many new containers of a service as there are. What is there and does not run would be started in their place.
start_beside() {
  local service=$1 count there
  # each by itself, since bash goes on after a failure in a function whose status is looked at
  ids_of --status exited --status created --status dead "$service" | xargs --no-run-if-empty docker rm >/dev/null || return
  there=$(ids_of "$service") || return
  before[$service]=$there
  count=$(wc -w <<<"${old[$service]}")
  docker compose up -d --no-deps --no-build --no-recreate --scale "$service=$(($(wc -w <<<"${before[$service]}") + count))" \
    "$service" >/dev/null 2>&1 || true
  new[$service]=$(newcomers "$service") || return
  [ "$(wc -w <<<"${new[$service]}")" -ge "$count" ]
}

# What has come since `start_beside`, whatever became of it.
newcomers() {
  local now
  now=$(ids_of "$1") || return
  comm -13 <(printf '%s\n' "${before[$1]}") <(printf '%s\n' "$now")
}

# Wait until every one of these is healthy; give the first that is not in time.
await_ready() {
  local ends=$((SECONDS + ${READY_WITHIN:-120})) id
  for id in "$@"; do
    until [ "$(docker inspect --format '{{.State.Health.Status}}' "$id" 2>/dev/null)" = healthy ]; do
      [ "$SECONDS" -lt "$ends" ] || { printf '%s' "$id"; return 1; }
      sleep 0.5
    done
  done
}

# Let containers go, each within its own grace, and remove them; in sessions of their own, which a Ctrl-C here does not reach.
release() {
  local id
  for id in "$@"; do
    docker update --restart no "$id" >/dev/null || true # so it is told from others, also by the next update
    setsid sh -c 'docker stop --time "$(docker inspect --format "{{.Config.StopTimeout}}" "$0")" "$0" && docker rm "$0"' "$id" \
      >/dev/null 2>&1 9<&- &
  done
}

# Let go what was started, and end. A pool that was ready may have calls by now: they are not waited for.
undo() {
  trap '' INT TERM HUP
  local service
  for service in router prefetcher worker; do
    wait
    # shellcheck disable=SC2046 # ids, one word each
    [ -z "${before[$service]:-}" ] || release $(newcomers "$service")
  done
  fail "$1: the new containers are removed, everything is as before"
}

# Containers of a service beside the old ones, ready, or none at all.
renew() {
  local service=$1 late
  say "$service: starting new containers"
  start_beside "$service" || undo "$service: no new containers could be started"
  # shellcheck disable=SC2086 # ids, one word each
  if ! late=$(await_ready ${new[$service]}); then
    docker inspect --format '{{range .State.Health.Log}}{{.Output}}{{end}}' "$late" | tail -n 1 >&2
    docker logs --tail 10 "$late" >&2
    undo "$service did not become ready"
  fi
  say "$service: $(wc -w <<<"${new[$service]}") ready"
}

retire() {
  say "$1: stopping $(wc -w <<<"${old[$1]}") old"
  # shellcheck disable=SC2086 # ids, one word each
  release ${old[$1]}
}

build=yes
case "${1:-}" in
  "") ;;
  --no-build) build= ;;
  *) fail "usage: deploy/update.sh [--no-build]" ;;
esac

exec 9<"$0"
flock --nonblock 9 || fail "another update is under way"
for service in "${SERVICES[@]}"; do
  old[$service]=$(staying "$service")
  [ -n "${old[$service]}" ] || fail "$service is not running: start it with docker compose up -d"
done
[ -z "$build" ] || docker compose build router worker
workers=$(spoken_by worker) routers=$(spoken_by router)
[ "$workers" = "$routers" ] || fail "router ($routers) and worker ($workers) speak different versions: build or pull both"

trap 'undo interrupted' INT TERM HUP
for service in "${SERVICES[@]}"; do renew "$service"; done
trap '' INT TERM HUP

retire router
wait
retire prefetcher
retire worker
flock --unlock 9
trap - INT TERM HUP
say "new calls are served by the new containers; calls in progress finish in the old ones"
wait
say "updated"
