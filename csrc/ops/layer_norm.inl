// LayerNorm of rows. Included inside a namespace of one instruction set, after vectors.inl.

struct LayerNorm {
    const float* weight;
    const float* bias;
    float epsilon;
    std::int64_t width;  // a multiple of LANES
};

struct Moments {
    float mean, scale;  // scale: one over the standard deviation
};

inline Moments moments_of(const LayerNorm& norm, const float* row) {
    const std::int64_t W = norm.width;
    Float total{};
    for (std::int64_t i = 0; i < W; i += LANES) total += load(row + i);
    const float mean = sum(total) / static_cast<float>(W);
    Float squares{};
    for (std::int64_t i = 0; i < W; i += LANES) {
        const Float centred = load(row + i) - mean;
        squares = multiply_add(centred, centred, squares);
    }
    return {mean, 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(W) + norm.epsilon)};
}

// Floats [count] to `out`, from its element `first` on, in its type.
inline void write_floats(const float* from, std::int64_t count, Dtype dtype, void* out, std::int64_t first) {
    if (dtype == Dtype::float32) {
        __builtin_memcpy(static_cast<float*>(out) + first, from, static_cast<std::size_t>(count) * 4);
    } else {
        narrow(from, count, dtype, static_cast<std::uint16_t*>(out) + first);
    }
}

inline void write_normal(const LayerNorm& norm, const float* row, Moments moments, Dtype dtype, float* buffer,
                         void* out, std::int64_t first) {
    for (std::int64_t i = 0; i < norm.width; ++i)
        buffer[i] = (row[i] - moments.mean) * moments.scale * norm.weight[i] + norm.bias[i];
    write_floats(buffer, norm.width, dtype, out, first);
}
