#include "data/rows.hpp"

// The same loop for each width of vector registers, chosen when the library is loaded, which takes glibc.
// Sanitizers cannot run that early.
#if defined(__x86_64__) && defined(__GNUC__) && defined(__GLIBC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define GOSKILL_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define GOSKILL_VECTOR_CLONES
#endif

namespace goskill {
namespace {

constexpr std::int64_t block = cache_line;
constexpr std::size_t block_size = block * sizeof(float);

// Asks for `asked` values on the way. In blocks of known size, the last of which overlaps the one before: a
// call of memcpy takes longer than copying a row.
inline void copy_row(const float* source, std::int64_t width, const float* upcoming, std::int64_t asked,
                     float* target) {
    std::int64_t i = 0;
    if (width < block) {
        for (std::int64_t k = 0; k < width; ++k) target[k] = source[k];
    } else {
        for (; i < width - block; i += block) {
            if (i < asked) prefetch_line(upcoming + i);
            std::memcpy(target + i, source + i, block_size);
            __asm__ volatile("" : : : "memory");  // or GCC makes the loop one call of memcpy
        }
        std::memcpy(target + width - block, source + width - block, block_size);
    }
    if (i < asked) prefetch(upcoming + i, asked - i);
}

}  // namespace

void prefetch(const Rows& rows) {
    if (rows.count == 0) return;
    if (rows.stride < cache_line || rows.stride == rows.width) {
        prefetch(rows.first, (rows.count - 1) * rows.stride + rows.width);
        return;
    }
    for (std::int64_t row = 0; row < rows.count; ++row) {
        prefetch(rows.first + row * rows.stride, rows.width);
    }
}

GOSKILL_VECTOR_CLONES
void copy_together(const float* source, std::int64_t count, const float* upcoming, std::int64_t asked,
                   float* __restrict target) {
    copy_row(source, count, upcoming, asked, target);
}

GOSKILL_VECTOR_CLONES
void copy_strided(const float* source, std::int64_t count, const float* upcoming, std::int64_t asked,
                  std::int64_t stride, std::int64_t width, float* __restrict target) {
    for (std::int64_t row = 0; row < count; ++row, source += stride, target += width) {
        const bool more = row < asked;
        copy_row(source, width, upcoming, more ? width : 0, target);
        if (more) upcoming += stride;
    }
    for (std::int64_t row = count; row < asked; ++row, upcoming += stride) prefetch(upcoming, width);
}

GOSKILL_VECTOR_CLONES
void normalize_strided(const float* source, std::int64_t count, const float* upcoming, std::int64_t asked,
                       std::int64_t stride, std::int64_t width, const Normalization& normalization,
                       float* __restrict target) {
    const float* const mean = normalization.mean.data();
    const float* const std = normalization.std.data();
    for (std::int64_t row = 0; row < count; ++row, source += stride, target += width) {
        if (row < asked) prefetch(upcoming + row * stride, width);
        for (std::int64_t i = 0; i < width; ++i) target[i] = (source[i] - mean[i]) / std[i];
    }
    for (std::int64_t row = count; row < asked; ++row) prefetch(upcoming + row * stride, width);
}

GOSKILL_VECTOR_CLONES
void normalize(float* rows, std::int64_t count, const Normalization& normalization) {
    const float* const __restrict mean = normalization.mean.data();
    const float* const __restrict std = normalization.std.data();
    const auto width = static_cast<std::int64_t>(normalization.mean.size());
    for (std::int64_t row = 0; row < count; ++row, rows += width) {
        for (std::int64_t i = 0; i < width; ++i) rows[i] = (rows[i] - mean[i]) / std[i];
    }
}

GOSKILL_VECTOR_CLONES
void divide(float* values, std::int64_t count, float divisor) {
    for (std::int64_t i = 0; i < count; ++i) values[i] /= divisor;
}

}  // namespace goskill
