// The CPU kernels for AVX2.
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>

#include "ops/kernels.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define LANES 8
#define TILE_ROWS 6

namespace goskill::ops {
namespace avx2 {
namespace {

typedef float Float __attribute__((vector_size(LANES * 4)));
typedef std::int32_t Int __attribute__((vector_size(LANES * 4)));

inline Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
inline Float square_root(Float a) { return _mm256_sqrt_ps(a); }

// LANES integers of 8 or 16 bits, with their signs; and the lower 16 bits of each back. GCC takes these apart
// when it converts vectors by itself.
inline Int load_bytes(const void* from) {
    return reinterpret_cast<Int>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(from))));
}
inline Int load_shorts(const void* from) {
    return reinterpret_cast<Int>(_mm256_cvtepi16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from))));
}
inline void store_shorts(void* to, Int value) {
    const __m256i lower = _mm256_and_si256(reinterpret_cast<__m256i>(value), _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_packus_epi32(lower, lower);  // within halves of the vector
    const __m256i joined = _mm256_permute4x64_epi64(packed, 0x08);
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm256_castsi256_si128(joined));
}

// clang-format off: the vectors come first
#include "ops/vectors.inl"
#include "ops/focal_loss.inl"
#include "ops/nearest_code.inl"
#include "ops/layer_norm.inl"
#include "ops/decoding.inl"
#include "ops/masking.inl"
#include "ops/random.inl"
#include "ops/residual.inl"
#include "ops/self_attention.inl"
#include "ops/adam.inl"
// clang-format on

}  // namespace
}  // namespace avx2

const Kernels avx2_kernels{LANES,
                           2 * LANES,
                           avx2::nearest_rows,
                           avx2::focal_rows,
                           avx2::straight_through_rows,
                           avx2::attention_heads,
                           avx2::add_norm_rows,
                           avx2::mask_weights,
                           avx2::sum_masked,
                           avx2::self_attention_heads,
                           avx2::self_attention_gradient_heads,
                           avx2::random_words,
                           avx2::dropped_sum_rows,
                           avx2::dropped_sum_gradient_rows,
                           avx2::bias_relu_rows,
                           avx2::bias_relu_gradient_rows,
                           avx2::squares,
                           avx2::adam};

}  // namespace goskill::ops

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
