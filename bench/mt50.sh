#!/usr/bin/env bash
# The MT50 story in steps of at most ten minutes: bench/mt50.sh collect | train | evaluate | figures
# Exit status 75 means that a step ran out of its time and goes on when it is run again.
#   WORK      folder for data and run (default: mt50)     OUT     folder for what to bring home (default: bench/results)
#   EPISODES  collected per task (default: 40)            GOSKILL the command (default: goskill)
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${WORK:-mt50}
out=${OUT:-$root/bench/results}
read -ra goskill <<<"${GOSKILL:-goskill}"
data=$work/data run=$work/run
mkdir -p "$work" "$out"

# SIGTERM makes goskill write a checkpoint and end; a minute is left for that.
within_ten_minutes() {
  timeout --signal=TERM --kill-after=50 540 "${goskill[@]}" "$@"
  local status=$?
  case $status in
    124 | 137 | 143) echo "out of time: run this step again to go on" && exit 75 ;;
    *) return $status ;;
  esac
}

case ${1:-} in
  collect)
    within_ten_minutes collect --suite mt50 --episodes "${EPISODES:-40}" --out "$data"
    ;;
  train)
    resume=()
    [ -f "$run/settings.json" ] && resume=(--resume)
    within_ten_minutes train --preset mt50-paper --data "$data" --out "$run" "${resume[@]}"
    ;;
  evaluate)
    within_ten_minutes eval "$run" --episodes 10
    ;;
  figures)
    within_ten_minutes figures "$run" || exit $?
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
