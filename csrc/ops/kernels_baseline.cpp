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
typedef std::int32_t Int __attribute__((vector_size(LANES * 4)));

inline Float multiply_add(Float a, Float b, Float c) { return a * b + c; }
inline Float square_root(Float a) {
    for (int lane = 0; lane < LANES; ++lane) a[lane] = std::sqrt(a[lane]);
    return a;
}

// LANES integers of 8 or 16 bits, with their signs; and the lower 16 bits of each back.
inline Int load_bytes(const void* from) {
    Int value;
    for (int lane = 0; lane < LANES; ++lane) value[lane] = static_cast<const std::int8_t*>(from)[lane];
    return value;
}
inline Int load_shorts(const void* from) {
    std::int16_t lanes[LANES];
    __builtin_memcpy(lanes, from, sizeof(lanes));
    return Int{lanes[0], lanes[1], lanes[2], lanes[3]};
}
inline void store_shorts(void* to, Int value) {
    std::int16_t lanes[LANES];
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = static_cast<std::int16_t>(value[lane]);
    __builtin_memcpy(to, lanes, sizeof(lanes));
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
                               baseline::random_words,
                               baseline::dropped_sum_rows,
                               baseline::dropped_sum_gradient_rows,
                               baseline::bias_relu_rows,
                               baseline::bias_relu_gradient_rows,
                               baseline::squares,
                               baseline::adam};

}  // namespace goskill::ops
