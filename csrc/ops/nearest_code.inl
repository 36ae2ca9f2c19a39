// Nearest code for rows of x: a register tile of TILE_ROWS rows by two vectors of codes, and an argmax that
// never leaves the cache. Included inside a namespace of an instruction set, after vectors.inl.

constexpr std::int64_t block_rows = 8 * TILE_ROWS;

struct Best {
    Float score[block_rows];
    Int tile[block_rows];
};

// Scores TILE_ROWS rows, `stride` floats apart, against one tile of VECTORS * LANES codes.
template <int VECTORS>
inline void score_tile(const float* rows, std::int64_t stride, std::int64_t dim, const float* codes,
                       const float* offsets, std::int32_t tile, Float* best_score, Int* best_tile) {
    Float dot[TILE_ROWS][VECTORS] = {};
    const float* row[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; ++r) row[r] = rows + r * stride;
    for (std::int64_t d = 0; d < dim; ++d) {
        Float code[VECTORS];
        for (int v = 0; v < VECTORS; ++v) code[v] = load(codes + (d * VECTORS + v) * LANES);
        UNROLLED
        for (int r = 0; r < TILE_ROWS; ++r) {
            const Float value = splat(row[r][d]);
            UNROLLED
            for (int v = 0; v < VECTORS; ++v) dot[r][v] = multiply_add(value, code[v], dot[r][v]);
        }
    }
    for (int v = 0; v < VECTORS; ++v) {
        const Float offset = load(offsets + v * LANES);
        const Int place = Int{} + (tile * VECTORS + v);
        for (int r = 0; r < TILE_ROWS; ++r) {
            const Float score = dot[r][v] - offset;
            // Strictly greater: the first of equal codes stays, and NaN never wins.
            const Int better = score > best_score[r];
            best_score[r] = better ? score : best_score[r];
            best_tile[r] = better ? place : best_tile[r];
        }
    }
}

// The lowest index among the lanes that hold the greatest score.
inline std::int64_t first_best(Float score, Int tile) {
    Int lane;
    for (int i = 0; i < LANES; ++i) lane[i] = i;
    const Float top = across(score, greater);
    const Int index = score == top ? tile * LANES + lane : Int{} + INT32_MAX;
    return across(index, lesser)[0];
}

inline float squared_distance(const float* a, const float* b, std::int64_t dim) {
    Float total{};
    std::int64_t d = 0;
    for (; d + LANES <= dim; d += LANES) {
        const Float difference = load(a + d) - load(b + d);
        total = multiply_add(difference, difference, total);
    }
    float rest = 0;
    for (; d < dim; ++d) rest += (a[d] - b[d]) * (a[d] - b[d]);
    return sum(total) + rest;
}

inline float cosine_distance(const float* row, const float* unit_code, std::int64_t dim) {
    double dot = 0, square = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
        dot += static_cast<double>(row[d]) * unit_code[d];
        square += static_cast<double>(row[d]) * row[d];
    }
    return square == 0 ? 1.0f : static_cast<float>(1.0 - dot / __builtin_sqrt(square));
}

inline void add_to_statistics(const float* row, const float* code, std::int64_t index, std::int64_t dim,
                              Statistics& statistics) {
    statistics.squared_error += static_cast<double>(squared_distance(row, code, dim));
    statistics.counts[static_cast<std::size_t>(index)] += 1;
    double* sums = statistics.sums.data() + index * dim;
    for (std::int64_t d = 0; d < dim; ++d) sums[d] += static_cast<double>(row[d]);
}

inline void finish_row(const Lookup& lookup, std::int64_t row, const float* values, std::int64_t index,
                       Statistics* statistics) {
    const std::int64_t dim = lookup.x.dim;
    const bool selected = lookup.mask == nullptr || lookup.mask[row];
    const float* code = lookup.codebook + index * dim;
    lookup.indices[row] = selected ? index : -1;
    if (lookup.distance != nullptr) {
        lookup.distance[row] =
            lookup.cosine ? cosine_distance(values, code, dim) : squared_distance(values, code, dim);
    }
    if (lookup.quantized != nullptr) {
        const std::size_t bytes = static_cast<std::size_t>(dim * item_size(lookup.x.dtype));
        char* out = static_cast<char*>(lookup.quantized) + static_cast<std::size_t>(row) * bytes;
        const char* from =
            static_cast<const char*>(lookup.quantized_codes) + static_cast<std::size_t>(index) * bytes;
        if (selected) {
            __builtin_memcpy(out, from, bytes);
        } else {
            __builtin_memset(out, 0, bytes);
        }
    }
    if (statistics != nullptr && selected) add_to_statistics(values, code, index, dim, *statistics);
}

// Rows less the centre, one after the other; asks for the rows after them meanwhile.
inline void subtract_centre(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t dim,
                            const float* centre, float* out) {
    for (std::int64_t r = 0; r < count; ++r, out += dim) {
        const float* row = rows + r * stride;
        std::int64_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            __builtin_prefetch(row + count * stride + d);
            store(out + d, load(row + d) - load(centre + d));
        }
        for (; d < dim; ++d) out[d] = row[d] - centre[d];
    }
}

