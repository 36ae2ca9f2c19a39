// The goal encoder for blocks of rows: register tiles of ENCODER_ROWS rows by ENCODER_VECTORS vectors of
// columns, activations that never leave the cache. Included inside a namespace of an instruction set, after
// vectors.inl; where dot_product of integers is defined, with ENCODER_INTEGERS.

constexpr std::int64_t encoder_panel = ENCODER_VECTORS * LANES;
constexpr std::int64_t encoder_block = 16 * ENCODER_ROWS;

inline Float hyperbolic_tangent(Float x) {
    const Float magnitude = as_float(as_int(x) & 0x7fffffff);
    const Float result = one_minus_exp(-2.0f * magnitude) / (1.0f + exp_nonpositive(-2.0f * magnitude));
    return as_float(as_int(result) | (as_int(x) & static_cast<std::int32_t>(0x80000000)));
}

// ENCODER_ROWS rows of `out` become those of `in`, `stride` apart, times VECTORS vectors of columns from
// `first` on. Each row's sums are taken in the same order wherever in a block it lies.
template <int VECTORS>
inline void multiply(const PackedLinear<float>& layer, std::int64_t first, const float* in, const float*,
                     std::int64_t stride, bool relu, float* out) {
    const float* weights = layer.weights.data() + first * layer.in;
    Float sums[ENCODER_ROWS][VECTORS] = {};
    for (std::int64_t i = 0; i < layer.in; ++i) {
        Float column[VECTORS];
        for (int v = 0; v < VECTORS; ++v) column[v] = load(weights + i * encoder_panel + v * LANES);
        for (int r = 0; r < ENCODER_ROWS; ++r) {
            const Float value = splat(in[r * stride + i]);
            for (int v = 0; v < VECTORS; ++v) sums[r][v] = multiply_add(value, column[v], sums[r][v]);
        }
    }
    // A copy, for GCC keeps what is used in a loop that it does not unroll out of registers.
    Float finished[ENCODER_ROWS][VECTORS];
    for (int r = 0; r < ENCODER_ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) finished[r][v] = sums[r][v];
    }
    for (int v = 0; v < VECTORS; ++v) {
        const Float bias = load(layer.bias.data() + first + v * LANES);
        for (int r = 0; r < ENCODER_ROWS; ++r) {
            const Float value = finished[r][v] + bias;
            store(out + r * stride + first + v * LANES, relu ? greater(Float{}, value) : value);  // NaN stays
        }
    }
}

#if defined(ENCODER_INTEGERS)
// The same for integers, which stand for so many `units` [ENCODER_ROWS].
template <int VECTORS, typename Weight>
inline void multiply(const PackedLinear<Weight>& layer, std::int64_t first, const Input<Weight>* in,
                     const float* units, std::int64_t stride, bool relu, float* out) {
    constexpr std::int64_t group = 4 / sizeof(Weight);
    const Weight* weights = layer.weights.data() + first * layer.in;
    Int sums[ENCODER_ROWS][VECTORS] = {};
    for (std::int64_t i = 0; i < layer.depth; i += group) {
        Int column[VECTORS];
        for (int v = 0; v < VECTORS; ++v)
            column[v] = load_int(weights + i * encoder_panel + v * LANES * group);
        for (int r = 0; r < ENCODER_ROWS; ++r) {
            const Int value = splat_int(in + r * stride + i);
            for (int v = 0; v < VECTORS; ++v)
                sums[r][v] = dot_product(Weight{}, value, column[v], sums[r][v]);
        }
    }
    Int finished[ENCODER_ROWS][VECTORS];
    for (int r = 0; r < ENCODER_ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) finished[r][v] = sums[r][v];
    }
    for (int v = 0; v < VECTORS; ++v) {
        const std::int64_t column = first + v * LANES;
        const Float scale = load(layer.scale.data() + column), bias = load(layer.bias.data() + column);
        for (int r = 0; r < ENCODER_ROWS; ++r) {
            const Float sum = __builtin_convertvector(finished[r][v], Float);
            const Float value = multiply_add(sum, scale * units[r], bias);
            store(out + r * stride + column, relu ? larger(Float{}, value) : value);
        }
    }
}
#endif

