#!/usr/bin/env bash
# The native reader and samplers under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and fuzzed:
# by libFuzzer where clang has it, by the driver's own coverage-guided mutations otherwise. The operations under the
# first two, for each instruction set that runs here.
set -euo pipefail
cd "$(dirname "$0")/../.."
CXX=${CXX:-g++}
RUNS=${RUNS:-5000}
build=${BUILD:-build/sanitize}
mkdir -p "$build"
reader=(csrc/parallel.cpp $(find csrc/data -name '*.cpp' ! -name 'register_*'))
operations=(csrc/parallel.cpp $(find csrc/ops -name '*.cpp' ! -name 'register_*'))
# GCC's own intrinsics begin from variables without a value.
flags=(-std=c++17 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -Wall -Wextra -Wno-maybe-uninitialized -Wno-uninitialized -Icsrc -Itests/csrc -pthread)

compile() {  # compile OUTPUT DRIVER SOURCES FLAG..., all sources at the same time
    local output=$1 driver=$2 coverage=${coverage:-} objects=() compilers=()
    local -n sources=$3
    shift 3
    for source in "${sources[@]}"; do
        objects+=("$output.$(basename "$source").o")
        $CXX "${flags[@]}" "$@" $coverage -c "$source" -o "${objects[-1]}" &
        compilers+=($!)
    done
    for compiler in "${compilers[@]}"; do
        wait "$compiler" || return 1
    done
    $CXX "${flags[@]}" "$@" "tests/csrc/$driver.cpp" "${objects[@]}" -o "$output"
}

address=(-fsanitize=address,undefined -fno-sanitize-recover=all)
compile "$build/stress-address" stress_threads reader "${address[@]}"
"$build/stress-address" without-fork
# GCC's AddressSanitizer may be forked with its allocator locked, and then waits forever.
compile "$build/stress-fork" stress_threads reader -fsanitize=undefined -fno-sanitize-recover=all
"$build/stress-fork"
compile "$build/stress-thread" stress_threads reader -fsanitize=thread
TSAN_OPTIONS=halt_on_error=1 "$build/stress-thread" without-fork
compile "$build/operations" stress_operations operations "${address[@]}"
"$build/operations"
for instructions in baseline avx2; do
    if [ "$instructions" = baseline ] || grep -qw "$instructions" /proc/cpuinfo; then
        GOSKILL_CPU=$instructions "$build/operations"
    fi
done
coverage=-fsanitize-coverage=trace-pc compile "$build/fuzz" fuzz_reader reader "${address[@]}"
"$build/fuzz" "$RUNS"
if command -v clang++ > /dev/null && CXX=clang++ compile "$build/libfuzzer" fuzz_reader reader -DGOSKILL_LIBFUZZER \
    -fsanitize=fuzzer,address,undefined 2> "$build/libfuzzer.log"; then
    "$build/libfuzzer" -runs="$RUNS" -max_len=8192 -seed=1 -verbosity=0
fi
