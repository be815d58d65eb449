#!/usr/bin/env bash
# board.sh STEP...: runs measurement steps against a running board with bbsload and appends JSON lines to $OUT.
#
# Steps: ping warm desire lifecycle get list events callback rate sweep idle. From the environment:
#   URL    the board (default http://127.0.0.1:8889); FLAGS, more flags of bbsload (certificates)
#   PIDS   name=pid,... or name=@pidfile,...: the process trees whose CPU and memory are reported
#   RESET  a command that removes all tasks (default: bbsload -mode purge)
#   OUT    the file of results (default results/board.jsonl here); REP, runs of each step (3)
#   QUIET, OTHERS, TRIES, TMO: the quiet gate in cores, the disturbance allowed, attempts, seconds a run may take
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${URL:=http://127.0.0.1:8889}" "${OUT:=$here/results/board.jsonl}" "${REP:=3}" "${FLAGS:=}" "${PIDS:=}" "${KEEP:=0}"
mkdir -p "$(dirname "$OUT")"
if [ -z "${BBSLOAD:-}" ]; then
  mkdir -p "$here/results/bin"
  BBSLOAD=$here/results/bin/bbsload
  (cd "$here/bbsload" && go build -o "$BBSLOAD" .) || exit 2
fi
# shellcheck disable=SC2086  # FLAGS is a list of words
load() { timeout "${TMO:-580}" "$BBSLOAD" -url "$URL" $FLAGS -pids "$(pids)" "$@"; }
: "${RESET:=load -c 32 -mode purge}"

pids() {
  local out='' pair name value
  for pair in ${PIDS//,/ }; do
    name=${pair%%=*} value=${pair#*=}
    case $value in @*) value=$(head -1 "${value#@}") ;; esac
    out=$out,$name=$value
  done
  echo "${out#,}"
}

reset() { eval "$RESET" >/dev/null 2>&1; sleep 1; }

# measured: one run, tried again while other processes disturb it; emptied before each try unless KEEP=1.
measured() {
  local rc=0
  for _ in $(seq "${TRIES:-5}"); do
    [ "$KEEP" = 1 ] || reset
    load -quiet "${QUIET:-0.25}" -max-others "${OTHERS:-0.15}" -out "$OUT" "$@" >/dev/null; rc=$?
    [ "$rc" = 3 ] || break
  done
  [ "$rc" = 0 ] || echo "rc=$rc $*"
}

# prepared: a run that only fills or warms.
prepared() { load -out "$OUT" "$@" >/dev/null || echo "rc=$? $*"; }

repeat() { for _ in $(seq "$REP"); do "$@"; done; }

step_ping() { measured -mode ping -c 1 -n 10000 -label ping; measured -mode ping -c 32 -n 40000 -label ping; }
step_desire() {
  local pair
  for pair in 1:5000 8:10000 32:20000 64:20000; do measured -mode desire -c "${pair%:*}" -n "${pair#*:}" -label desire; done
}
step_lifecycle() {
  measured -mode lifecycle -c 1 -n 1000 -label lifecycle
  measured -mode lifecycle -c 32 -n 5000 -label lifecycle
}
step_get() {
  KEEP=1 measured -mode get -prefix g -tasks 10000 -c 1 -n 10000 -label get
  KEEP=1 measured -mode get -prefix g -tasks 10000 -c 32 -n 30000 -label get
}
step_list() { # step_list TASKS
  local n=$1 calls=50
  [ "$n" -gt 1000 ] && calls=15
  [ "$n" -gt 10000 ] && calls=7
  reset
  prepared -mode fill -prefix "l$n" -domains d0,d1,d2,d3,d4,d5,d6,d7,d8,d9 -c 16 -n "$n" -label "fill$n"
  KEEP=1 measured -mode list -n $calls -label "list$n"
  KEEP=1 measured -mode list -raw -n $calls -label "list$n"
  KEEP=1 measured -mode list -n $calls -filter-domain d3 -label "dom$n"
  KEEP=1 measured -mode list -raw -n $calls -filter-domain d3 -label "dom$n"
  KEEP=1 measured -mode list -raw -n $((calls * 2)) -c 4 -label "listc4-$n"
}
step_events() {
  measured -mode events -c 4 -rate 100 -n 1500 -subs 1 -label ev-low1
  measured -mode events -c 4 -rate 100 -n 1500 -subs 10 -label ev-low10
  measured -mode events -c 32 -n 10000 -subs 0 -label ev-load0
  measured -mode events -c 32 -n 10000 -subs 1 -label ev-load1
  measured -mode events -c 32 -n 10000 -subs 10 -label ev-load10
}
step_callback() {
  measured -mode callback -c 4 -rate 100 -n 1500 -label cb-low
  measured -mode callback -c 32 -n 5000 -label cb-load
}
# step_sweep: reads at a steady pace while the board, with 50,000 tasks, sweeps them (start it with a short --converge-interval).
step_sweep() {
  reset
  prepared -mode fill -prefix s -c 32 -n 50000 -label fill50k
  KEEP=1 measured -mode get -prefix s -tasks 50000 -c 4 -rate 500 -n 15000 -label sweep
  reset
}
step_paced() {
  measured -mode desire -c 32 -rate 300 -n 6000 -label desire-300ps
  measured -mode lifecycle -c 32 -rate 60 -n 1200 -label life-60ps
}
step_paced_get() { KEEP=1 measured -mode get -prefix g -tasks 10000 -c 32 -rate 500 -n 10000 -label get-500ps; }
fill_for_get() { reset; prepared -mode fill -prefix g -c 16 -n 10000 -label fill10k; }

for step in "$@"; do
  echo "$(date +%T) $step load=$(cut -d' ' -f1 /proc/loadavg)"
  case $step in
    ping) repeat step_ping ;;
    warm) reset; prepared -mode lifecycle -c 32 -n 2000 -label warm; prepared -mode fill -c 8 -n 3000 -label warm; reset ;;
    desire | lifecycle | events | callback) repeat "step_$step"; reset ;;
    get) fill_for_get; repeat step_get ;;
    list) for n in 1000 10000 50000; do step_list "$n"; done ;;
    rate) repeat step_paced; fill_for_get; repeat step_paced_get ;;
    sweep) step_sweep ;;
    idle) prepared -mode watch -dur 60s -every 5s -label idle ;;
    *) echo "unknown step $step" >&2; exit 2 ;;
  esac
done
