// The goal encoder for AVX-512 with products of 8-bit and 16-bit integers; all else there is AVX-512's.
#include <cstdint>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>

#include "ops/encoder.hpp"
#include "ops/kernels.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#endif

#define LANES 16
#define ENCODER_ROWS 6
#define ENCODER_VECTORS 4
#define ENCODER_INTEGERS

namespace goskill::ops {
namespace avx512vnni {
namespace {

typedef float Float __attribute__((vector_size(LANES * 4)));

inline Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }

// clang-format off: the vectors come first
#include "ops/vectors.inl"
// clang-format on

// As `greater`, for which GCC takes a comparison and a blend.
inline Float larger(Float a, Float b) { return _mm512_max_ps(a, b); }

inline Int larger(Int a, Int b) { return (Int)_mm512_max_epi32((__m512i)a, (__m512i)b); }

inline Int load_int(const void* from) { return (Int)_mm512_loadu_si512(from); }

// Four bytes or two 16-bit numbers in every lane.
inline Int splat_int(const void* from) {
    std::int32_t bits;
    __builtin_memcpy(&bits, from, sizeof(bits));
    return (Int)_mm512_set1_epi32(bits);
}

template <typename Weight>
using Input = std::conditional_t<sizeof(Weight) == 1, std::uint8_t, std::int16_t>;

// Sums of four products of unsigned with signed bytes in each lane, or of two products of 16 bits.
inline Int dot_product(std::int8_t, Int inputs, Int weights, Int sum) {
    return (Int)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)inputs, (__m512i)weights);
}

inline Int dot_product(std::int16_t, Int inputs, Int weights, Int sum) {
    return (Int)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)inputs, (__m512i)weights);
}

inline void store_integers(Float values, std::uint8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(values)));
}

inline void store_integers(Float values, std::int16_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(values)));
}

#include "ops/encoder.inl"

}  // namespace
}  // namespace avx512vnni

const EncoderKernels avx512vnni_encoder{LANES, avx512vnni::encoder_panel, avx512vnni::encode_rows, true};

}  // namespace goskill::ops

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
