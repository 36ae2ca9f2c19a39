// Attention of new tokens over cached ones, and residual sums with their LayerNorm. Included inside a
// namespace of one instruction set, after layer_norm.inl.

// Keys and values of the new tokens of one head of one sequence go to their places in the cache.
inline void append(const CachedAttention& task, const char* tokens, std::int64_t token_bytes,
                   std::int64_t head, float* keys, float* values, float* buffer) {
    const std::int64_t width = task.heads * task.head_width;
    const std::int64_t first = task.length - task.fresh;
    for (std::int64_t token = 0; token < task.fresh; ++token) {
        const char* from = tokens + token * token_bytes;
        widen(from, task.dtype, width + head * task.head_width, 1, task.head_width, buffer);
        for (std::int64_t d = 0; d < task.head_width; ++d)
            keys[d * task.key_stride + first + token] = buffer[d];
        widen(from, task.dtype, 2 * width + head * task.head_width, 1, task.head_width,
              values + (first + token) * task.head_width);
    }
}

// Scores of QUERIES queries for keys [0, keys_end), two vectors of keys at a time; rounds up to whole
// vectors.
template <int QUERIES>
inline void score(const CachedAttention& task, const float* queries, const float* keys, std::int64_t keys_end,
                  float* scores, std::int64_t scores_stride) {
    for (std::int64_t key = 0; key < keys_end; key += 2 * LANES) {
        Float sums[QUERIES][2] = {};
        for (std::int64_t d = 0; d < task.head_width; ++d) {
            const Float left = load(keys + d * task.key_stride + key);
            const Float right = load(keys + d * task.key_stride + key + LANES);
            UNROLLED
            for (int query = 0; query < QUERIES; ++query) {
                const Float value = splat(queries[query * task.head_width + d]);
                sums[query][0] = multiply_add(value, left, sums[query][0]);
                sums[query][1] = multiply_add(value, right, sums[query][1]);
            }
        }
        for (int query = 0; query < QUERIES; ++query) {
            store(scores + query * scores_stride + key, sums[query][0]);
            store(scores + query * scores_stride + key + LANES, sums[query][1]);
        }
    }
}

// Scores of one query become the weights of a softmax over the keys it sees; the others get zero.
inline float to_weights(float* scores, std::int64_t seen, std::int64_t keys_end, const bool* visible) {
    const float never = -__builtin_inff();
    // A hidden token sees at least itself: a softmax over nothing would be NaN.
    if (visible != nullptr) {
        for (std::int64_t key = 0; key + 1 < seen; ++key) {
            if (!visible[key]) scores[key] = never;
        }
    }
    for (std::int64_t key = seen; key < keys_end; ++key) scores[key] = never;
    Float highest = splat(never);
    for (std::int64_t key = 0; key < keys_end; key += LANES) highest = greater(load(scores + key), highest);
    const Float offset = splat(greatest(highest));
    Float total{};
    for (std::int64_t key = 0; key < keys_end; key += LANES) {
        const Float weight = exp_nonpositive(load(scores + key) - offset);
        total += weight;
        store(scores + key, weight);
    }
    return sum(total);
}

// Sums of values by their weights; head_width is a multiple of 2 * LANES or of LANES.
template <int QUERIES, int VECTORS>
inline void mix(const CachedAttention& task, const float* weights, std::int64_t weights_stride,
                const float* values, std::int64_t keys_end, std::int64_t d, float* out) {
    Float sums[QUERIES][VECTORS] = {};
    for (std::int64_t key = 0; key < keys_end; ++key) {
        const float* from = values + key * task.head_width + d;
        Float parts[VECTORS];
        for (int part = 0; part < VECTORS; ++part) parts[part] = load(from + part * LANES);
        UNROLLED
        for (int query = 0; query < QUERIES; ++query) {
            const Float weight = splat(weights[query * weights_stride + key]);
            UNROLLED
            for (int part = 0; part < VECTORS; ++part)
                sums[query][part] = multiply_add(weight, parts[part], sums[query][part]);
        }
    }
    for (int query = 0; query < QUERIES; ++query) {
        for (int part = 0; part < VECTORS; ++part)
            store(out + query * task.head_width + d + part * LANES, sums[query][part]);
    }
}

