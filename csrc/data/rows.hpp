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

// Rows of `width` values that begin `stride` values apart.
struct Rows {
    const float* first = nullptr;
    std::int64_t stride = 0;
    std::int64_t count = 0;
    std::int64_t width = 0;
};

// Asks for a cache line ahead of its use. Without the empty statement GCC takes a function or a loop that
// only prefetches for one without effect, and drops it.
inline void prefetch_line(const void* address) {
    __builtin_prefetch(address);
    __asm__ volatile("" : : "r"(address));
}

constexpr std::int64_t cache_line = 64 / sizeof(float);  // in values

// Asks for every cache line of `count` values, at least one. The line of the last value too: the first may
// lie anywhere within its line.
inline void prefetch(const float* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += cache_line) prefetch_line(values + i);
    prefetch_line(values + count - 1);
}

// Asks for every cache line of the rows.
void prefetch(const Rows& rows);

// Copies one row where a call would take as long as the copying.
inline void copy_row(const float* source, std::int64_t width, float* target) {
    if (width < cache_line) {
        for (std::int64_t k = 0; k < width; ++k) target[k] = source[k];
        return;
    }
    // In lines, the last of which overlaps the one before.
    constexpr std::size_t line_size = cache_line * sizeof(float);
    for (std::int64_t i = 0; i < width - cache_line; i += cache_line) {
        std::memcpy(target + i, source + i, line_size);
        __asm__ volatile("" : "+r"(i));  // or GCC makes the loop one call of memcpy
    }
    std::memcpy(target + width - cache_line, source + width - cache_line, line_size);
}

// What `copy_rows` chooses from. Numbers, not `Rows`: where a struct is read in wider pieces than it was just
// written in, the read waits for every store before it, and those wait for their cache lines.
void copy_together(const float* source, std::int64_t count, const float* upcoming, std::int64_t asked,
                   float* target);
void copy_strided(const float* source, std::int64_t count, const float* upcoming, std::int64_t asked,
                  std::int64_t stride, std::int64_t width, float* target);
void normalize_strided(const float* source, std::int64_t count, const float* upcoming, std::int64_t asked,
                       std::int64_t stride, std::int64_t width, const Normalization& normalization,
                       float* target);

// Copies rows to rows that lie together, normalised on the way if a normalisation is given: (x - mean) / std
// in float32. Asks for `upcoming`, rows of the same column, row by row on the way: the processor waits for
// few lines at a time, so that asking for all of them at once would hold up the copying.
inline void copy_rows(const Rows& source, const Rows& upcoming,
                      const std::optional<Normalization>& normalization, float* target) {
    const std::int64_t stride = source.stride, width = source.width;
    if (normalization) {
        normalize_strided(source.first, source.count, upcoming.first, upcoming.count, stride, width,
                          *normalization, target);
    } else if (stride == width) {
        copy_together(source.first, source.count * width, upcoming.first, upcoming.count * width, target);
    } else {
        copy_strided(source.first, source.count, upcoming.first, upcoming.count, stride, width, target);
    }
}

inline void zero_rows(float* target, std::int64_t rows, std::int64_t width) {
    if (rows > 0) std::memset(target, 0, static_cast<std::size_t>(rows * width) * sizeof(float));
}

// Rows that lie together, normalised where they are: (x - mean) / std in float32.
void normalize(float* rows, std::int64_t count, const Normalization& normalization);

// values[i] / divisor in float32.
void divide(float* values, std::int64_t count, float divisor);

}  // namespace goskill
