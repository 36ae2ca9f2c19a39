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

inline Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
inline Float square_root(Float a) { return _mm256_sqrt_ps(a); }

// clang-format off: the vectors come first
#include "ops/vectors.inl"
#include "ops/focal_loss.inl"
#include "ops/nearest_code.inl"
#include "ops/decoding.inl"
#include "ops/masking.inl"
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
                           avx2::squares,
                           avx2::adam};

}  // namespace goskill::ops

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
