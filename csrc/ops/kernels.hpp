// CPU kernels of goskill.ops, compiled once per instruction set and chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace goskill::ops {

enum class Dtype : int { float32 = 0, bfloat16 = 1, float16 = 2 };

inline std::int64_t item_size(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

// A matrix of any strides, counted in elements.
struct Rows {
    const void* data;
    Dtype dtype;
    std::int64_t count;
    std::int64_t dim;
    std::int64_t row_stride;
    std::int64_t column_stride;
};

// Codes in tiles of `tile` codes, dimension by dimension: values[t][d][tile]. The last tile is padded with
// codes that are never nearest. Score of a code: x.e - offset, the greatest is nearest.
struct PackedCodebook {
    std::int64_t tile = 0;
    std::int64_t tiles = 0;
    std::vector<float> values;
    std::vector<float> offsets;
};

struct Lookup {
    Rows x;
    const float* codebook;  // [codes, dim], contiguous; unit length if cosine
    std::int64_t codes;
    bool cosine;
    const bool* mask;             // [count] or null
    std::int64_t* indices;        // [count]
    float* distance;              // [count] or null
    const void* quantized_codes;  // [codes, dim] in the dtype of x, or null
    void* quantized;              // [count, dim] in the dtype of x, or null
};

// Sums over a range of rows; in double so that they do not depend on how long the range is.
struct Statistics {
    std::vector<double> sums;          // [codes, dim]
    std::vector<std::int64_t> counts;  // [codes]
    double squared_error = 0;
};

struct Focal {
    const void* logits;  // [rows, classes], classes adjacent
    Dtype dtype;
    std::int64_t classes;
    std::int64_t row_stride;
    const std::int64_t* target;  // [rows]
    const float* weight;         // [classes] or null
    const bool* mask;            // [rows] or null
    float gamma;
    std::int64_t ignore_index;
    float label_smoothing;
    float gradient_scale;  // of every row's gradient
    float* losses;         // [rows]
    void* gradient;        // [rows, classes] contiguous in the dtype of logits, or null
};

struct Kernels {
    std::int64_t lanes;
    std::int64_t widest_tile;
    void (*nearest_rows)(const Lookup&, const PackedCodebook&, std::int64_t begin, std::int64_t end,
                         Statistics* statistics);
    void (*focal_rows)(const Focal&, std::int64_t begin, std::int64_t end);
    void (*straight_through_rows)(const float* x, const float* quantized, const float* gradient, float scale,
                                  float* out, std::int64_t count);
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace goskill::ops
