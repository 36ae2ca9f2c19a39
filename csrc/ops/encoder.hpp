// The goal encoder with the nearest code at its end, in one pass over blocks of rows that stay in the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace goskill::ops {

// Rows of `rows`, normalised to (row - mean) / std if there is a mean; where `from` is not null their
// differences rows[to] - rows[from].
struct Changes {
    const float* rows;  // [row_count, dim], contiguous
    std::int64_t row_count;
    std::int64_t dim;
    const float* mean;         // [dim] or null
    const float* std;          // [dim] or null
    const std::int64_t* from;  // [count] or null
    const std::int64_t* to;    // [count], or null for the rows as they are
    std::int64_t count;
};

struct Linear {
    const float* weight;  // [out, in], contiguous
    const float* bias;    // [out]
    std::int64_t in;
    std::int64_t out;
};

// A layer that stands for Linear, LayerNorm and Linear, between which nothing lies but a division by one
// number: the squares of its `spread` first outputs add up to the variance; the others are divided by the
// root of that and LayerNorm's epsilon, and then moved by `shift`.
struct Folded {
    float* weight;        // [spread + outputs of the second layer, inputs of the first], contiguous
    float* bias;          // [spread + outputs of the second layer]
    float* shift;         // [outputs of the second layer]
    std::int64_t spread;  // at least the lesser of the inputs and one, and the width between the layers
};

// Writes it, from sums in double.
void fold_norm(const Linear& first, const float* norm_weight, const float* norm_bias, const Linear& second,
               const Folded& folded);

// Layers with ReLU between them and Tanh at the end, the first of them folded; then the nearest of the codes.
struct Encoder {
    std::vector<Linear> linears;  // at least one
    std::int64_t spread;          // a multiple of 16, the greatest number of lanes
    const float* shift;
    float epsilon;
    const float* codebook;  // [codes, dim()], contiguous
    std::int64_t codes;

    // Of the embedding.
    std::int64_t dim() const { return linears.back().out - (linears.size() == 1 ? spread : 0); }
};

// Precisions, of which each is dearer and nearer to the truth than the one before it.
enum class Level : int { int8 = 0, int16 = 1, float32 = 2 };

// How many rows were computed at each level, the last one included.
struct LevelCounts {
    std::int64_t rows[3] = {};
};

// Writes the code of every change into indices [count]. Where 8-bit and 16-bit integers multiply faster, rows
// begin there, and those go on to the next level that lie so near to the boundary between two codes that the
// error might have carried them across. That error is estimated, not proven: six times the root mean square
// and at least one and a half times the greatest of what is known of it, in proportion to how coarsely a row
// itself was rounded. So a code is float32's unless a row's error is more than that. Does not depend on
// `threads`. A single code needs no arithmetic.
LevelCounts encoded_codes(const Encoder& encoder, const Changes& changes, std::int64_t* indices, int threads);

// What follows is between encoder.cpp, which packs and decides, and the kernels.

// Memory that begins where a cache line does, so that no vector lies across two.
template <typename T>
struct AlignedAllocator {
    using value_type = T;
    AlignedAllocator() = default;
    template <typename Other>
    explicit AlignedAllocator(const AlignedAllocator<Other>&) {}
    T* allocate(std::size_t count) {
        return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
    }
    void deallocate(T* memory, std::size_t) { ::operator delete(memory, std::align_val_t{64}); }
    friend bool operator==(const AlignedAllocator&, const AlignedAllocator&) { return true; }
    friend bool operator!=(const AlignedAllocator&, const AlignedAllocator&) { return false; }
};

template <typename T>
using Aligned = std::vector<T, AlignedAllocator<T>>;

// A layer in panels of columns, for each of them group of inputs by group: weights[panel][in /
// group][column][group]. Inputs and columns are padded with zeros.
template <typename Weight>
struct PackedLinear {
    std::int64_t in = 0;     // for integers rounded up
    std::int64_t depth = 0;  // up to here inputs are multiplied: whole groups
    std::int64_t out = 0;    // as it is; the last panel is padded
    Aligned<Weight> weights;
    Aligned<float> bias;
    // For integers: a column's unit is `scale` times the row's, whose greatest magnitude becomes `levels`.
    Aligned<float> scale;
    float levels = 0;
};

struct PackedEncoder {
    std::int64_t widest = 0;       // floats from one row of a block to the next
    std::int64_t first_width = 0;  // padded width of the input
    std::int64_t spread = 0;
    Aligned<float> shift;
    float epsilon = 0;
    std::vector<PackedLinear<float>> float32;
    std::vector<PackedLinear<std::int16_t>> int16;  // the first layer for int8, the others for int16
    std::vector<PackedLinear<std::int8_t>> int8;    // all but the first: their inputs are not negative
    PackedLinear<float> codes;                      // scores x.e - |e|^2 / 2, minus infinity for padding
    std::int64_t padded_codes = 0;                  // to whole vectors
    // One over the distance between two codes, 1 if they are equal, 0 for a code and itself and for padding:
    // [codes, padded_codes].
    Aligned<float> inverse_distance;
};

// A row's code, and how far its embedding lies from the boundary to the nearest other code's rows.
struct Verdict {
    std::int32_t code;
    std::int32_t rival;
    float distance;  // negative if it means nothing
    float coarse;    // how many times the error of most rows its own can be, at least 1
};

struct EncoderTask {
    const PackedEncoder* encoder;
    const Changes* changes;
    const std::int64_t* chosen;  // which of the changes, or null for all
    const Verdict* before;       // of the same rows at the level below, or null
    Verdict* verdicts;           // in the order of chosen
    // [count, layers] or null: what one integer stood for in each layer, for the first after the division.
    float* units;
};

// Changes of distances since the level below, each over how coarse that was.
struct Differences {
    double squares = 0;
    std::int64_t count = 0;
    float greatest = 0;

    void add(const Differences& other) {
        squares += other.squares;
        count += other.count;
        greatest = other.greatest > greatest ? other.greatest : greatest;
    }
};

struct EncoderKernels {
    std::int64_t lanes;
    std::int64_t panel_width;
    // Rows [begin, end) of the task. Returns how they differ from the level below.
    Differences (*encode_rows)(const EncoderTask&, Level level, std::int64_t begin, std::int64_t end);
    bool integers;  // whether there are levels below float32
};

extern const EncoderKernels baseline_encoder;
#if defined(__x86_64__)
extern const EncoderKernels avx2_encoder;
extern const EncoderKernels avx512_encoder;
extern const EncoderKernels avx512vnni_encoder;
#endif

}  // namespace goskill::ops
