// Weights under the masks of several tasks, and sums of gradients over these. Included inside a namespace of
// one instruction set, after vectors.inl.

constexpr std::int64_t MASKED_AT_ONCE = 2048;  // weights that stay in the cache from task to task

// All bits of a lane set where the mask keeps its weight.
inline Int kept_lanes(const bool* mask) { return -load_bytes(mask); }

inline void keep(const float* from, const bool* mask, float* out, std::int64_t count) {
    std::int64_t at = 0;
    for (; at + LANES <= count; at += LANES)
        store(out + at, as_float(as_int(load(from + at)) & kept_lanes(mask + at)));
    for (; at < count; ++at) out[at] = mask[at] ? from[at] : 0.0f;
}

inline void keep(const std::uint16_t* from, const bool* mask, std::uint16_t* out, std::int64_t count) {
    std::int64_t at = 0;
    for (; at + LANES <= count; at += LANES)
        store_shorts(out + at, load_shorts(from + at) & kept_lanes(mask + at));
    for (; at < count; ++at) out[at] = mask[at] ? from[at] : std::uint16_t{0};
}

inline void add_kept(const float* from, const bool* mask, float* sum, std::int64_t count) {
    std::int64_t at = 0;
    for (; at + LANES <= count; at += LANES)
        store(sum + at, load(sum + at) + as_float(as_int(load(from + at)) & kept_lanes(mask + at)));
    for (; at < count; ++at) sum[at] += mask[at] ? from[at] : 0.0f;
}

// From bfloat16.
inline void add_kept(const std::uint16_t* from, const bool* mask, float* sum, std::int64_t count) {
    std::int64_t at = 0;
    for (; at + LANES <= count; at += LANES)
        store(sum + at, load(sum + at) + as_float((load_shorts(from + at) << 16) & kept_lanes(mask + at)));
    for (; at < count; ++at) sum[at] += mask[at] ? bfloat16_to_float(from[at]) : 0.0f;
}

template <typename Number>
inline void mask_for_tasks(const Masking& task, const Number* weights, Number* masked, std::int64_t first,
                           std::int64_t count) {
    for (std::int64_t row = 0; row < task.tasks; ++row) {
        const bool* mask = task.masks + task.order[row] * task.size;
        keep(weights, mask + first, masked + row * task.size + first, count);
    }
}

inline void mask_weights(const Masking& task, const float* weights, void* masked, std::int64_t begin,
                         std::int64_t end) {
    std::uint16_t narrowed[MASKED_AT_ONCE];
    for (std::int64_t from = begin; from < end; from += MASKED_AT_ONCE) {
        const std::int64_t count = end - from < MASKED_AT_ONCE ? end - from : MASKED_AT_ONCE;
        if (task.dtype == Dtype::float32) {
            mask_for_tasks(task, weights + from, static_cast<float*>(masked), from, count);
        } else {
            narrow(weights + from, count, task.dtype, narrowed);
            mask_for_tasks(task, narrowed, static_cast<std::uint16_t*>(masked), from, count);
        }
    }
}

inline void sum_masked(const Masking& task, const void* gradients, float* sum, std::int64_t begin,
                       std::int64_t end) {
    float widened[MASKED_AT_ONCE];
    for (std::int64_t from = begin; from < end; from += MASKED_AT_ONCE) {
        const std::int64_t count = end - from < MASKED_AT_ONCE ? end - from : MASKED_AT_ONCE;
        for (std::int64_t at = 0; at < count; ++at) sum[from + at] = 0;
        for (std::int64_t row = 0; row < task.tasks; ++row) {
            const bool* mask = task.masks + task.order[row] * task.size + from;
            const std::int64_t first = row * task.size + from;
            if (task.dtype == Dtype::float32) {
                add_kept(static_cast<const float*>(gradients) + first, mask, sum + from, count);
            } else if (task.dtype == Dtype::bfloat16) {
                add_kept(static_cast<const std::uint16_t*>(gradients) + first, mask, sum + from, count);
            } else {
                widen(gradients, task.dtype, first, 1, count, widened);
                add_kept(widened, mask, sum + from, count);
            }
        }
    }
}
