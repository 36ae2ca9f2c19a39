#!/usr/bin/env bash
# The MT50 story in steps of at most ten minutes: bench/mt50.sh collect | train | evaluate | figures
# Exit status 75 means that a step ran out of its time and goes on when it is run again.
#   WORK      folder for data and run (default: mt50)     OUT     folder for what to bring home (default: bench/results)
#   EPISODES  collected per task (default: 40)            GOSKILL the command (default: goskill)
#   LIMIT     seconds for a step (default: 590), of which the last 50 are for ending it
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${WORK:-mt50}
out=${OUT:-$root/bench/results}
limit=${LIMIT:-590}
read -ra goskill <<<"${GOSKILL:-goskill}"
data=$work/data run=$work/run
mkdir -p "$work" "$out"

# SIGTERM makes goskill write a checkpoint and end.
in_time() {
  timeout --signal=TERM --kill-after=45 $((limit > 60 ? limit - 50 : 10)) "${goskill[@]}" "$@"
}

# ended STATUS: ends this script, with status 75 if time ran out.
ended() {
  case $1 in
    124 | 137 | 143) echo "out of time: run this step again to go on" && exit 75 ;;
    *) exit "$1" ;;
  esac
}

# The newest line of the run's metrics: where training is.
progress() {
  tail -n 1 "$run/metrics.jsonl" 2>/dev/null |
    sed -nE 's/^\{"step": ([0-9]+), "phase": "([^"]+)", "iteration": ([0-9]+).*/step \1: iteration \3 of \2/p' |
    grep -E '^step [0-9]+' || echo "no line of metrics yet"
}

case ${1:-} in
  collect)
    in_time collect --suite mt50 --episodes "${EPISODES:-40}" --out "$data"
    ended $?
    ;;
  train)
    resume=()
    if [ -f "$run/settings.json" ]; then
      resume=(--resume)
      echo "going on: $(progress)"
    fi
    in_time train --preset mt50-paper --data "$data" --out "$run" "${resume[@]}"
    status=$?
    [ -f "$run/settings.json" ] && echo "trained up to $(progress)"
    [ $status -eq 0 ] && echo "training has ended"
    ended $status
    ;;
  evaluate)
    in_time eval "$run" --episodes 10
    ended $?
    ;;
  figures)
    in_time figures "$run"
    status=$?
    [ $status -eq 0 ] || ended $status
    # Checkpoints and prompts stay: what is brought home is text and pictures, at most 16 MB.
    tar -czf "$out/mt50.tar.gz" -C "$run" --exclude=checkpoints --exclude=prompts --exclude=tensorboard \
      --exclude=profile --exclude=.lock . || exit 1
    size=$(stat -c %s "$out/mt50.tar.gz")
    echo "$out/mt50.tar.gz: $((size / 1024)) KiB"
    [ "$size" -le 16000000 ]
    ;;
  *)
    echo "usage: bench/mt50.sh collect | train | evaluate | figures" >&2
    exit 2
    ;;
esac
