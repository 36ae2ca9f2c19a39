// Vectors of LANES floats for the instruction set of the including file, which defines LANES, multiply_add
// and its like. Included inside a namespace of that instruction set.

// Before a loop over an array of accumulators: unrolled late, GCC leaves the array in memory, at half the
// speed. Clang unrolls early enough.
#undef UNROLLED
#if defined(__clang__)
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

typedef std::uint32_t Words __attribute__((vector_size(LANES * 4)));

inline std::int64_t whole_vectors(std::int64_t count) { return rounded_up(count, LANES); }

// Minus zero, which compilers leave out; plus zero would turn -0 into 0.
inline Float splat(float value) { return value - Float{}; }

inline Float load(const float* from) {
    Float value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
}

inline void store(float* to, Float value) { __builtin_memcpy(to, &value, sizeof(value)); }

// The first `count` floats; the other lanes are `fill`.
inline Float load_first(const float* from, std::int64_t count, float fill) {
    if (count >= LANES) return load(from);
    float lanes[LANES];
    for (int i = 0; i < LANES; ++i) lanes[i] = i < count ? from[i] : fill;
    return load(lanes);
}

inline void store_first(float* to, Float value, std::int64_t count) {
    if (count >= LANES) return store(to, value);
    for (int i = 0; i < LANES; ++i) {
        if (i < count) to[i] = value[i];
    }
}

inline Float greater(Float a, Float b) { return a > b ? a : b; }

// Lane i of the result is lane i ^ WIDTH.
template <int WIDTH, typename Vector>
inline Vector exchanged(Vector value) {
#if defined(__clang__)
    Vector result;
    for (int lane = 0; lane < LANES; ++lane) result[lane] = value[lane ^ WIDTH];
    return result;
#else
    Int order;
    for (int lane = 0; lane < LANES; ++lane) order[lane] = lane ^ WIDTH;
    return __builtin_shuffle(value, order);
#endif
}

// Combines all lanes by a commutative operation.
template <typename Vector, typename Operation>
inline Vector across(Vector value, Operation operation) {
    if constexpr (LANES > 8) value = operation(value, exchanged<8>(value));
    if constexpr (LANES > 4) value = operation(value, exchanged<4>(value));
    value = operation(value, exchanged<2>(value));
    return operation(value, exchanged<1>(value));
}

// No lambdas here: GCC does not give them the instruction set of the functions around them.
inline Float plus(Float a, Float b) { return a + b; }

inline Int lesser(Int a, Int b) { return a < b ? a : b; }

inline float sum(Float value) { return across(value, plus)[0]; }

inline float greatest(Float value) { return across(value, greater)[0]; }

inline Float as_float(Int bits) { return reinterpret_cast<Float>(bits); }
inline Int as_int(Float value) { return reinterpret_cast<Int>(value); }

// e^x for x <= 0 to about 1 ulp; 0 below the smallest normal number; NaN stays.
inline Float exp_nonpositive(Float x) {
    const Float rounder = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Float n = (multiply_add(x, splat(1.44269504088896341f), rounder)) - rounder;
    Float r = multiply_add(n, splat(-0.693359375f), x);
    r = multiply_add(n, splat(2.12194440e-4f), r);
    Float p = splat(1.9875691500e-4f);
    p = multiply_add(p, r, splat(1.3981999507e-3f));
    p = multiply_add(p, r, splat(8.3334519073e-3f));
    p = multiply_add(p, r, splat(4.1665795894e-2f));
    p = multiply_add(p, r, splat(1.6666665459e-1f));
    p = multiply_add(p, r, splat(5.0000001201e-1f));
    p = multiply_add(p * r, r, r) + 1.0f;
    const Float bounded = n > splat(-126.0f) ? n : splat(-126.0f);
    const Float scale = as_float((__builtin_convertvector(bounded, Int) + 127) << 23);
    const Float result = p * scale;
    return x < splat(-87.33654f) ? Float{} : result;
}

