#!/usr/bin/env bash
# The sdist builds, a wheel built from it imports, and so does an editable install, kernels included.
# PYTHON is an interpreter that has the dependencies and `build`.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site_packages='import sysconfig; print(sysconfig.get_path("purelib"))'
packages=$("$python" -c "$site_packages")

cd "$work"
"$python" -m build --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }

# An environment that sees the dependencies of the first, but not its goskill.
fresh() {
    "$python" -m venv "$work/$1"
    mkdir "$work/$1-dependencies"
    for entry in "$packages"/*; do
        case $(basename "$entry") in
        goskill* | _goskill* | pip | pip-*) ;;
        *) ln -s "$entry" "$work/$1-dependencies/" ;;
        esac
    done
    echo "$work/$1-dependencies" >"$("$work/$1/bin/python" -c "$site_packages")/dependencies.pth"
}
check='
import pathlib
import goskill, goskill._core, goskill.bench, goskill.kernels
assert (pathlib.Path(goskill.__file__).parent / "py.typed").exists()
print("imports:", goskill.__file__)'

fresh wheel
"$work/wheel/bin/python" -m pip install -q --no-deps "$work"/dist/*.whl
"$work/wheel/bin/python" -c "$check"

fresh editable
"$work/editable/bin/python" -m pip install -q --no-deps -e "$root"
"$work/editable/bin/python" -c "$check"
