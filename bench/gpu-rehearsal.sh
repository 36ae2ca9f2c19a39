#!/usr/bin/env bash
# Runs the CUDA code where there is no GPU, under a library that stands in for CUDA: bench/gpu-rehearsal.sh [train|steps|gpu]...
# Every method trains in every way, is interrupted and resumed, and acts ("train"); what steps of the paper's size move and
# launch is held to bounds ("steps"); bench/gpu.sh runs ("gpu"). The library computes nothing, counts kernels, and
# reports what CUDA would not allow on lines that begin with [fakecuda]: any of them fails the rehearsal.
# docs/gpu-training.md says more.
#   STANDIN  the library, built as libcuda.so.1 (required)
#   PYTHON   an interpreter with a CUDA build of torch, triton, goskill's dependencies and the native core in reach
#            (required); PYTHONPATH is kept
#   OUT      folder for logs (default: a new one)
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
: "${STANDIN:?the library that stands in for CUDA, built as libcuda.so.1}"
: "${PYTHON:?an interpreter with a CUDA build of torch}"
standin=$(realpath "$STANDIN") python=$PYTHON
out=${OUT:-$(mktemp -d)}
mkdir -p "$out" && out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

# Only Python runs under it: other programs need no CUDA. Copies are made, so that what only is copied has its values.
cat >"$work/python" <<WRAPPER
#!/usr/bin/env bash
FAKE_COPY=1 LD_PRELOAD=$standin LD_LIBRARY_PATH=$(dirname "$standin") TRITON_LIBCUDA_PATH=$(dirname "$standin") exec $python "\$@"
WRAPPER
chmod +x "$work/python"

# report NAME STATUS LOG...: whether a part ended well and nothing was reported.
report() {
  local complaints
  complaints=$(grep -h '^\[fakecuda\]' "${@:3}" | grep -v ' graph [0-9]*: ' | sort | uniq -c)
  if [ "$2" -eq 0 ] && [ -z "$complaints" ]; then
    echo "$1: passed"
  else
    echo "$1: failed with status $2, see ${*:3}"
    echo "$complaints"
    status=1
  fi
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(train steps gpu)
for part in "${parts[@]}"; do
  case $part in
    train | steps)
      FAKE_DEVICES=2 "$work/python" -m goskill.bench.rehearsal "$work" "$part" >"$out/$part.log" 2>"$out/$part.err"
      report "$part" $? "$out/$part.err"
      ;;
    gpu)
      # Nothing is computed: benchmarks may not compare, and tests of values fail. That they launch is what counts.
      PYTHON=$work/python OUT=$out/gpu LIMIT=3000 TESTS=1 GOSKILL_COMMIT=rehearsal \
        PYTEST_PLUGINS=goskill.bench.rehearsal bash "$root/bench/gpu.sh" >"$out/gpu.log" 2>&1
      grep -q 'not reached or not ended: \(nothing\|tests\)$' "$out/gpu.log"
      report "$part" $? "$out/gpu.log" "$out"/gpu/*.log
      ;;
    *)
      echo "usage: STANDIN=LIBRARY PYTHON=INTERPRETER bench/gpu-rehearsal.sh [train|steps|gpu]..." >&2
      exit 2
      ;;
  esac
done
exit $status
