// Causal self-attention with dropout of its weights, and its gradient, a head at a time. Included inside a
// namespace of one instruction set, after residual.inl.

// The factors of a product on the left, in the row r and the column k of which left[r * row + k * column].
struct Left {
    const float* values;
    std::int64_t row, column;
};

// out [ROWS, VECTORS * LANES] = left [ROWS, first..last] * right [first..last, VECTORS * LANES].
template <int ROWS, int VECTORS>
inline void multiply_tile(const Left& left, const float* right, std::int64_t stride, std::int64_t first,
                          std::int64_t last, float* out, std::int64_t out_stride) {
    Float sums[ROWS][VECTORS];
    UNROLLED
    for (int row = 0; row < ROWS; ++row) {
        UNROLLED
        for (int vector = 0; vector < VECTORS; ++vector) sums[row][vector] = Float{};
    }
    for (std::int64_t k = first; k < last; ++k) {
        Float own[VECTORS];
        UNROLLED
        for (int vector = 0; vector < VECTORS; ++vector)
            own[vector] = load(right + k * stride + vector * LANES);
        UNROLLED
        for (int row = 0; row < ROWS; ++row) {
            const Float factor = splat(left.values[row * left.row + k * left.column]);
            UNROLLED
            for (int vector = 0; vector < VECTORS; ++vector)
                sums[row][vector] = multiply_add(factor, own[vector], sums[row][vector]);
        }
    }
    UNROLLED
    for (int row = 0; row < ROWS; ++row) {
        UNROLLED
        for (int vector = 0; vector < VECTORS; ++vector)
            store(out + row * out_stride + vector * LANES, sums[row][vector]);
    }
}

// out [rows, columns] likewise; columns are whole vectors.
template <int ROWS>
inline void multiply_rows(const Left& left, const float* right, std::int64_t stride, std::int64_t first,
                          std::int64_t last, std::int64_t columns, float* out, std::int64_t out_stride) {
    std::int64_t at = 0;
    for (; at + 2 * LANES <= columns; at += 2 * LANES)
        multiply_tile<ROWS, 2>(left, right + at, stride, first, last, out + at, out_stride);
    for (; at < columns; at += LANES)
        multiply_tile<ROWS, 1>(left, right + at, stride, first, last, out + at, out_stride);
}

constexpr std::int32_t SIGN = -2147483647 - 1;  // the bit of a float's sign

constexpr std::int64_t ROWS_AT_ONCE = TILE_ROWS < 6 ? TILE_ROWS : 6;

// Which part of a triangle a product needs.
enum class Part {
    columns,  // of row i of the result, the first i + 1
    behind,   // of row i on the left, the first i + 1
    ahead,    // of row i on the left, those from i on
};

// out [L, columns] = left [L, inner] * right [inner, columns], as far as `part` has it.
inline void multiply(Part part, const Left& left, std::int64_t L, std::int64_t inner, const float* right,
                     std::int64_t stride, std::int64_t columns, float* out, std::int64_t out_stride) {
    for (std::int64_t row = 0; row < L;) {
        const std::int64_t left_over = L - row, rows = left_over >= ROWS_AT_ONCE ? ROWS_AT_ONCE
                                                       : left_over >= 2          ? 2
                                                                                 : 1;
        const std::int64_t seen = row + rows;
        const Left own{left.values + row * left.row, left.row, left.column};
        const std::int64_t first = part == Part::ahead ? row : 0;
        const std::int64_t last = part == Part::behind ? seen : inner;
        const std::int64_t wide = part == Part::columns ? whole_vectors(seen) : columns;
        float* to = out + row * out_stride;
        if (rows == ROWS_AT_ONCE) {
            multiply_rows<ROWS_AT_ONCE>(own, right, stride, first, last, wide, to, out_stride);
        } else if (rows == 2) {
            multiply_rows<2>(own, right, stride, first, last, wide, to, out_stride);
        } else {
            multiply_rows<1>(own, right, stride, first, last, wide, to, out_stride);
        }
        row += rows;
    }
}

// Rows of a head: [L, D] of the tensor [batch, L, parts, heads, D].
struct HeadRows {
    std::int64_t first, stride;
};

inline HeadRows rows_of(const SelfAttention& task, std::int64_t index, std::int64_t parts,
                        std::int64_t part) {
    const std::int64_t sequence = index / task.heads, head = index % task.heads, D = task.head_width;
    const std::int64_t stride = parts * task.heads * D;
    return {sequence * task.length * stride + (part * task.heads + head) * D, stride};
}

