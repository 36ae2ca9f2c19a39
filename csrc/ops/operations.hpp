// The CPU operations of goskill.ops: threads, and the kernels that fit this processor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/kernels.hpp"

namespace goskill::ops {

// "avx512", "avx2" or "baseline": the environment variable GOSKILL_CPU if set, else the best that runs here.
const std::string& instruction_set();

// A thread has to be worth waking, also on a busy machine: about 100 microseconds of work.
int useful_threads(std::int64_t multiply_adds, int threads);

// About which scores of the codes [codes, dim] lose nothing to an offset that all share: [dim], or nothing if
// it is not farther from zero than the codes lie apart.
std::vector<float> codebook_centre(const float* codebook, std::int64_t codes, std::int64_t dim);

// Fills indices, and distance and quantized where they are not null.
void nearest_code(const Lookup& lookup, int threads);

// The same, and in the same read of x the counts [codes] and sums [codes, dim] of the rows of each code and
// the mean squared error over selected rows and dimensions, whose number is `elements`, 0 if there is none.
// Does not depend on `threads`.
void quantize(const Lookup& lookup, float* counts, float* sums, float* mean_squared_error, float* elements,
              int threads);

// Fills `out`.
void straight_through(const StraightThrough& task, int threads);

// The moving averages of a codebook and the codes that follow them, all in place.
struct MovingCodebook {
    float* cluster_size;  // [codes]
    float* average;       // [codes, dim]
    float* codes;         // [codes, dim]
    std::int64_t count;
    std::int64_t dim;
};

// Moves the averages by (1 - decay) towards counts and sums; a code is its average over its Laplace-smoothed
// size, and stays where it is if that is 0.
void move_codebook(const MovingCodebook& codebook, const float* counts, const float* sums, float decay,
                   float eps, int threads);

enum class Reduction : int { none = 0, mean = 1, sum = 2 };

// Losses per row, and their reduction into `reduced` unless it is none. Returns the first row whose target is
// no class and not to be ignored, before anything is computed, or -1.
std::int64_t focal_loss(Focal focal, std::int64_t rows, Reduction reduction, float* reduced, int threads);

// Attention of the new tokens, whose keys and values join the cache.
void cached_attention(const CachedAttention& task, int threads);

// Weights [size] to each task's [tasks, size], zero where its mask is; and the sum of gradients of these.
void mask_weights(const Masking& task, const float* weights, void* masked, int threads);
void sum_masked(const Masking& task, const void* gradients, float* sum, int threads);

// Evenly distributed words, the same for a seed however many threads there are.
void random_words(std::uint64_t seed, std::uint32_t* out, std::int64_t count, int threads);

// How many parts rows are summed in: gradients by vectors do not depend on the threads.
constexpr std::int64_t SUM_PARTS = 16;

// The sum and its norm; and from their gradients those of the rows, and by the norm's weight and bias and the
// branch's bias `sums` [SUM_PARTS, 3, width], zeros before.
void dropped_sum(const DroppedSum& task, std::int64_t rows, float* total, void* normal, int threads);
void dropped_sum_gradient(const DroppedSum& task, const DroppedSumGradient& gradient, std::int64_t rows,
                          float* sums, int threads);

// ReLU of values with a bias; and from it and its gradient that by the values, and by the bias `sums`
// [SUM_PARTS, width], zeros before.
void bias_relu(const BiasReLU& task, std::int64_t rows, const void* values, void* out, int threads);
void bias_relu_gradient(const BiasReLU& task, std::int64_t rows, const void* activation, const void* gradient,
                        void* out, float* sums, int threads);

// Attention with dropout; and the gradient by what is projected from that by the result, and by the bias
// `sums` [SUM_PARTS, 3, heads, head_width], zeros before.
void self_attention(const SelfAttention& task, int threads);
void self_attention_gradient(const SelfAttention& task, const void* gradient, void* out, float* sums,
                             int threads);
// The length of a row of weights.
std::int64_t attention_room(std::int64_t length);

// A step of Adam for each of the parameters, whose steps it counts, with gradients clipped to a norm of
// `clip` where there is one. Returns the norm before clipping. Does not depend on `threads`.
float adam(const Adam& task, const std::vector<AdamParameter>& parameters, std::optional<float> clip,
           int threads);

// Adds to the residual and normalises the sums.
void add_norm(const AddNorm& task, std::int64_t rows, int threads);

}  // namespace goskill::ops
