#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the servers in every profile, measures them, prints a markdown table. Needs dbus-daemon,
# valgrind, xz, taskset. Usage: ./run.sh [build] [size] [cost] [latency]   (default: all)
set -eu
cd "$(dirname "$0")"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
PROFILES=${PROFILES:-"release o3 mixed"}
SERVERS=${SERVERS:-"server-a server-b"}
N=${N:-300}          # requests in the short callgrind run; the long one makes twice as many
PAIRS=${PAIRS:-500}  # Ping/Get/Set triples of one latency run
WORK=$(mktemp -d)
export DBUS_SESSION_BUS_ADDRESS=unix:path=$WORK/bus
CLIENT=$CARGO_TARGET_DIR/tool/client
STEPS=${*:-build size cost latency}
cat > "$WORK/bus.conf" <<X
<busconfig><type>session</type><listen>unix:path=$WORK/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>
X
pids=()
stop() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; wait "$p" 2>/dev/null || true; done; pids=(); }
trap 'stop; rm -rf "$WORK"' EXIT
start_bus() { rm -f "$WORK/bus"; taskset -c 0 dbus-daemon --config-file="$WORK/bus.conf" --nofork & pids+=($!)
  for _ in $(seq 100); do [ -S "$WORK/bus" ] && return; sleep 0.02; done; return 1; }

# Instructions of a whole server life with $4 requests of kind $3.
lifetime() {
  start_bus
  valgrind --tool=callgrind --callgrind-out-file="$WORK/cg.out" "$CARGO_TARGET_DIR/$1/$2" >"$WORK/vg.log" 2>&1 &
  local server=$!; pids+=($server)
  timeout 100 "$CLIENT" run "$3" "$4" 1>&2
  kill -TERM $server; wait $server 2>/dev/null || true
  stop
  awk '/^(totals|summary):/ {print $2; exit}' "$WORK/cg.out"
}

for step in $STEPS; do case $step in
build)
  nice cargo build -q -j1 --profile tool --bin client
  for p in $PROFILES; do
    nice cargo build -q -j1 --profile $p --bin server-b
    nice cargo build -q -j1 --profile $p --bin server-a --features object-server
  done 2>&1 | grep -E '^error' -A9 || true ;;
size)
  printf '\n| server | profile | bytes | xz -9e |\n|---|---|---|---|\n'
  for s in $SERVERS; do for p in $PROFILES; do f=$CARGO_TARGET_DIR/$p/$s
    echo "| $s | $p | $(stat -c %s "$f") | $(xz -9e -c "$f" | wc -c) |"; done; done ;;
cost)
  printf '\n| server | profile | Ping | Get | changing Set | (instructions)\n|---|---|---|---|---|\n'
  for s in $SERVERS; do for p in $PROFILES; do row="| $s | $p |"
    for what in ping get set; do
      a=$(lifetime $p $s $what $N); b=$(lifetime $p $s $what $((2 * N)))
      row+=" $(( (b - a) / N )) |"
    done; echo "$row"; done; done ;;
latency)
  printf '\n| server | profile | Ping us | Get us | Set us | median Set/Ping |\n|---|---|---|---|---|---|\n'
  for round in $(seq ${ROUNDS:-3}); do for s in $SERVERS; do for p in $PROFILES; do
    start_bus
    taskset -c 1 "$CARGO_TARGET_DIR/$p/$s" 2>"$WORK/server.log" & pids+=($!)
    echo "| $s | $p | $(timeout 60 taskset -c 0 "$CLIENT" latency $PAIRS | sed 's/ / | /g') |"
    stop; done; done; done ;;
esac; done
