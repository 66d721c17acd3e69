#!/bin/sh
# Starts three nodes and HAProxy before them on this machine, and runs them until
# Ctrl-C. DIR is where they keep their data (./data), BASE the first of the nodes'
# ports (7000), LB_STOMP, LB_MQTT and LB_HTTP those of the load balancer. MQGATE names
# a binary; without it, one is built.
set -eu
cd "$(dirname "$0")"

mkdir -p "${DIR:-data}"
dir=$(cd "${DIR:-data}" && pwd)
base=${BASE:-7000}
export LB_STOMP="${LB_STOMP:-61613}" LB_MQTT="${LB_MQTT:-1883}" LB_HTTP="${LB_HTTP:-8080}"
haproxy=$(PATH=$PATH:/usr/sbin command -v haproxy) || {
	echo "HAProxy is missing (Debian: apt-get install haproxy)" >&2
	exit 1
}
if [ -z "${MQGATE:-}" ]; then
	MQGATE=$dir/mqgate
	(cd ../.. && go build -o "$MQGATE" ./cmd/mqgate)
fi
[ -s "$dir/secret" ] || (umask 077 && head -c 32 /dev/urandom | base64 >"$dir/secret")

# Node i has its ports from base+10*i on: STOMP, MQTT, HTTP, admin, cluster.
join=
for i in 1 2 3; do
	p=$((base + 10 * i))
	export "N${i}_STOMP=$p" "N${i}_MQTT=$((p + 1))" "N${i}_HTTP=$((p + 2))" "N${i}_ADMIN=$((p + 3))"
	join=$join${join:+, }127.0.0.1:$((p + 4))
done

node() { # starts node $1
	p=$((base + 10 * $1))
	"$MQGATE" serve --config mqgate.yaml --set "node_name=n$1" --set "data_dir=$dir/n$1" \
		--set "stomp.listen=127.0.0.1:$p" --set "mqtt.listen=127.0.0.1:$((p + 1))" \
		--set "http.listen=127.0.0.1:$((p + 2))" --set "admin.listen=127.0.0.1:$((p + 3))" \
		--set "cluster.listen=127.0.0.1:$((p + 4))" --set "cluster.join=[$join]" --set "cluster.secret_file=$dir/secret" &
	pids="$pids $!"
}

pids=
stop() {
	trap - INT TERM EXIT
	# shellcheck disable=SC2086 # words are meant
	kill $pids 2>/dev/null || true
	wait
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

for i in 1 2 3; do node "$i"; done
"$haproxy" -db -f haproxy.cfg &
pids="$pids $!"

status() { "$MQGATE" cluster status --set "data_dir=$dir/n1"; }
until status >/dev/null 2>&1; do
	for pid in $pids; do
		kill -0 "$pid" 2>/dev/null || { echo "a process did not start" >&2; exit 1; }
	done
	sleep 0.2
done
status
echo "STOMP on 127.0.0.1:$LB_STOMP, MQTT on 127.0.0.1:$LB_MQTT, http://127.0.0.1:$LB_HTTP/chat/ (demo, demo)"
wait
