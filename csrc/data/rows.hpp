// Copying rows out of columns: what both samplers do most of the time.
#pragma once

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

// Asks for the cache lines of [address, address + bytes) ahead of their use.
inline void prefetch(const void* address, std::size_t bytes) {
    const char* line = static_cast<const char*>(address);
    for (const char* end = line + bytes; line < end; line += 64) __builtin_prefetch(line);
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

}  // namespace goskill