// With a bias [D], if there is one, times a factor.
inline void read_rows(const SelfAttention& task, const void* from, HeadRows rows, const float* bias,
                      float factor, float* out) {
    const std::int64_t D = task.head_width;
    for (std::int64_t i = 0; i < task.length; ++i) {
        float* own = out + i * D;
        widen(from, task.dtype, rows.first + i * rows.stride, 1, D, own);
        if (bias != nullptr) {
            for (std::int64_t d = 0; d < D; ++d) own[d] += bias[d];
        }
        if (factor != 1.0f) {
            for (std::int64_t d = 0; d < D; ++d) own[d] *= factor;
        }
    }
}

// The bias of a head's queries, keys or values.
inline const float* bias_of(const SelfAttention& task, std::int64_t index, std::int64_t part) {
    if (task.bias == nullptr) return nullptr;
    return task.bias + (part * task.heads + index % task.heads) * task.head_width;
}

// The sums [3, heads, D] get those of all rows [L, D].
inline void add_rows(const SelfAttention& task, const float* rows, float factor, std::int64_t index,
                     std::int64_t part, float* sums) {
    const std::int64_t D = task.head_width;
    float* own = sums + (part * task.heads + index % task.heads) * D;
    for (std::int64_t d = 0; d < D; d += LANES) {
        Float total{};
        for (std::int64_t i = 0; i < task.length; ++i) total += load(rows + i * D + d);
        store(own + d, load(own + d) + total * factor);
    }
}

inline void write_rows(const SelfAttention& task, const float* from, float factor, float* scaled, void* to,
                       HeadRows rows) {
    const std::int64_t D = task.head_width;
    for (std::int64_t i = 0; i < task.length; ++i) {
        const std::int64_t at = rows.first + i * rows.stride;
        for (std::int64_t d = 0; d < D; ++d) scaled[d] = from[i * D + d] * factor;
        if (task.dtype == Dtype::float32) {
            __builtin_memcpy(static_cast<float*>(to) + at, scaled, static_cast<std::size_t>(D) * 4);
        } else {
            narrow(scaled, D, task.dtype, static_cast<std::uint16_t*>(to) + at);
        }
    }
}

// [L, D] to [D, room], zeros behind L.
inline void transpose_rows(const SelfAttention& task, const float* from, std::int64_t room, float* out) {
    const std::int64_t L = task.length, D = task.head_width;
    for (std::int64_t d = 0; d < D; ++d) {
        for (std::int64_t i = 0; i < L; ++i) out[d * room + i] = from[i * D + d];
        for (std::int64_t i = L; i < room; ++i) out[d * room + i] = 0;
    }
}

// Scores of a query that sees `seen` tokens to its weights, which stay, and to those after dropout. Weights
// that are dropped stay with a minus.
inline void to_dropped(const SelfAttention& task, const std::int16_t* random, std::int64_t seen,
                       float* weights, float* dropped) {
    const std::int64_t padded = whole_vectors(seen);
    for (std::int64_t i = seen; i < padded; ++i) weights[i] = -__builtin_inff();
    Float most = load(weights);
    for (std::int64_t i = LANES; i < padded; i += LANES) most = greater(most, load(weights + i));
    const Float top = splat(greatest(most));
    Float total{};
    for (std::int64_t i = 0; i < padded; i += LANES) {
        const Float power = exp_nonpositive(load(weights + i) - top);
        store(weights + i, power);
        total += power;
    }
    const float share = 1.0f / sum(total);
    for (std::int64_t i = 0; i < padded; i += LANES) {
        const Float weight = load(weights + i) * share;
        const Int kept = kept_by(task, random + i);
        store(weights + i, as_float(as_int(weight) | (~kept & SIGN)));
        store(dropped + i, as_float(kept & as_int(weight * task.kept_scale)));
    }
}

