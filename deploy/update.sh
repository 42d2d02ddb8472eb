#!/usr/bin/env bash
# Update an installation on one host without dropping a call, or take over changed settings:
#
#   deploy/update.sh                 build the images, then replace router, workers and prefetchers
#   deploy/update.sh --no-build      the images are there (pulled, or built before), or only .env has changed
#
# New containers are started beside the old ones and have to become ready; if they do not, they are removed, nothing else has
# changed, and the exit status is 1. Then the new router answers (both share the port meanwhile), the old ones are stopped, and
# last the old pools drain: this waits until their calls are over, DRAIN_TIMEOUT at most. Interrupting it then stops nothing.
#
# COMPOSE_PROFILES, COMPOSE_PROJECT_NAME, COMPOSE_FILE and the variables of compose.yaml are taken from the environment.
# READY_WITHIN (120): seconds the new containers have to become ready.
set -euo pipefail
cd "$(dirname "$0")"
export COMPOSE_FILE=${COMPOSE_FILE:-compose.yaml}

say() { printf 'offhook: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

ids_of() { docker compose ps -q "$1"; }

# Start as many new containers of a service as there are; their ids go to the array of that name.
start_beside() {
  local service=$1 count before after
  local -n new=$2
  before=$(ids_of "$service")
  count=$(wc -w <<<"$before")
  [ "$count" -gt 0 ] || fail "$service is not running: start it with docker compose up -d"
  docker compose up -d --no-deps --no-build --no-recreate --scale "$service=$((2 * count))" "$service" >/dev/null 2>&1 || true
  after=$(docker compose ps -a -q "$service")
  mapfile -t new < <(comm -13 <(sort <<<"$before") <(sort <<<"$after"))
  [ "${#new[@]}" -ge "$count" ] || { give_up "${new[@]}"; fail "$service: no new containers could be started"; }
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

give_up() {
  [ "$#" -eq 0 ] || docker rm --force "$@" >/dev/null
}

# Containers of a service beside the old ones, ready, or none at all.
renew() {
  local service=$1 late
  local -n started=$2
  say "$service: starting new containers"
  start_beside "$service" "$2"
  if ! late=$(await_ready "${started[@]}"); then
    docker inspect --format '{{range .State.Health.Log}}{{.Output}}{{end}}' "$late" | tail -n 1 >&2
    docker logs --tail 10 "$late" >&2
    return 1
  fi
  say "$service: ${#started[@]} ready"
}

# Stop containers, each with so many seconds, and remove them.
retire() {
  local service=$1 grace=$2 id
  shift 2
  say "$service: stopping $# old"
  for id in "$@"; do
    { docker stop --time "$grace" "$id" && docker rm "$id"; } >/dev/null &
  done
  wait
}

build=yes
case "${1:-}" in
  "") ;;
  --no-build) build= ;;
  *) fail "usage: deploy/update.sh [--no-build]" ;;
esac
[ -z "$build" ] || docker compose build router worker

mapfile -t old_workers < <(ids_of worker)
mapfile -t old_routers < <(ids_of router)
mapfile -t old_prefetchers < <(ids_of prefetcher)
new_workers=() new_routers=() new_prefetchers=()
undo() {
  give_up "${new_workers[@]}" "${new_routers[@]}" "${new_prefetchers[@]}"
  fail "$1 did not become ready: the new containers are removed, everything is as before"
}
renew worker new_workers || undo worker
renew router new_routers || undo router
renew prefetcher new_prefetchers || undo prefetcher

retire router 10 "${old_routers[@]}"
retire prefetcher 30 "${old_prefetchers[@]}"
say "new calls are served by the new containers; calls in progress finish in the old ones"
retire worker "$(docker inspect --format '{{.Config.StopTimeout}}' "${old_workers[0]}")" "${old_workers[@]}"
say "updated"
