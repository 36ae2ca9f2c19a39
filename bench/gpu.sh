#!/usr/bin/env bash
# goskill on one GPU, offline, within ten minutes: builds and installs it, runs the GPU tests and the GPU benchmark
# suites, prints a short table last. Needs Python with torch, triton, pybind11, scikit-build-core, cmake and pytest.
#   WHEELS  folder of wheels of what the machine lacks of: gymnasium, farama-notifications, scipy, safetensors, typer,
#           shellingham, rich, hypothesis, pytest-benchmark; and of the peers, which are skipped where they are missing:
#           vector-quantize-pytorch, torch-einops-utils, einx, frozendict, loguru; flash-kmeans (0.3.1); liger-kernel
#           (0.8.5). These two are pure Python wheels of PyPI (py3-none-any) and need nothing but torch and triton here.
#   OUT     folder that gets the rows, one gpu-SUITE.jsonl per suite, and the logs (default: bench/results)
#   PYTHON  the interpreter (default: python3)
#   LIMIT   seconds for everything (default: 570); suites that do not end in their share keep the rows they have
#   GOSKILL_COMMIT  what the rows say they measured (default: git describe)
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
out=${OUT:-$root/bench/results}
limit=${LIMIT:-570}
mkdir -p "$out" && out=$(cd "$out" && pwd)
work=$(mktemp -d)
site=$work/site
trap 'rm -rf "$work"' EXIT
GOSKILL_COMMIT=${GOSKILL_COMMIT:-$(git -C "$root" describe --always --dirty --abbrev=12 2>/dev/null)}
export GOSKILL_COMMIT

install() { "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$@"; }
if [ -n "${WHEELS:-}" ]; then
  install "$WHEELS"/*.whl || exit 1
fi
install --upgrade --no-build-isolation "$root" || exit 1
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
cd "$work" || exit 1  # so that what runs is what was installed
echo "installed after $SECONDS s"

# Only the files that have GPU tests: the others may need packages that are not here.
mapfile -t files < <(grep -rl 'mark\.gpu' "$root/tests" --include='test_*.py')
timeout --signal=INT --kill-after=10 $((limit * 3 / 10)) "$python" -m pytest -q -p no:cacheprovider \
  --continue-on-collection-errors -c "$root/pyproject.toml" --rootdir "$root" -m gpu "${files[@]}" \
  >"$out/gpu-tests.log" 2>&1
tests=$?
tail -n 30 "$out/gpu-tests.log"
echo "tested after $SECONDS s"

failed=()
mapfile -t suites < <(grep -l 'mark\.gpu' "$root"/bench/*.py | xargs -n 1 basename -s .py)
for index in "${!suites[@]}"; do
  suite=${suites[$index]}
  # What is left, less what ending takes, shared by the suites that are left.
  share=$(((limit - SECONDS - 20) / (${#suites[@]} - index)))
  "$python" -m goskill bench "$suite" --gpu --limit $((share > 1 ? share : 1)) --json "$work/$suite.jsonl" \
    >"$out/gpu-$suite.log" 2>&1 || failed+=("$suite")
  [ -f "$work/$suite.jsonl" ] && cat "$work/$suite.jsonl" >>"$out/gpu-$suite.jsonl"
done

echo
"$python" - "$work"/*.jsonl <<'PYTHON'
import json, pathlib, sys
from goskill.bench import report

rows = [json.loads(line) for name in sys.argv[1:] if pathlib.Path(name).exists() for line in open(name)]
report.print_table(rows)
PYTHON
echo "GPU tests: $(tail -n 1 "$out/gpu-tests.log")"
for suite in "${failed[@]}"; do
  echo "benchmark suite $suite failed: $(tail -n 1 "$out/gpu-$suite.log")"
done
[ "$tests" -eq 0 ] && [ "${#failed[@]}" -eq 0 ]