inline void self_attention_heads(const SelfAttention& task, std::int64_t begin, std::int64_t end) {
    const std::int64_t L = task.length, D = task.head_width, room = whole_vectors(L);
    std::vector<float> memory(static_cast<std::size_t>(4 * L * D + D * room + L * room + D));
    float *query = memory.data(), *key = query + L * D, *value = key + L * D, *mixed = value + L * D;
    float *turned = mixed + L * D, *dropped = turned + D * room, *scaled = dropped + L * room;
    for (std::int64_t index = begin; index < end; ++index) {
        float* weights = task.weights + index * L * room;
        const std::int16_t* random = task.random + index * L * room;
        read_rows(task, task.projected, rows_of(task, index, 3, 0), bias_of(task, index, 0), task.scale,
                  query);
        read_rows(task, task.projected, rows_of(task, index, 3, 1), bias_of(task, index, 1), 1.0f, key);
        read_rows(task, task.projected, rows_of(task, index, 3, 2), bias_of(task, index, 2), 1.0f, value);
        transpose_rows(task, key, room, turned);
        multiply(Part::columns, {query, D, 1}, L, D, turned, room, room, weights, room);
        for (std::int64_t i = 0; i < L; ++i) {
            to_dropped(task, random + i * room, i + 1, weights + i * room, dropped + i * room);
            for (std::int64_t j = whole_vectors(i + 1); j < room; ++j) dropped[i * room + j] = 0;
        }
        multiply(Part::behind, {dropped, room, 1}, L, L, value, D, D, mixed, D);
        write_rows(task, mixed, 1.0f, scaled, task.out, rows_of(task, index, 1, 0));
    }
}

// From the gradient by the dropped weights of a query that by its scores, and the dropped weights again.
inline void to_score_gradient(const SelfAttention& task, std::int64_t seen, const float* weights,
                              float* gradient, float* dropped) {
    const std::int64_t padded = whole_vectors(seen);
    Float total{};
    for (std::int64_t i = 0; i < padded; i += LANES) {
        const Int bits = as_int(load(weights + i)), kept = bits >= 0;
        const Float weight = as_float(kept & as_int(as_float(bits) * task.kept_scale));
        const Float own = load(gradient + i) * weight;
        store(dropped + i, weight);
        store(gradient + i, own);
        total += own;
    }
    const Float mean = splat(sum(total));
    for (std::int64_t i = 0; i < padded; i += LANES)
        store(gradient + i, load(gradient + i) - as_float(as_int(load(weights + i)) & ~SIGN) * mean);
}

inline void self_attention_gradient_heads(const SelfAttention& task, const void* gradient, void* out,
                                          float* sums, std::int64_t begin, std::int64_t end) {
    const std::int64_t L = task.length, D = task.head_width, room = whole_vectors(L);
    std::vector<float> memory(static_cast<std::size_t>(5 * L * D + D * room + 2 * L * room + D));
    float *query = memory.data(), *key = query + L * D, *value = key + L * D, *outer = value + L * D;
    float *result = outer + L * D, *turned = result + L * D, *scores = turned + D * room;
    float *dropped = scores + L * room, *scaled = dropped + L * room;
    for (std::int64_t index = begin; index < end; ++index) {
        const float* weights = task.weights + index * L * room;
        read_rows(task, task.projected, rows_of(task, index, 3, 0), bias_of(task, index, 0), 1.0f, query);
        read_rows(task, task.projected, rows_of(task, index, 3, 1), bias_of(task, index, 1), 1.0f, key);
        read_rows(task, task.projected, rows_of(task, index, 3, 2), bias_of(task, index, 2), 1.0f, value);
        read_rows(task, gradient, rows_of(task, index, 1, 0), nullptr, 1.0f, outer);
        transpose_rows(task, value, room, turned);
        multiply(Part::columns, {outer, D, 1}, L, D, turned, room, room, scores, room);
        for (std::int64_t i = 0; i < L; ++i) {
            to_score_gradient(task, i + 1, weights + i * room, scores + i * room, dropped + i * room);
            for (std::int64_t j = whole_vectors(i + 1); j < room; ++j)
                scores[i * room + j] = dropped[i * room + j] = 0;
        }
        multiply(Part::behind, {scores, room, 1}, L, L, key, D, D, result, D);
        add_rows(task, result, task.scale, index, 0, sums);
        write_rows(task, result, task.scale, scaled, out, rows_of(task, index, 3, 0));
        multiply(Part::ahead, {scores, 1, room}, L, L, query, D, D, result, D);
        add_rows(task, result, task.scale, index, 1, sums);
        write_rows(task, result, task.scale, scaled, out, rows_of(task, index, 3, 1));
        multiply(Part::ahead, {dropped, 1, room}, L, L, outer, D, D, result, D);
        add_rows(task, result, 1.0f, index, 2, sums);
        write_rows(task, result, 1.0f, scaled, out, rows_of(task, index, 3, 2));
    }
}
