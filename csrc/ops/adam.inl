// Steps of Adam, and the norm of its gradients. Included inside a namespace of one instruction set, after
// vectors.inl.

inline double squares(const float* values, std::int64_t count) {
    Float sums[4] = {};
    std::int64_t at = 0;
    for (; at + 4 * LANES <= count; at += 4 * LANES) {
        UNROLLED
        for (int vector = 0; vector < 4; ++vector) {
            const Float value = load(values + at + vector * LANES);
            sums[vector] = multiply_add(value, value, sums[vector]);
        }
    }
    for (; at < count; at += LANES) {
        const Float value = load_first(values + at, count - at, 0.0f);
        sums[0] = multiply_add(value, value, sums[0]);
    }
    return static_cast<double>(sum((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

inline void adam(const Adam& task, const AdamParameter& of, const AdamScales& scales, std::int64_t begin,
                 std::int64_t end) {
    const Float average_rate = splat(static_cast<float>(1 - task.beta1));
    const Float square_rate = splat(static_cast<float>(1 - task.beta2));
    const Float square_kept = splat(static_cast<float>(task.beta2));
    const Float epsilon = splat(static_cast<float>(task.epsilon));
    const Float decay = splat(static_cast<float>(task.decoupled ? 0 : task.weight_decay));
    const Float kept =
        splat(static_cast<float>(task.decoupled ? 1 - task.learning_rate * task.weight_decay : 1));
    for (std::int64_t at = begin; at < end; at += LANES) {
        const std::int64_t count = end - at;
        const Float before = load_first(of.values + at, count, 0.0f);
        const Float raw = load_first(of.gradient + at, count, 0.0f) * scales.gradient;
        const Float gradient = multiply_add(decay, before, raw);
        Float average = load_first(of.average + at, count, 0.0f);
        average = multiply_add(average_rate, gradient - average, average);
        Float square = load_first(of.square + at, count, 0.0f);
        square = multiply_add(square_rate, gradient * gradient, square * square_kept);
        const Float spread = square_root(square) / scales.root + epsilon;
        store_first(of.average + at, average, count);
        store_first(of.square + at, square, count);
        store_first(of.values + at, before * kept - average * scales.average / spread, count);
    }
}
