#!/bin/sh
# Starts the edge: run.sh [Caddyfile]. What is wrong with its settings is said in one line first, because Caddy 2.11 ends without
# a word when it cannot read its file (caddyserver/caddy, issue 7962). RESTART_PAUSE: seconds between that line and the end, for
# whatever starts it again.
set -u

config=${1:-/etc/caddy/Caddyfile}

refuse() {
	echo "edge: $1" >&2
	trap 'exit 2' TERM INT
	sleep "${RESTART_PAUSE:-0}" &
	wait $!
	exit 2
}

case ${PUBLIC_BASE_URL:-} in
'') refuse 'PUBLIC_BASE_URL is not set' ;;
https://*/*) refuse "PUBLIC_BASE_URL: $PUBLIC_BASE_URL: the edge wants scheme and host only, and no slash at the end" ;;
https://?*) ;;
*) refuse "PUBLIC_BASE_URL: $PUBLIC_BASE_URL: the edge serves https:// only" ;;
esac

caddy adapt --config "$config" >/dev/null || refuse "$config cannot be read with these settings, see above"
exec caddy run --config "$config" --adapter caddyfile
