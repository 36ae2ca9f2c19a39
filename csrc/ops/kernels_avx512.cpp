// The CPU kernels for AVX-512.
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>

#include "ops/kernels.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#endif

#define LANES 16
#define TILE_ROWS 8

namespace goskill::ops {
namespace avx512 {
namespace {

typedef float Float __attribute__((vector_size(LANES * 4)));
typedef std::int32_t Int __attribute__((vector_size(LANES * 4)));

inline Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
inline Float square_root(Float a) { return _mm512_sqrt_ps(a); }

// LANES integers of 8 or 16 bits, with their signs; and the lower 16 bits of each back. GCC takes these apart
// when it converts vectors by itself.
inline Int load_bytes(const void* from) {
    return reinterpret_cast<Int>(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from))));
}
inline Int load_shorts(const void* from) {
    return reinterpret_cast<Int>(
        _mm512_cvtepi16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(from))));
}
inline void store_shorts(void* to, Int value) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(value)));
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
}  // namespace avx512

const Kernels avx512_kernels{LANES,
                             2 * LANES,
                             avx512::nearest_rows,
                             avx512::focal_rows,
                             avx512::straight_through_rows,
                             avx512::attention_heads,
                             avx512::add_norm_rows,
                             avx512::mask_weights,
                             avx512::sum_masked,
                             avx512::self_attention_heads,
                             avx512::self_attention_gradient_heads,
                             avx512::random_words,
                             avx512::dropped_sum_rows,
                             avx512::dropped_sum_gradient_rows,
                             avx512::bias_relu_rows,
                             avx512::bias_relu_gradient_rows,
                             avx512::squares,
                             avx512::adam};

}  // namespace goskill::ops

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