// The block's rows of `out` become those of `in` times a layer; only integers have units.
template <typename Weight, typename Value>
inline void linear(const PackedLinear<Weight>& layer, const Value* in, const float* units,
                   std::int64_t stride, std::int64_t rows, bool relu, float* out) {
    for (std::int64_t first = 0; first < layer.out; first += encoder_panel) {
        const std::int64_t vectors = (layer.out - first + LANES - 1) / LANES;
        for (std::int64_t row = 0; row < rows; row += ENCODER_ROWS) {
            const Value* from = in + row * stride;
            float* to = out + row * stride;
            if (vectors >= ENCODER_VECTORS) {
                multiply<ENCODER_VECTORS>(layer, first, from, units + row, stride, relu, to);
            } else if (vectors <= 2) {
                multiply<2>(layer, first, from, units + row, stride, relu, to);
            } else {
                multiply<3>(layer, first, from, units + row, stride, relu, to);
            }
        }
    }
}

#if defined(ENCODER_INTEGERS)
// Rows in units of which their greatest magnitude has `levels`; the units into `units` [rows].
template <typename Weight>
inline void to_integers(const PackedLinear<Weight>& layer, const float* in, std::int64_t stride,
                        std::int64_t rows, Input<Weight>* out, float* units) {
    for (std::int64_t row = 0; row < rows; ++row) {
        // Compared as integers, of which NaN is the greatest: it must not get lost.
        Int highest{};
        for (std::int64_t i = 0; i < layer.in; i += LANES)
            highest = larger(as_int(load(in + row * stride + i)) & 0x7fffffff, highest);
        const Int top = across(highest, static_cast<Int (*)(Int, Int)>(larger));
        units[row] = as_float(top)[0] / layer.levels;
    }
    for (std::int64_t row = 0; row < rows; ++row) {
        const Float factor = splat(units[row] > 0 ? 1.0f / units[row] : 0.0f);
        for (std::int64_t i = 0; i < layer.in; i += LANES)
            store_integers(load(in + row * stride + i) * factor, out + row * stride + i);
    }
}
#endif

// Divides what the first layer gave by the root of the variance, and moves it, with ReLU if others follow.
// Divides `units` [rows] too. Columns of padding stay 0.
inline void divide_spread(const PackedEncoder& encoder, std::int64_t stride, std::int64_t rows, bool relu,
                          float* values, float* units) {
    const std::int64_t width = encoder.float32.front().out - encoder.spread;
    for (std::int64_t row = 0; row < rows; ++row) {
        float* own = values + row * stride;
        Float squares{};
        for (std::int64_t i = 0; i < encoder.spread; i += LANES) {
            const Float value = load(own + i);
            squares = multiply_add(value, value, squares);
        }
        const float scale = 1.0f / __builtin_sqrtf(sum(squares) + encoder.epsilon);
        units[row] *= scale;
        own += encoder.spread;
        for (std::int64_t i = 0; i < width; i += LANES) {
            const Float moved = multiply_add(load(own + i), splat(scale), load(encoder.shift.data() + i));
            store(own + i, relu ? greater(Float{}, moved) : moved);  // NaN stays
        }
    }
}

// A vector of the row of values from place i on.
inline Float load_normal(const Changes& changes, const float* row, std::int64_t i) {
    if (changes.mean == nullptr) return load(row + i);
    return (load(row + i) - load(changes.mean + i)) / load(changes.std + i);
}

inline void load_change(const Changes& changes, const float* to, const float* from, std::int64_t i,
                        float* out) {
    const Float end = load_normal(changes, to, i);
    store(out, from == nullptr ? end : end - load_normal(changes, from, i));
}

// The same one by one, for rows that are narrower than a vector.
inline void load_narrow_change(const Changes& changes, const float* to, const float* from, float* out) {
    for (std::int64_t i = 0; i < changes.dim; ++i) {
        const float mean = changes.mean == nullptr ? 0.0f : changes.mean[i];
        const float std = changes.mean == nullptr ? 1.0f : changes.std[i];
        out[i] = (to[i] - mean) / std;
        if (from != nullptr) out[i] -= (from[i] - mean) / std;
    }
}

constexpr std::int64_t change_distance = 4;  // rows from asking for one to its use

