// Weights under the masks of several tasks, and sums of gradients over these. Included inside a namespace of
// one instruction set, after vectors.inl.

constexpr std::int64_t MASKED_AT_ONCE = 2048;  // weights that stay in the cache from task to task

// All bits of a lane set where the mask keeps its weight.
inline Int kept_lanes(const bool* mask) {
    Int kept;
    for (int lane = 0; lane < LANES; ++lane) kept[lane] = -static_cast<std::int32_t>(mask[lane]);
    return kept;
}

inline Float kept_values(const float* from, const bool* mask) {
    return reinterpret_cast<Float>(reinterpret_cast<Int>(load(from)) & kept_lanes(mask));
}

inline void mask_weights(const Masking& task, const float* weights, float* masked, std::int64_t begin,
                         std::int64_t end) {
    for (std::int64_t from = begin; from < end; from += MASKED_AT_ONCE) {
        const std::int64_t to = from + MASKED_AT_ONCE < end ? from + MASKED_AT_ONCE : end;
        for (std::int64_t row = 0; row < task.tasks; ++row) {
            const bool* mask = task.masks + task.order[row] * task.size;
            float* out = masked + row * task.size;
            std::int64_t at = from;
            for (; at + LANES <= to; at += LANES) store(out + at, kept_values(weights + at, mask + at));
            for (; at < to; ++at) out[at] = mask[at] ? weights[at] : 0.0f;
        }
    }
}

inline void sum_masked(const Masking& task, const float* gradients, float* sum, std::int64_t begin,
                       std::int64_t end) {
    for (std::int64_t from = begin; from < end; from += MASKED_AT_ONCE) {
        const std::int64_t to = from + MASKED_AT_ONCE < end ? from + MASKED_AT_ONCE : end;
        for (std::int64_t at = from; at < to; ++at) sum[at] = 0;
        for (std::int64_t row = 0; row < task.tasks; ++row) {
            const bool* mask = task.masks + task.order[row] * task.size;
            const float* gradient = gradients + row * task.size;
            std::int64_t at = from;
            for (; at + LANES <= to; at += LANES)
                store(sum + at, load(sum + at) + kept_values(gradient + at, mask + at));
            for (; at < to; ++at) sum[at] += mask[at] ? gradient[at] : 0.0f;
        }
    }
}