// Natural logarithm of positive normal numbers to about 1 ulp, also near 1; NaN stays.
inline Float log_positive(Float x) {
    const Int bits = as_int(x);
    // Mantissa in [sqrt(1/2), sqrt(2)).
    const Int shifted = bits - 0x3f3504f3;
    const Int exponent = shifted >> 23;
    const Float f = as_float((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
    Float p = splat(7.0376836292e-2f);
    p = multiply_add(p, f, splat(-1.1514610310e-1f));
    p = multiply_add(p, f, splat(1.1676998740e-1f));
    p = multiply_add(p, f, splat(-1.2420140846e-1f));
    p = multiply_add(p, f, splat(1.4249322787e-1f));
    p = multiply_add(p, f, splat(-1.6668057665e-1f));
    p = multiply_add(p, f, splat(2.0000714765e-1f));
    p = multiply_add(p, f, splat(-2.4999993993e-1f));
    p = multiply_add(p, f, splat(3.3333331174e-1f));
    const Float square = f * f;
    const Float e = __builtin_convertvector(exponent, Float);
    Float tail = p * f * square;
    tail = multiply_add(e, splat(-2.12194440e-4f), tail);
    tail = multiply_add(square, splat(-0.5f), tail);
    const Float result = multiply_add(e, splat(0.693359375f), f + tail);
    return x == x ? result : x;
}

// 1 - e^x for x <= 0 without cancellation near 0.
inline Float one_minus_exp(Float x) {
    Float p = splat(1.0f / 40320.0f);
    p = multiply_add(p, x, splat(1.0f / 5040.0f));
    p = multiply_add(p, x, splat(1.0f / 720.0f));
    p = multiply_add(p, x, splat(1.0f / 120.0f));
    p = multiply_add(p, x, splat(1.0f / 24.0f));
    p = multiply_add(p, x, splat(1.0f / 6.0f));
    p = multiply_add(p, x, splat(0.5f));
    p = multiply_add(p, x, splat(1.0f));
    return x > splat(-0.5f) ? -(p * x) : 1.0f - exp_nonpositive(x);
}

// base^exponent for base in [0, 1] and exponent >= 0; 0^0 is 1; NaN stays unless the exponent is 0.
inline Float power(Float base, float exponent) {
    if (exponent == 2.0f) return base * base;
    if (exponent == 1.0f) return base;
    if (exponent == 0.0f) return splat(1.0f);
    const Float tiny = splat(1.17549435e-38f);
    const Float result = exp_nonpositive(log_positive(greater(tiny, base)) * exponent);
    return base < tiny ? Float{} : result;
}

inline float bfloat16_to_float(std::uint16_t bits) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof(value));
    return value;
}

inline float float16_to_float(std::uint16_t bits) {
    std::uint32_t wide = static_cast<std::uint32_t>(bits & 0x7fff) << 13;
    float value;
    __builtin_memcpy(&value, &wide, sizeof(value));
    value *= 5.192296858534828e33f;  // 2^112 moves the exponent's bias, also of subnormal numbers
    __builtin_memcpy(&wide, &value, sizeof(value));
    if ((bits & 0x7c00) == 0x7c00) wide |= 0x7f800000;
    wide |= static_cast<std::uint32_t>(bits & 0x8000) << 16;
    __builtin_memcpy(&value, &wide, sizeof(value));
    return value;
}

inline std::uint16_t float_to_bfloat16(float value) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The same in the lower 16 bits of each lane.
inline Int to_bfloat16(Float value) {
    const Words bits = reinterpret_cast<Words>(value);
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
    return reinterpret_cast<Int>(value == value ? rounded : quiet);
}

inline std::uint16_t float_to_float16(float value) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    const std::uint32_t sign = (bits >> 16) & 0x8000;
    bits &= 0x7fffffff;
    std::uint32_t half;
    if (bits > 0x7f800000) {
        half = 0x7e00;
    } else if (bits >= 0x477ff000) {
        half = 0x7c00;  // rounds beyond 65504
    } else if (bits < 0x38800000) {
        // Adding 0.5 lets the hardware round to the spacing of subnormal halves, 2^-24.
        float magnitude;
        __builtin_memcpy(&magnitude, &bits, sizeof(bits));
        magnitude += 0.5f;
        __builtin_memcpy(&half, &magnitude, sizeof(half));
        half -= 0x3f000000;
    } else {
        half = (bits - 0x38000000 + 0x0fff + ((bits >> 13) & 1)) >> 13;
    }
    return static_cast<std::uint16_t>(half | sign);
}

// `count` elements from `first`, `stride` apart, as floats.
inline void widen(const void* data, Dtype dtype, std::int64_t first, std::int64_t stride, std::int64_t count,
                  float* out) {
    if (dtype == Dtype::float32) {
        const float* from = static_cast<const float*>(data) + first;
        for (std::int64_t i = 0; i < count; ++i) out[i] = from[i * stride];
        return;
    }
    const std::uint16_t* from = static_cast<const std::uint16_t*>(data) + first;
    if (dtype == Dtype::bfloat16 && stride == 1) {
        std::int64_t i = 0;
        for (; i + LANES <= count; i += LANES) store(out + i, as_float(load_shorts(from + i) << 16));
        for (; i < count; ++i) out[i] = bfloat16_to_float(from[i]);
    } else if (dtype == Dtype::bfloat16) {
        for (std::int64_t i = 0; i < count; ++i) out[i] = bfloat16_to_float(from[i * stride]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) out[i] = float16_to_float(from[i * stride]);
    }
}

inline void narrow(const float* from, std::int64_t count, Dtype dtype, std::uint16_t* out) {
    if (dtype == Dtype::bfloat16) {
        std::int64_t i = 0;
        for (; i + LANES <= count; i += LANES) store_shorts(out + i, to_bfloat16(load(from + i)));
        for (; i < count; ++i) out[i] = float_to_bfloat16(from[i]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) out[i] = float_to_float16(from[i]);
    }
}
