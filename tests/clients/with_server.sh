#!/usr/bin/env bash
# Starts one server on an empty directory, runs `COMMAND HOST:PORT`, and takes the server away.
#   PIGEONHOLE_BIN=target/debug/pigeonhole tests/clients/with_server.sh tests/clients/zkcli.sh
#   ZOOKEEPER=1 tests/clients/with_server.sh tests/clients/zkcli.sh     the baseline
# PIGEONHOLE_PORT chooses the port; PIGEONHOLE_SHARDS the number of shards.
set -euo pipefail
port=${PIGEONHOLE_PORT:-23050}
folder=$(mktemp -d)
server=

on_exit() {
    status=$?
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    if [ "$status" -ne 0 ]; then
        echo "--- the server's last words"
        tail -n 40 "$folder/server.log" || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap on_exit EXIT

cat >"$folder/zoo.cfg" <<CONFIG
tickTime=2000
dataDir=$folder/data
clientPort=$port
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=*
CONFIG

if [ "${ZOOKEEPER:-}" = 1 ]; then
    java -Dfile.encoding=UTF-8 -cp /usr/share/java/zookeeper.jar \
        org.apache.zookeeper.server.quorum.QuorumPeerMain "$folder/zoo.cfg" \
        >"$folder/server.log" 2>&1 &
else
    : "${PIGEONHOLE_BIN:?names the server to start}"
    shards=()
    if [ -n "${PIGEONHOLE_SHARDS:-}" ]; then shards=("-Dpigeonhole.shards=$PIGEONHOLE_SHARDS"); fi
    "$PIGEONHOLE_BIN" serve "$folder/zoo.cfg" "${shards[@]}" >"$folder/server.log" 2>&1 &
fi
server=$!

answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf ruok >&3 && timeout 2 cat <&3) 2>/dev/null
}

for attempt in $(seq 150); do
    if ! kill -0 "$server" 2>/dev/null; then
        echo "the server ended before it answered"
        exit 1
    fi
    if [ "$(answers)" = imok ]; then break; fi
    if [ "$attempt" -eq 150 ]; then
        echo "the server did not answer within 30 s"
        exit 1
    fi
    sleep 0.2
done

"$@" "127.0.0.1:$port"
