#!/usr/bin/env bash
# goskill on one GPU, offline: builds and installs it, runs the GPU tests and the GPU benchmark suites, prints a
# short table last. Needs Python with torch, triton, pybind11, scikit-build-core, cmake and pytest.
#   WHEELS  folder of wheels of what else the machine lacks (safetensors, typer, rich, pytest-benchmark, …)
#   OUT     folder that gets the rows, one gpu-SUITE.jsonl per suite, and the logs (default: bench/results)
#   PYTHON  the interpreter (default: python3)
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
out=${OUT:-$root/bench/results}
mkdir -p "$out" && out=$(cd "$out" && pwd)
work=$(mktemp -d)
site=$work/site
trap 'rm -rf "$work"' EXIT

install() { "$python" -m pip install -q --no-index --no-deps --target "$site" "$@"; }
if [ -n "${WHEELS:-}" ]; then
  install "$WHEELS"/*.whl || exit 1
fi
install --no-build-isolation "$root" || exit 1
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
cd "$work" || exit 1  # so that what runs is what was installed

timeout 240 "$python" -m pytest -q -p no:cacheprovider --continue-on-collection-errors -c "$root/pyproject.toml" \
  --rootdir "$root" -m gpu "$root/tests" >"$out/gpu-tests.log" 2>&1
tests=$?
tail -n 30 "$out/gpu-tests.log"

failed=()
suites=$(grep -l 'mark\.gpu' "$root"/bench/*.py | xargs -n 1 basename -s .py)
for suite in $suites; do
  timeout 180 "$python" -m goskill bench "$suite" --gpu --json "$work/$suite.jsonl" \
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
