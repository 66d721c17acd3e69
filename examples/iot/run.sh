#!/bin/sh
# Starts a gateway, a PHP worker that stores telemetry, and three devices. One of them
# leaves; a command is sent to it meanwhile; it comes back and obeys. MQGATE names a
# binary; without it, one is built.
set -eu
cd "$(dirname "$0")"

reports=${REPORTS:-20}
stomp=${STOMP_PORT:-61613}
data=${DATA_DIR:-./data}
export MQTT_PORT="${MQTT_PORT:-1883}" STOMP_BROKER="tcp://127.0.0.1:$stomp"
file=${TELEMETRY:-./telemetry.jsonl}
python=${PYTHON:-/usr/bin/python3}
built=
php -r 'exit(extension_loaded("stomp") ? 0 : 1);' || {
	echo "php-stomp is missing (Debian: apt-get install php-cli php-stomp)" >&2
	exit 1
}
"$python" -c 'import paho.mqtt.client' || {
	echo "paho is missing (Debian: apt-get install python3-paho-mqtt)" >&2
	exit 1
}
if [ -z "${MQGATE:-}" ]; then
	built=$(mktemp -d)
	MQGATE=$built/mqgate
	(cd ../.. && go build -o "$MQGATE" ./cmd/mqgate)
fi

gateway= worker=
stop() {
	trap - INT TERM EXIT
	for pid in $worker $gateway; do # the worker first: it finishes its report
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	[ -z "$built" ] || rm -rf "$built"
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

"$MQGATE" serve --config mqgate.yaml --set "stomp.listen=127.0.0.1:$stomp" --set "mqtt.listen=127.0.0.1:$MQTT_PORT" --set "data_dir=$data" &
gateway=$!
until "$MQGATE" queue ls --config mqgate.yaml --set "data_dir=$data" >/dev/null 2>&1; do
	kill -0 "$gateway" 2>/dev/null || { echo "the gateway did not start" >&2; exit 1; }
	sleep 0.1
done

php store.php "$file" &
worker=$!
# From its first SUBSCRIBE on, the queue gets the reports whether a worker runs or not.
until "$MQGATE" queue info telemetry --config mqgate.yaml --set "data_dir=$data" -o json 2>/dev/null | grep -q '"consumers": *[1-9]'; do
	sleep 0.1
done
"$python" device.py thermo-1 2                    # it makes its session, and leaves
php command.php thermo-1 calibrate                # while it is away
"$python" device.py thermo-2 "$reports" &
two=$!
"$python" device.py thermo-3 "$reports" &
three=$!
"$python" device.py thermo-1 "$reports"           # it is back
wait "$two" "$three"

# The worker catches up.
until "$MQGATE" queue info telemetry --config mqgate.yaml --set "data_dir=$data" -o json | grep -q '"depth": *0'; do
	sleep 0.2
done
echo "stored $(wc -l <"$file") reports in $file"
