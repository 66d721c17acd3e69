#!/bin/sh
# Starts a gateway and a worker, sends jobs, and shows what became of them until
# Ctrl-C. JOBS=20 is how many. MQGATE names a binary; without it, one is built.
set -eu
cd "$(dirname "$0")"

jobs=${JOBS:-20}
port=${STOMP_PORT:-61613}
data=${DATA_DIR:-./data}
export STOMP_BROKER="tcp://127.0.0.1:$port"
built=
if [ -z "${MQGATE:-}" ]; then
	built=$(mktemp -d)
	MQGATE=$built/mqgate
	(cd ../.. && go build -o "$MQGATE" ./cmd/mqgate)
fi
php -r 'exit(extension_loaded("stomp") ? 0 : 1);' || {
	echo "php-stomp is missing (Debian: apt-get install php-cli php-stomp)" >&2
	exit 1
}

gateway= worker=
stop() {
	trap - INT TERM EXIT
	for pid in $worker $gateway; do # the worker first: it finishes its job
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	[ -z "$built" ] || rm -rf "$built"
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

"$MQGATE" serve --config mqgate.yaml --set "stomp.listen=127.0.0.1:$port" --set "data_dir=$data" &
gateway=$!
until "$MQGATE" queue ls --config mqgate.yaml --set "data_dir=$data" >/dev/null 2>&1; do
	kill -0 "$gateway" 2>/dev/null || { echo "the gateway did not start" >&2; exit 1; }
	sleep 0.1
done

php worker.php &
worker=$!
php producer.php "$jobs"

while sleep 2 & wait $!; do
	"$MQGATE" queue ls --config mqgate.yaml --set "data_dir=$data"
done