// Groups of TILE_ROWS rows, `stride` floats apart. With a centre, each group's differences from it go to
// `scratch` just before it meets its first codes, so that the products of the group before hide most of that
// work.
template <int VECTORS>
void nearest_in_block(const float* rows, std::int64_t stride, std::int64_t groups, std::int64_t dim,
                      const PackedCodebook& codebook, float* scratch, Best& best) {
    const bool centred = !codebook.centre.empty();
    const std::int64_t width = centred ? dim : stride;
    const float* scored = centred ? scratch : rows;
    for (std::int64_t r = 0; r < groups * TILE_ROWS; ++r) {
        best.score[r] = splat(-__builtin_inff());
        best.tile[r] = Int{};
    }
    for (std::int64_t t = 0; t < codebook.tiles; ++t) {
        const float* codes = codebook.values.data() + t * codebook.tile * dim;
        const float* offsets = codebook.offsets.data() + t * codebook.tile;
        for (std::int64_t g = 0; g < groups; ++g) {
            if (centred && t == 0) {
                subtract_centre(rows + g * TILE_ROWS * stride, stride, TILE_ROWS, dim, codebook.centre.data(),
                                scratch + g * TILE_ROWS * dim);
            }
            score_tile<VECTORS>(scored + g * TILE_ROWS * width, width, dim, codes, offsets,
                                static_cast<std::int32_t>(t), best.score + g * TILE_ROWS,
                                best.tile + g * TILE_ROWS);
        }
    }
}

void nearest_rows(const Lookup& lookup, const PackedCodebook& codebook, std::int64_t begin, std::int64_t end,
                  Statistics* statistics) {
    const std::int64_t dim = lookup.x.dim;
    const bool direct = lookup.x.dtype == Dtype::float32 && lookup.x.column_stride == 1;
    std::vector<float> copy(static_cast<std::size_t>(block_rows * dim));
    std::vector<float> centred(codebook.centre.empty() ? 0 : copy.size());
    Best best;
    for (std::int64_t start = begin; start < end; start += block_rows) {
        const std::int64_t count = end - start < block_rows ? end - start : block_rows;
        const std::int64_t groups = (count + TILE_ROWS - 1) / TILE_ROWS;
        const float* rows = copy.data();
        std::int64_t stride = dim;
        if (direct && count == groups * TILE_ROWS) {
            stride = lookup.x.row_stride;
            rows = static_cast<const float*>(lookup.x.data) + start * stride;
        } else {
            for (std::int64_t r = 0; r < count; ++r) {
                widen(lookup.x.data, lookup.x.dtype, (start + r) * lookup.x.row_stride,
                      lookup.x.column_stride, dim, copy.data() + r * dim);
            }
        }
        if (codebook.tile == LANES) {
            nearest_in_block<1>(rows, stride, groups, dim, codebook, centred.data(), best);
        } else {
            nearest_in_block<2>(rows, stride, groups, dim, codebook, centred.data(), best);
        }
        for (std::int64_t r = 0; r < count; ++r) {
            const std::int64_t index = first_best(best.score[r], best.tile[r]);
            finish_row(lookup, start + r, rows + r * stride, index, statistics);
        }
    }
}

// Row `row` as floats: where it lies if it can be read so, else a copy.
inline const float* row_of(const Rows& rows, std::int64_t row, float* copy) {
    const std::int64_t first = row * rows.row_stride;
    if (rows.dtype == Dtype::float32 && rows.column_stride == 1) {
        return static_cast<const float*>(rows.data) + first;
    }
    widen(rows.data, rows.dtype, first, rows.column_stride, rows.dim, copy);
    return copy;
}

void straight_through_rows(const StraightThrough& task, std::int64_t begin, std::int64_t end) {
    const std::int64_t dim = task.x.dim;
    const std::size_t bytes = static_cast<std::size_t>(dim * item_size(task.x.dtype));
    const Float factor = splat(task.scale);
    std::vector<float> copies(static_cast<std::size_t>(3 * dim));
    for (std::int64_t row = begin; row < end; ++row) {
        char* const place = static_cast<char*>(task.out) + static_cast<std::size_t>(row) * bytes;
        if (task.indices[row] < 0) {
            __builtin_memset(place, 0, bytes);
            continue;
        }
        const float* x = row_of(task.x, row, copies.data());
        const float* gradient = row_of(task.gradient, row, copies.data() + dim);
        const float* code = task.codes + task.indices[row] * dim;
        const bool narrow_dtype = task.x.dtype != Dtype::float32;
        float* out = narrow_dtype ? copies.data() + 2 * dim : reinterpret_cast<float*>(place);
        std::int64_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            store(out + d, multiply_add(factor, load(x + d) - load(code + d), load(gradient + d)));
        }
        for (; d < dim; ++d) out[d] = gradient[d] + task.scale * (x[d] - code[d]);
        if (narrow_dtype) narrow(out, dim, task.x.dtype, reinterpret_cast<std::uint16_t*>(place));
    }
}
