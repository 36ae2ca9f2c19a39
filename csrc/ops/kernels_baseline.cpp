// The CPU kernels for any processor.
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/kernels.hpp"

#define LANES 4
#define TILE_ROWS 4

namespace goskill::ops {
namespace baseline {
namespace {

typedef float Float __attribute__((vector_size(LANES * 4)));

inline Float multiply_add(Float a, Float b, Float c) { return a * b + c; }
inline Float square_root(Float a) {
    for (int lane = 0; lane < LANES; ++lane) a[lane] = std::sqrt(a[lane]);
    return a;
}

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
}  // namespace baseline

const Kernels baseline_kernels{LANES,
                               2 * LANES,
                               baseline::nearest_rows,
                               baseline::focal_rows,
                               baseline::straight_through_rows,
                               baseline::attention_heads,
                               baseline::add_norm_rows,
                               baseline::mask_weights,
                               baseline::sum_masked,
                               baseline::self_attention_heads,
                               baseline::self_attention_gradient_heads,
                               baseline::squares,
                               baseline::adam};

}  // namespace goskill::ops
