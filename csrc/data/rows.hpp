// Copying rows out of columns: what both samplers do most of the time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace goskill {

struct Normalization {
    std::vector<float> mean;  // [observation_dim]
    std::vector<float> std;   // [observation_dim]
};

// Asks for a cache line ahead of its use. Without the empty statement GCC takes a function or a loop that
// only prefetches for one without effect, and drops it.
inline void prefetch_line(const void* address) {
    __builtin_prefetch(address);
    __asm__ volatile("" : : "r"(address));
}

// Asks for every cache line of `count` values, at least one. As many requests wherever the first line begins:
// a loop that depended on it would be mispredicted until the address is known, which takes a cache miss. Up
// to 48 values take no loop, which counts where there are thousands of rows.
inline void prefetch(const float* values, std::int64_t count) {
    const char* const first = reinterpret_cast<const char*>(values);
    const std::int64_t last = count * std::int64_t{sizeof(float)} - 1;
    prefetch_line(first);
    prefetch_line(first + std::min<std::int64_t>(64, last));
    prefetch_line(first + std::min<std::int64_t>(128, last));
    for (std::int64_t offset = 192; offset < last; offset += 64) prefetch_line(first + offset);
    prefetch_line(first + last);
}

inline void copy_rows(const float* source, std::int64_t rows, std::int64_t width, float* target) {
    std::memcpy(target, source, static_cast<std::size_t>(rows * width) * sizeof(float));
}

inline void zero_rows(float* target, std::int64_t rows, std::int64_t width) {
    if (rows > 0) std::memset(target, 0, static_cast<std::size_t>(rows * width) * sizeof(float));
}

// Copies `rows` rows of `width` that lie `stride` apart, normalised on the way if a normalisation is given:
// (x - mean) / std in float32.
void copy_observations(const float* source, std::int64_t stride, std::int64_t rows, std::int64_t width,
                       const std::optional<Normalization>& normalization, float* target);

// values[i] / divisor in float32.
void divide(float* values, std::int64_t count, float divisor);

}  // namespace goskill
