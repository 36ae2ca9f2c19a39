#!/usr/bin/env bash
# goskill on one GPU, offline, within LIMIT seconds: installs it, says what the device is, runs the GPU tests and the GPU
# benchmarks, prints a short table last. What matters most comes first, and whenever it is cut, rows and table are there.
# Needs Python with torch, triton and pytest; and pybind11, scikit-build-core, cmake and a compiler unless WHEELS has a
# wheel of goskill for this Python.
#   WHEELS  folder of wheels of what the machine lacks of: gymnasium, farama-notifications, scipy, safetensors, typer,
#           shellingham, rich, hypothesis, pytest-benchmark; of goskill itself, which is built here otherwise; and of the
#           peers, which are skipped where they are missing: vector-quantize-pytorch, torch-einops-utils, einx,
#           frozendict, loguru; flash-kmeans (0.3.1); liger-kernel (0.8.5). These two are pure Python wheels of PyPI
#           (py3-none-any) and need nothing but torch and triton here.
#   OUT     folder that gets six files (default: bench/results): gpu-device.log, the rows in gpu-kernels.jsonl and
#           gpu-training.jsonl, gpu-steps.json, all output in gpu.log, and gpu-table.txt, which is written after each stage
#   PYTHON  the interpreter (default: python3)
#   LIMIT   seconds for everything (default: 420)
#   TESTS   processes that share the GPU tests (default: 4)
#   GOSKILL_COMMIT  what the rows say they measured (default: git describe)
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
out=${OUT:-$root/bench/results}
limit=${LIMIT:-420}
processes=${TESTS:-4}
mkdir -p "$out" && out=$(cd "$out" && pwd)
work=$(mktemp -d)
site=$work/site
stages=(device tests kernels training profile kernel-peers training-peers)
reached=()
troubles=()
tested=() # the last line of each process of tests
began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
GOSKILL_COMMIT=${GOSKILL_COMMIT:-$(git -C "$root" describe --always --dirty --abbrev=12 2>/dev/null)}
export GOSKILL_COMMIT
[ -n "$GOSKILL_COMMIT" ] || echo "warning: no git here and no GOSKILL_COMMIT: the rows will not say what they measured"

