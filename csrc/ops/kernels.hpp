// CPU kernels of goskill.ops, compiled once per instruction set and chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace goskill::ops {

enum class Dtype : int { float32 = 0, bfloat16 = 1, float16 = 2 };

inline std::int64_t item_size(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

inline std::int64_t rounded_up(std::int64_t count, std::int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

// A matrix of any strides, counted in elements.
struct Rows {
    const void* data;
    Dtype dtype;
    std::int64_t count;
    std::int64_t dim;
    std::int64_t row_stride;
    std::int64_t column_stride;
};

// Codes less the centre, in tiles of `tile` codes, dimension by dimension: values[t][d][tile]. The last tile
// is padded with codes that are never nearest. Score of a code e for a row x, both less the centre:
// x.e - offset, the greatest is nearest.
struct PackedCodebook {
    std::int64_t tile = 0;
    std::int64_t tiles = 0;
    std::vector<float> values;
    std::vector<float> offsets;
    std::vector<float> centre;  // [dim], or empty where it is zero
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

// The gradient by x of quantized rows and their squared error: that of `quantized` plus scale (x - e).
struct StraightThrough {
    Rows x;
    Rows gradient;                // of `quantized`, in the dtype of x
    const float* codes;           // [codes, dim], contiguous
    const std::int64_t* indices;  // [count], -1 for rows that do not count: their gradient is 0
    float scale;
    void* out;  // [count, dim], contiguous, in the dtype of x
};

// New tokens of some sequences behind those whose keys and values are kept.
struct CachedAttention {
    const void*
        projected;  // [batch, fresh, 3, heads, head_width]: queries, keys and values of the new tokens
    Dtype dtype;    // of projected and out
    std::int64_t batch;
    std::int64_t fresh;
    std::int64_t heads;
    std::int64_t head_width;  // a multiple of 16
    float* keys;              // [batch, heads, head_width, key_stride], the new ones are written
    float* values;            // [batch, heads, capacity, head_width], the new ones are written
    std::int64_t capacity;
    std::int64_t key_stride;  // capacity rounded up to a multiple of 32
    std::int64_t length;      // tokens in the cache, the new ones included
    const bool* visible;      // [batch, capacity] or null
    std::int64_t first_read;  // of the new tokens, the first whose attention is asked for
    void* out;                // [batch, fresh - first_read, heads, head_width]
};

struct AddNorm {
    float* residual;     // [rows, width], to which the addend is added
    const void* addend;  // [rows, width] or null
    const float* weight;
    const float* bias;
    float epsilon;
    Dtype dtype;         // of addend and out
    std::int64_t width;  // a multiple of 16
    void* out;           // [rows, width]
};

// A branch of a transformer in training: with its bias and dropout it is added to the residual, and the sum
// is normalised.
struct DroppedSum {
    const float* residual;       // [rows, width]
    const void* branch;          // [rows, width]
    const float* branch_bias;    // [width]
    const std::int16_t* random;  // [rows, width]
    std::int16_t least_kept;     // of the random numbers, that keeps its element
    float kept_scale;            // of the elements that are kept
    const float* weight;         // of the LayerNorm, as its bias and epsilon
    const float* bias;
    float epsilon;
    Dtype dtype;         // of the branch and the norm
    std::int64_t width;  // a multiple of 16
};

// Gradients by the results, and by what was added.
struct DroppedSumGradient {
    const float* total;     // the sum
    const float* by_total;  // [rows, width], as all of these
    const void* by_normal;
    float* by_residual;
    void* by_branch;
};

struct BiasReLU {
    const float* bias;  // [width]
    Dtype dtype;
    std::int64_t width;  // a multiple of 16
};

constexpr int RANDOM_STREAMS = 16;
constexpr std::int64_t RANDOM_BLOCK = 1 << 14;  // words that have a seed of their own

// Weights that some tasks share, each under a mask of its own.
struct Masking {
    const bool* masks;          // [any, size]
    const std::int64_t* order;  // [tasks]: whose mask each of the tasks has
    std::int64_t tasks;
    std::int64_t size;
    Dtype dtype;  // of what a task sees, and of its gradient
};

// Tokens of some sequences that attend to themselves and those before them, with dropout of the weights. Rows
// of weights are `room` long, the length rounded up to whole vectors.
struct SelfAttention {
    const void* projected;  // [batch, length, 3, heads, head_width]: queries, keys and values
    Dtype dtype;            // of projected, out and the gradients
    std::int64_t batch;
    std::int64_t length;
    std::int64_t heads;
    std::int64_t head_width;     // a multiple of 16
    float scale;                 // of the scores
    const std::int16_t* random;  // [batch, heads, length, room]; the gradient needs none
    std::int16_t least_kept;     // of the random numbers, that keeps its weight
    float kept_scale;            // of the weights that are kept
    const float* bias;           // of what is projected, [3, heads, head_width], or null
    float* weights;  // [batch, heads, length, room], before dropout, with a minus if dropped: written, or
                     // read by the gradient
    void* out;       // [batch, length, heads, head_width]
};

struct Adam {
    double learning_rate;
    double beta1, beta2;
    double epsilon;
    double weight_decay;
    bool decoupled;  // AdamW: the decay is not part of the gradient
};

// A parameter with its moments, all float32 [size].
struct AdamParameter {
    float* values;
    const float* gradient;
    float* average;
    float* square;
    float* step;  // how many steps it has had
    std::int64_t size;
};

// What a step multiplies gradients and averages by, and divides the roots of the squares by.
struct AdamScales {
    float gradient, average, root;
};

struct Kernels {
    std::int64_t lanes;
    std::int64_t widest_tile;
    void (*nearest_rows)(const Lookup&, const PackedCodebook&, std::int64_t begin, std::int64_t end,
                         Statistics* statistics);
    void (*focal_rows)(const Focal&, std::int64_t begin, std::int64_t end);
    void (*straight_through_rows)(const StraightThrough&, std::int64_t begin, std::int64_t end);
    void (*attention_heads)(const CachedAttention&, std::int64_t begin, std::int64_t end);
    void (*add_norm_rows)(const AddNorm&, std::int64_t begin, std::int64_t end);
    // Of the weights [begin, end): weights [size] to each task's [tasks, size], and gradients of these back.
    void (*mask_weights)(const Masking&, const float* weights, void* masked, std::int64_t begin,
                         std::int64_t end);
    void (*sum_masked)(const Masking&, const void* gradients, float* sum, std::int64_t begin,
                       std::int64_t end);
    // Heads [begin, end) of all sequences, counted through.
    void (*self_attention_heads)(const SelfAttention&, std::int64_t begin, std::int64_t end);
    void (*self_attention_gradient_heads)(const SelfAttention&, const void* gradient, void* out, float* sums,
                                          std::int64_t begin, std::int64_t end);
    void (*random_words)(std::uint64_t seed, std::int64_t block, std::uint32_t* out, std::int64_t count);
    // Rows [begin, end), as those that follow. Gradients by vectors are added to `sums`.
    void (*dropped_sum_rows)(const DroppedSum&, float* total, void* normal, std::int64_t begin,
                             std::int64_t end);
    void (*dropped_sum_gradient_rows)(const DroppedSum&, const DroppedSumGradient&, float* sums,
                                      std::int64_t begin, std::int64_t end);
    void (*bias_relu_rows)(const BiasReLU&, const void* values, void* out, std::int64_t begin,
                           std::int64_t end);
    void (*bias_relu_gradient_rows)(const BiasReLU&, const void* activation, const void* gradient, void* out,
                                    float* sums, std::int64_t begin, std::int64_t end);
    // The sum of their squares.
    double (*squares)(const float* values, std::int64_t count);
    void (*adam)(const Adam&, const AdamParameter&, const AdamScales&, std::int64_t begin, std::int64_t end);
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace goskill::ops
