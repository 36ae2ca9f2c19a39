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

constexpr std::int64_t block = 16;
constexpr std::size_t block_size = block * sizeof(float);

GOSKILL_VECTOR_CLONES
void normalize_strided(const float* source, std::int64_t stride, std::int64_t rows, std::int64_t width,
                       const float* mean, const float* std, float* __restrict target) {
    for (std::int64_t row = 0; row < rows; ++row, source += stride, target += width) {
        for (std::int64_t i = 0; i < width; ++i) target[i] = (source[i] - mean[i]) / std[i];
    }
}

// In blocks of known size, the last of which overlaps the one before: a call of memcpy takes longer than
// copying a row. Rows must be at least one block wide.
GOSKILL_VECTOR_CLONES
void copy_strided(const float* source, std::int64_t stride, std::int64_t rows, std::int64_t width,
                  float* __restrict target) {
    for (std::int64_t row = 0; row < rows; ++row, source += stride, target += width) {
        for (std::int64_t i = 0; i < width - block; i += block) {
            std::memcpy(target + i, source + i, block_size);
            __asm__ volatile("" : : : "memory");  // or GCC makes the loop one call of memcpy
        }
        std::memcpy(target + width - block, source + width - block, block_size);
    }
}

}  // namespace

void copy_observations(const float* source, std::int64_t stride, std::int64_t rows, std::int64_t width,
                       const std::optional<Normalization>& normalization, float* target) {
    if (normalization) {
        normalize_strided(source, stride, rows, width, normalization->mean.data(), normalization->std.data(),
                          target);
    } else if (stride == width) {
        copy_rows(source, rows, width, target);
    } else if (width >= block) {
        copy_strided(source, stride, rows, width, target);
    } else {
        for (std::int64_t row = 0; row < rows; ++row) {
            copy_rows(source + row * stride, 1, width, target + row * width);
        }
    }
}

GOSKILL_VECTOR_CLONES
void divide(float* values, std::int64_t count, float divisor) {
    for (std::int64_t i = 0; i < count; ++i) values[i] /= divisor;
}

}  // namespace goskill