running=()
finish() {
  trap - EXIT INT TERM
  [ ${#running[@]} -eq 0 ] || kill -TERM "${running[@]}" 2>/dev/null
  keep_logs
  table | tee "$out/gpu-table.txt"
  rm -rf "$work"
}
# A signal ends what runs at once; the table is still printed.
trap 'finish; exit 143' INT TERM
trap finish EXIT

table() {
  echo
  cat "$out/gpu-device.log" 2>/dev/null
  "$python" - "$began" "$out"/gpu-{kernels,training}.jsonl <<'PYTHON' 2>/dev/null || echo "no rows"
import json, pathlib, sys
from goskill.bench import report

began, *files = sys.argv[1:]
rows = [json.loads(line) for name in files if pathlib.Path(name).exists() for line in open(name)]
report.print_table([row for row in rows if row["date"] >= began])
PYTHON
  local line
  for line in "${tested[@]}"; do echo "GPU tests: $line"; done
  for trouble in "${troubles[@]}"; do echo "trouble: $trouble"; done
  local stage missing=()
  for stage in "${stages[@]}"; do
    [[ " ${reached[*]-} " == *" $stage "* ]] || missing+=("$stage")
  done
  echo "ended after $SECONDS of $limit s; not reached or not ended: ${missing[*]:-nothing}"
}

# keep_logs: what stages have printed moves to gpu.log.
keep_logs() {
  local log
  for log in "$work"/*.log; do
    [ -f "$log" ] || continue
    printf '\n== %s\n' "$(basename "$log" .log)" >>"$out/gpu.log"
    cat "$log" >>"$out/gpu.log" && rm "$log"
  done
}

# why STATUS LOG: how a command that failed ended.
why() {
  case $1 in
    124 | 137) echo "cut when its time was over" ;;
    *) echo "status $1: $(grep -v '^[[:space:]]*$' "$2" | tail -n 1)" ;;
  esac
}

# Before SECONDS COMMAND: interrupts the command and all that it starts then, which would ignore it otherwise, as what a
# script starts in the background does; passes other signals on to all of them.
within=(timeout --signal=INT --kill-after=5)

# wait_for LOG SECONDS COMMAND: runs it in the background, so that a signal to this script acts at once.
wait_for() {
  "${within[@]}" "${@:2}" >"$1" 2>&1 &
  running=($!)
  wait "${running[0]}"
  local status=$?
  running=()
  return $status
}

# seconds SHARE [LEAST]: what a stage may take of 420 s, and in proportion of other limits, but LEAST (default: 40) for
# programs to start in, which takes longest the first time; no more than is left.
seconds() {
  local left=$((limit - SECONDS - 10)) share=$(($1 * limit / 420)) least=${2:-40}
  share=$((share > least ? share : least))
  echo $((share < left ? share : left))
}

# ended NAME: what is said after a stage, and kept for the case that nothing else will be.
ended() {
  keep_logs
  table >"$out/gpu-table.txt"
  echo "$1 after $SECONDS s"
}

install() { "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$@"; }
if [ -n "${WHEELS:-}" ]; then
  install "$WHEELS"/*.whl || exit 1
fi
# A folder of wheels holds one of goskill for one version of Python: pip has refused it above if it is not this one.
if ! [ -d "$site/goskill" ]; then
  install --upgrade --no-build-isolation "$root" || exit 1
fi
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
cd "$work" || exit 1 # so that what runs is what was installed
rm -f "$out"/gpu.log "$out/gpu-device.log" "$out/gpu-table.txt"
echo "installed after $SECONDS s"

share=$(seconds 60 90)
if [ "$share" -ge 1 ]; then
  wait_for "$out/gpu-device.log" "$share" "$python" -W ignore -m goskill.bench.device &&
    reached+=(device) || troubles+=("no whole device report: $(why $? "$out/gpu-device.log")")
  cat "$out/gpu-device.log"
  ended "device reported"
fi

# Only the files that have GPU tests: the others may need packages that are not here.
mapfile -t files < <(grep -rl 'mark\.gpu' "$root/tests" --include='test_*.py' | sort)
run_tests() {
  local share process index status=0
  share=$(seconds 110)
  local workers=()
  for ((process = 0; process < processes; process++)); do
    local own=()
    for ((index = process; index < ${#files[@]}; index += processes)); do own+=("${files[index]}"); done
    [ ${#own[@]} -gt 0 ] || continue
    "${within[@]}" "$share" "$python" -m pytest -q -p no:cacheprovider \
      --continue-on-collection-errors -c "$root/pyproject.toml" --rootdir "$root" -m gpu "${own[@]}" \
      >"$work/tests-$process.log" 2>&1 &
    workers+=($!)
  done
  running=("${workers[@]}")
  for process in "${workers[@]}"; do wait "$process" || status=1; done
  running=()
  local log
  for log in "$work"/tests-*.log; do tested+=("$(tail -n 1 "$log")"); done
  return $status
}
if [ "$(seconds 110)" -ge 10 ]; then
  run_tests && reached+=(tests) || troubles+=("GPU tests failed or were cut: $out/gpu.log")
  ended tested
fi

# stage NAME SUITE SHARE EXPRESSION: the benchmarks of a suite that match; each row is kept when it is there.
stage() {
  local share
  share=$(seconds "$3")
  [ "$share" -ge 15 ] || return
  wait_for "$work/$1.log" "$share" "$python" -m goskill bench "$2" --gpu --limit $((share - 10)) -k "$4" \
    --json "$out/gpu-$2.jsonl" && reached+=("$1") || troubles+=("$1: $(why $? "$work/$1.log")")
  ended "$1"
}
stage kernels kernels 75 goskill
stage training training 75 "goskill and fused"
share=$(seconds 60)
if [ "$share" -ge 10 ]; then
  wait_for "$work/profile.log" "$share" \
    "$python" -m goskill.bench.steps --json "$out/gpu-steps.json" &&
    reached+=(profile) || troubles+=("profile: $(why $? "$work/profile.log")")
  ended profiled
fi
stage kernel-peers kernels 90 "not goskill"
stage training-peers training 600 "not (goskill and fused)"
[ "${#troubles[@]}" -eq 0 ]