template <int QUERIES>
inline void attend(const CachedAttention& task, const char* tokens, std::int64_t token_bytes,
                   std::int64_t sequence, std::int64_t head, std::int64_t first, const float* keys,
                   const float* values, float* buffer) {
    const std::int64_t D = task.head_width;
    const std::int64_t room = task.key_stride;
    float* queries = buffer;
    float* mixed = queries + QUERIES * D;
    float* scores = mixed + QUERIES * D;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(D));
    for (int query = 0; query < QUERIES; ++query) {
        float* own = queries + query * D;
        widen(tokens + (first + query) * token_bytes, task.dtype, head * D, 1, D, own);
        for (std::int64_t d = 0; d < D; ++d) own[d] *= scale;
    }
    const std::int64_t seen = task.length - task.fresh + first + QUERIES;
    const std::int64_t keys_end = whole_vectors(seen);
    score<QUERIES>(task, queries, keys, keys_end, scores, room);
    const bool* visible = task.visible == nullptr ? nullptr : task.visible + sequence * task.capacity;
    float totals[QUERIES];
    for (int query = 0; query < QUERIES; ++query)
        totals[query] = to_weights(scores + query * room, seen - QUERIES + 1 + query, keys_end, visible);
    std::int64_t d = 0;
    for (; d + 2 * LANES <= D; d += 2 * LANES) mix<QUERIES, 2>(task, scores, room, values, seen, d, mixed);
    for (; d < D; d += LANES) mix<QUERIES, 1>(task, scores, room, values, seen, d, mixed);
    const std::int64_t read = task.fresh - task.first_read;
    for (int query = 0; query < QUERIES; ++query) {
        float* own = mixed + query * D;
        const float factor = 1.0f / totals[query];
        for (std::int64_t i = 0; i < D; ++i) own[i] *= factor;
        const std::int64_t row = sequence * read + first - task.first_read + query;
        const std::int64_t at = row * task.heads * D + head * D;
        if (task.dtype == Dtype::float32) {
            __builtin_memcpy(static_cast<float*>(task.out) + at, own, static_cast<std::size_t>(D) * 4);
        } else {
            narrow(own, D, task.dtype, static_cast<std::uint16_t*>(task.out) + at);
        }
    }
}

// Heads [begin, end) of all sequences, counted through.
inline void attention_heads(const CachedAttention& task, std::int64_t begin, std::int64_t end) {
    const std::int64_t D = task.head_width;
    const std::int64_t token_bytes = 3 * task.heads * D * item_size(task.dtype);
    std::vector<float> memory(static_cast<std::size_t>(4 * (2 * D + task.key_stride)));
    float* buffer = memory.data();
    for (std::int64_t index = begin; index < end; ++index) {
        const std::int64_t sequence = index / task.heads, head = index % task.heads;
        const char* tokens = static_cast<const char*>(task.projected) + sequence * task.fresh * token_bytes;
        float* keys = task.keys + index * D * task.key_stride;
        float* values = task.values + index * task.capacity * D;
        append(task, tokens, token_bytes, head, keys, values, buffer);
        std::int64_t query = task.first_read;
        for (; query + 4 <= task.fresh; query += 4)
            attend<4>(task, tokens, token_bytes, sequence, head, query, keys, values, buffer);
        const std::int64_t left = task.fresh - query;
        if (left == 3) attend<3>(task, tokens, token_bytes, sequence, head, query, keys, values, buffer);
        if (left == 2) attend<2>(task, tokens, token_bytes, sequence, head, query, keys, values, buffer);
        if (left == 1) attend<1>(task, tokens, token_bytes, sequence, head, query, keys, values, buffer);
    }
}

// Rows [begin, end): the sum, and what its LayerNorm makes of it.
inline void add_norm_rows(const AddNorm& task, std::int64_t begin, std::int64_t end) {
    const std::int64_t W = task.width;
    std::vector<float> memory(static_cast<std::size_t>(W));
    float* buffer = memory.data();
    for (std::int64_t row = begin; row < end; ++row) {
        float* residual = task.residual + row * W;
        if (task.addend != nullptr) {
            widen(task.addend, task.dtype, row * W, 1, W, buffer);
            for (std::int64_t i = 0; i < W; ++i) residual[i] += buffer[i];
        }
        const LayerNorm norm{task.weight, task.bias, task.epsilon, task.width};
        write_normal(norm, residual, moments_of(norm, residual), task.dtype, buffer, task.out, row * W);
    }
}
