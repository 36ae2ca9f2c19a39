// What a transformer in training does between its products: biases, dropout, residual sums, LayerNorm, ReLU.
// Included inside a namespace of one instruction set, after layer_norm.inl.

// Of LANES elements all bits of those that dropout keeps.
template <typename Dropout>
inline Int kept_by(const Dropout& task, const std::int16_t* random) {
    return load_shorts(random) >= static_cast<std::int32_t>(task.least_kept);
}

// Their factors: 0 for those that are dropped.
inline Float kept_factor(const DroppedSum& task, const std::int16_t* random) {
    return as_float(kept_by(task, random) & as_int(splat(task.kept_scale)));
}

inline void add_to(float* sums, Float value) { store(sums, load(sums) + value); }

inline void dropped_sum_rows(const DroppedSum& task, float* total, void* normal, std::int64_t begin,
                             std::int64_t end) {
    const std::int64_t W = task.width;
    const LayerNorm norm{task.weight, task.bias, task.epsilon, W};
    std::vector<float> memory(static_cast<std::size_t>(W));
    float* buffer = memory.data();
    for (std::int64_t at = begin * W; at < end * W; at += W) {
        widen(task.branch, task.dtype, at, 1, W, buffer);
        for (std::int64_t i = 0; i < W; i += LANES) {
            const Float branch = load(buffer + i) + load(task.branch_bias + i);
            const Float factor = kept_factor(task, task.random + at + i);
            store(total + at + i, multiply_add(branch, factor, load(task.residual + at + i)));
        }
        write_normal(norm, total + at, moments_of(norm, total + at), task.dtype, buffer, normal, at);
    }
}

// `sums` [3, width]: the gradients by the norm's weight and bias, and by the branch's bias, are added to it.
inline void dropped_sum_gradient_rows(const DroppedSum& task, const DroppedSumGradient& gradient, float* sums,
                                      std::int64_t begin, std::int64_t end) {
    const std::int64_t W = task.width;
    const LayerNorm norm{task.weight, task.bias, task.epsilon, W};
    const float share = 1.0f / static_cast<float>(W);
    std::vector<float> memory(static_cast<std::size_t>(2 * W));
    float *outer = memory.data(), *normal = outer + W;
    for (std::int64_t at = begin * W; at < end * W; at += W) {
        const float* total = gradient.total + at;
        const Moments moments = moments_of(norm, total);
        widen(gradient.by_normal, task.dtype, at, 1, W, outer);
        Float plain{}, along{};
        for (std::int64_t i = 0; i < W; i += LANES) {
            const Float own = (load(total + i) - moments.mean) * moments.scale, by_normal = load(outer + i);
            add_to(sums + i, by_normal * own);
            add_to(sums + W + i, by_normal);
            const Float weighted = by_normal * load(task.weight + i);
            plain += weighted;
            along = multiply_add(weighted, own, along);
            store(normal + i, own);
            store(outer + i, weighted);
        }
        const Float mean = splat(sum(plain) * share), slope = splat(sum(along) * share);
        for (std::int64_t i = 0; i < W; i += LANES) {
            const Float through = (load(outer + i) - mean - load(normal + i) * slope) * moments.scale;
            const Float by_total = load(gradient.by_total + at + i) + through;
            const Float by_branch = by_total * kept_factor(task, task.random + at + i);
            store(gradient.by_residual + at + i, by_total);
            store(outer + i, by_branch);
            add_to(sums + 2 * W + i, by_branch);
        }
        write_floats(outer, W, task.dtype, gradient.by_branch, at);
    }
}

inline void bias_relu_rows(const BiasReLU& task, const void* values, void* out, std::int64_t begin,
                           std::int64_t end) {
    const std::int64_t W = task.width;
    std::vector<float> memory(static_cast<std::size_t>(W));
    float* buffer = memory.data();
    for (std::int64_t at = begin * W; at < end * W; at += W) {
        widen(values, task.dtype, at, 1, W, buffer);
        for (std::int64_t i = 0; i < W; i += LANES) {
            const Float own = load(buffer + i) + load(task.bias + i);
            store(buffer + i, own < Float{} ? Float{} : own);  // NaN stays
        }
        write_floats(buffer, W, task.dtype, out, at);
    }
}

// From what ReLU gave and the gradient by it. `sums` [width]: the gradient by the bias is added to it.
inline void bias_relu_gradient_rows(const BiasReLU& task, const void* activation, const void* gradient,
                                    void* out, float* sums, std::int64_t begin, std::int64_t end) {
    const std::int64_t W = task.width;
    std::vector<float> memory(static_cast<std::size_t>(2 * W));
    float *value = memory.data(), *slope = value + W;
    for (std::int64_t at = begin * W; at < end * W; at += W) {
        widen(activation, task.dtype, at, 1, W, value);
        widen(gradient, task.dtype, at, 1, W, slope);
        for (std::int64_t i = 0; i < W; i += LANES) {
            const Float own = load(value + i) <= Float{} ? Float{} : load(slope + i);
            store(slope + i, own);
            add_to(sums + i, own);
        }
        write_floats(slope, W, task.dtype, out, at);
    }
}