inline const float* row_of(const Changes& changes, const std::int64_t* rows, std::int64_t change) {
    return changes.rows + (rows == nullptr ? change : rows[change]) * changes.dim;
}

// Asks for the ends of a chosen change: those lie anywhere.
inline void prefetch_change(const EncoderTask& task, std::int64_t place) {
    const Changes& changes = *task.changes;
    for (const std::int64_t* rows : {changes.from, changes.to}) {
        const float* row = row_of(changes, rows, task.chosen[place]);
        for (std::int64_t i = 0; i < changes.dim; i += 16) __builtin_prefetch(row + i);
        __builtin_prefetch(row + changes.dim - 1);
    }
}

// The block's changes, zeros behind them, and zeros in rows that only fill a tile.
inline void load_changes(const EncoderTask& task, std::int64_t begin, std::int64_t count, float* out) {
    const Changes& changes = *task.changes;
    const std::int64_t dim = changes.dim;
    for (std::int64_t row = 0; row < encoder_block; ++row, out += task.encoder->widest) {
        __builtin_memset(out, 0, static_cast<std::size_t>(task.encoder->first_width) * sizeof(float));
        if (row >= count) continue;
        const std::int64_t change = task.chosen == nullptr ? begin + row : task.chosen[begin + row];
        if (task.chosen != nullptr && row + change_distance < count)
            prefetch_change(task, begin + row + change_distance);
        const float* const to = row_of(changes, changes.to, change);
        const float* const from = changes.from == nullptr ? nullptr : row_of(changes, changes.from, change);
        if (dim < LANES) {
            load_narrow_change(changes, to, from, out);
            continue;
        }
        // The last vector overlaps the one before it.
        for (std::int64_t i = 0; i < dim - LANES; i += LANES) load_change(changes, to, from, i, out + i);
        load_change(changes, to, from, dim - LANES, out + dim - LANES);
    }
}

// The first place of `count`, whole vectors, that holds what one of them does hold.
inline std::int32_t first_equal(const float* values, std::int64_t count, float wanted) {
    Int place;
    for (int lane = 0; lane < LANES; ++lane) place[lane] = lane;
    Int first = Int{} + static_cast<std::int32_t>(count);
    for (std::int64_t i = 0; i < count; i += LANES, place += LANES)
        first = lesser(load(values + i) == splat(wanted) ? place : Int{} + static_cast<std::int32_t>(count),
                       first);
    return across(first, lesser)[0];
}

// The code of the greatest score, the lowest of equals, and the code whose boundary is nearest. Overwrites
// scores.
inline Verdict judge(const PackedEncoder& encoder, float* scores) {
    const std::int64_t padded = encoder.padded_codes;
    Float highest = splat(-__builtin_inff());
    for (std::int64_t i = 0; i < padded; i += LANES) highest = greater(load(scores + i), highest);
    const float best = greatest(highest);
    // Embeddings that are NaN get code 0, as in nearest_code.
    if (!(best - best == 0)) return {0, 0, -1.0f, 1.0f};
    const std::int32_t code = first_equal(scores, padded, best);
    if (encoder.inverse_distance.empty()) return {code, 0, -1.0f, 1.0f};
    const float* inverse = encoder.inverse_distance.data() + code * padded;
    Float least = splat(__builtin_inff());
    for (std::int64_t i = 0; i < padded; i += LANES) {
        const Float factor = load(inverse + i);
        Float distance = (best - load(scores + i)) * factor;
        distance = factor > Float{} ? distance : splat(__builtin_inff());
        store(scores + i, distance);
        least = greater(-distance, -least);
        least = -least;
    }
    const float distance = -greatest(-least);
    return {code, first_equal(scores, padded, distance), distance, 1.0f};
}

// Adds how much the distance from the boundary that was nearest before has changed, over how coarse it was.
inline void add_difference(const PackedEncoder& encoder, const float* scores, const Verdict& before,
                           Differences& differences) {
    if (!(before.distance >= 0)) return;
    const std::int64_t place = before.code * encoder.padded_codes + before.rival;
    const float inverse = encoder.inverse_distance[static_cast<std::size_t>(place)];
    float change = (scores[before.code] - scores[before.rival]) * inverse - before.distance;
    change = (change < 0 ? -change : change) / before.coarse;
    if (!(change - change == 0)) return;  // NaN and infinity are no measure of an error
    differences.squares += static_cast<double>(change) * static_cast<double>(change);
    differences.count += 1;
    if (change > differences.greatest) differences.greatest = change;
}

