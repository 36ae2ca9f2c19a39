"""What the benchmarks run goskill beside, where no package offers it."""