struct EncoderBuffers {
    Aligned<float> a, b;
    Aligned<std::int16_t> integers;
    float units[encoder_block];
};

// Turns the block in `a` into embeddings; returns where they lie, and the other buffer in `free`. Writes the
// units of `count` rows of integers into `units` [count, layers].
inline float* embed(const PackedEncoder& encoder, Level level, std::int64_t rows, std::int64_t count,
                    float* units, EncoderBuffers& buffers, float*& free) {
    const std::int64_t stride = encoder.widest;
    const std::size_t layers = encoder.float32.size();
    float *in = buffers.a.data(), *out = buffers.b.data();
    for (std::size_t layer = 0; layer < layers; ++layer) {
        const bool relu = layer > 0 && layer + 1 < layers;
#if defined(ENCODER_INTEGERS)
        // The first layer's error must not be the same at two levels, or it would not show.
        if ((level == Level::int16 && layer > 0) || (level == Level::int8 && layer == 0)) {
            const PackedLinear<std::int16_t>& packed = encoder.int16[layer];
            to_integers(packed, in, stride, rows, buffers.integers.data(), buffers.units);
            linear(packed, buffers.integers.data(), buffers.units, stride, rows, relu, out);
        } else if (level == Level::int8) {
            const PackedLinear<std::int8_t>& packed = encoder.int8[layer - 1];
            std::uint8_t* bytes = reinterpret_cast<std::uint8_t*>(buffers.integers.data());
            to_integers(packed, in, stride, rows, bytes, buffers.units);
            linear(packed, bytes, buffers.units, stride, rows, relu, out);
        } else  // NOLINT
#else
        static_cast<void>(level);
#endif
        {
            __builtin_memset(buffers.units, 0, sizeof(buffers.units));
            linear(encoder.float32[layer], in, buffers.units, stride, rows, relu, out);
        }
        if (layer == 0) divide_spread(encoder, stride, rows, layers > 1, out, buffers.units);
        for (std::int64_t row = 0; units != nullptr && row < count; ++row)
            units[row * static_cast<std::int64_t>(layers) + static_cast<std::int64_t>(layer)] =
                buffers.units[row];
        float* const last = layer == 1 ? in - encoder.spread : in;
        in = layer == 0 ? out + encoder.spread : out;
        out = last;
    }
    free = out;
    const std::int64_t width = encoder.codes.in;
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t i = 0; i < width; i += LANES) {
            float* at = in + row * stride + i;
            store(at, hyperbolic_tangent(load(at)));
        }
    }
    return in;
}

inline Differences encode_rows(const EncoderTask& task, Level level, std::int64_t begin, std::int64_t end) {
    const PackedEncoder& encoder = *task.encoder;
    const std::size_t size = static_cast<std::size_t>(encoder.widest * encoder_block);
    EncoderBuffers buffers{Aligned<float>(size),
                           Aligned<float>(size),
                           Aligned<std::int16_t>(level == Level::float32 ? 0 : size),
                           {}};
    Differences differences;
    for (std::int64_t first = begin; first < end; first += encoder_block) {
        const std::int64_t count = end - first < encoder_block ? end - first : encoder_block;
        const std::int64_t rows = (count + ENCODER_ROWS - 1) / ENCODER_ROWS * ENCODER_ROWS;
        load_changes(task, first, count, buffers.a.data());
        const std::int64_t layers = static_cast<std::int64_t>(encoder.float32.size());
        float* const units = task.units == nullptr ? nullptr : task.units + first * layers;
        float* scores = nullptr;
        const float* embeddings = embed(encoder, level, rows, count, units, buffers, scores);
        linear(encoder.codes, embeddings, buffers.units, encoder.widest, rows, false, scores);
        for (std::int64_t row = 0; row < count; ++row) {
            float* own = scores + row * encoder.widest;
            if (task.before != nullptr) add_difference(encoder, own, task.before[first + row], differences);
            task.verdicts[first + row] = judge(encoder, own);
        }
    }
    return differences;
}
