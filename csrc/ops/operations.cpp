#include "ops/operations.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <vector>

#include "data/fault.hpp"
#include "parallel.hpp"

namespace goskill::ops {
namespace {

bool runs_here(const std::string& name) {
    if (name == "baseline") return true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (name == "avx2") return avx2;
    if (name == "avx512") {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    }
#endif
    return false;
}

std::string choose_instruction_set() {
    if (const char* wanted = std::getenv("GOSKILL_CPU")) {
        if (!runs_here(wanted)) {
            throw InputFault("GOSKILL_CPU must be avx512, avx2 or baseline and run on this processor, got " +
                             std::string(wanted));
        }
        return wanted;
    }
    for (const char* name : {"avx512", "avx2"}) {
        if (runs_here(name)) return name;
    }
    return "baseline";
}

const Kernels& kernels() {
#if defined(__x86_64__)
    if (instruction_set() == "avx512") return avx512_kernels;
    if (instruction_set() == "avx2") return avx2_kernels;
#endif
    return baseline_kernels;
}

PackedCodebook pack(const Lookup& lookup, int threads) {
    const std::int64_t dim = lookup.x.dim, codes = lookup.codes;
    PackedCodebook packed;
    if (!lookup.cosine) packed.centre = codebook_centre(lookup.codebook, codes, dim);
    const std::vector<float> zeros(packed.centre.empty() ? static_cast<std::size_t>(dim) : 0);
    const float* centre = packed.centre.empty() ? zeros.data() : packed.centre.data();
    packed.tile = codes <= kernels().lanes ? kernels().lanes : kernels().widest_tile;
    packed.tiles = (codes + packed.tile - 1) / packed.tile;
    const std::int64_t padded = packed.tiles * packed.tile;
    packed.values.resize(static_cast<std::size_t>(padded * dim));
    packed.offsets.assign(static_cast<std::size_t>(padded), std::numeric_limits<float>::infinity());
    parallel_for(
        packed.tiles, useful_threads(codes * dim, threads), [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t code = begin * packed.tile; code < std::min(codes, end * packed.tile); ++code) {
                const float* from = lookup.codebook + code * dim;
                float* to =
                    packed.values.data() + code / packed.tile * packed.tile * dim + code % packed.tile;
                double square = 0;
                for (std::int64_t d = 0; d < dim; ++d) {
                    const float value = from[d] - centre[d];
                    to[d * packed.tile] = value;
                    square += static_cast<double>(value) * static_cast<double>(value);
                }
                packed.offsets[static_cast<std::size_t>(code)] =
                    lookup.cosine ? 0.0f : static_cast<float>(square / 2);
            }
        });
    return packed;
}

std::int64_t work(const Lookup& lookup) { return lookup.x.count * lookup.x.dim * (lookup.codes + 16); }

// How many parts the statistics of a batch are gathered in: a matter of its shape, never of the threads.
std::int64_t statistics_parts(const Lookup& lookup) {
    constexpr std::int64_t memory = std::int64_t{32} << 20;
    const std::int64_t bytes = lookup.codes * lookup.x.dim * static_cast<std::int64_t>(sizeof(double));
    const std::int64_t affordable = std::max<std::int64_t>(2, memory / bytes);
    const std::int64_t useful = std::max<std::int64_t>(1, lookup.x.count / 1024);
    return std::min({affordable, useful, std::int64_t{16}});
}

bool is_selected(const Focal& focal, std::int64_t row) {
    return focal.target[row] != focal.ignore_index && (focal.mask == nullptr || focal.mask[row]);
}

// Whether all targets of selected rows are classes; a loop without branches.
bool targets_are_classes(const Focal& focal, std::int64_t rows) {
    bool fine = true;
    for (std::int64_t row = 0; row < rows; ++row) {
        const bool valid =
            static_cast<std::uint64_t>(focal.target[row]) < static_cast<std::uint64_t>(focal.classes);
        fine &= valid | !is_selected(focal, row);
    }
    return fine;
}

// Calls body(part, begin, end) for the rows of each of SUM_PARTS parts.
void for_parts(std::int64_t rows, int threads,
               const std::function<void(std::int64_t part, std::int64_t begin, std::int64_t end)>& body) {
    parallel_for(SUM_PARTS, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t part = begin; part < end; ++part)
            body(part, rows * part / SUM_PARTS, rows * (part + 1) / SUM_PARTS);
    });
}

double total_weight(const Focal& focal, std::int64_t rows) {
    std::int64_t count = 0;
    double total = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
        const bool selected = is_selected(focal, row);
        count += selected;
        if (focal.weight != nullptr && selected)
            total += static_cast<double>(focal.weight[focal.target[row]]);
    }
    return focal.weight == nullptr ? static_cast<double>(count) : total;
}

double total_loss(const float* losses, std::int64_t rows) {
    constexpr std::int64_t lanes = 8;  // independent sums, so that one addition need not wait for the last
    double sums[lanes] = {};
    std::int64_t row = 0;
    for (; row + lanes <= rows; row += lanes) {
        for (std::int64_t lane = 0; lane < lanes; ++lane)
            sums[lane] += static_cast<double>(losses[row + lane]);
    }
    for (; row < rows; ++row) sums[0] += static_cast<double>(losses[row]);
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
}

}  // namespace

const std::string& instruction_set() {
    static const std::string chosen = choose_instruction_set();
    return chosen;
}

int useful_threads(std::int64_t multiply_adds, int threads) {
    const std::int64_t worth = std::max<std::int64_t>(1, multiply_adds / 2'000'000);
    return static_cast<int>(std::min<std::int64_t>(threads, worth));
}

void nearest_code(const Lookup& lookup, int threads) {
    if (lookup.x.count == 0) return;
    const PackedCodebook packed = pack(lookup, threads);
    parallel_for(lookup.x.count, useful_threads(work(lookup), threads),
                 [&](std::int64_t begin, std::int64_t end) {
                     kernels().nearest_rows(lookup, packed, begin, end, nullptr);
                 });
}

void quantize(const Lookup& lookup, float* counts, float* sums, float* mean_squared_error, float* elements,
              int threads) {
    const PackedCodebook packed = pack(lookup, threads);
    const std::int64_t size = lookup.codes * lookup.x.dim;
    const std::int64_t parts = statistics_parts(lookup);
    std::vector<Statistics> gathered(static_cast<std::size_t>(parts));
    const int useful = useful_threads(work(lookup), threads);
    parallel_for(parts, useful, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t part = begin; part < end; ++part) {
            Statistics& statistics = gathered[static_cast<std::size_t>(part)];
            statistics.sums.assign(static_cast<std::size_t>(size), 0.0);
            statistics.counts.assign(static_cast<std::size_t>(lookup.codes), 0);
            kernels().nearest_rows(lookup, packed, lookup.x.count * part / parts,
                                   lookup.x.count * (part + 1) / parts, &statistics);
        }
    });
    parallel_for(lookup.codes, useful, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t code = begin; code < end; ++code) {
            std::int64_t count = 0;
            for (const Statistics& part : gathered) count += part.counts[static_cast<std::size_t>(code)];
            counts[code] = static_cast<float>(count);
            for (std::int64_t i = code * lookup.x.dim; i < (code + 1) * lookup.x.dim; ++i) {
                double total = 0;
                for (const Statistics& part : gathered) total += part.sums[static_cast<std::size_t>(i)];
                sums[i] = static_cast<float>(total);
            }
        }
    });
    double error = 0, selected = 0;
    for (const Statistics& part : gathered) {
        error += part.squared_error;
        for (const std::int64_t count : part.counts) selected += static_cast<double>(count);
    }
    const double numbers = selected * static_cast<double>(lookup.x.dim);
    *elements = static_cast<float>(numbers);
    *mean_squared_error = numbers == 0 ? 0.0f : static_cast<float>(error / numbers);
}

void straight_through(const StraightThrough& task, int threads) {
    parallel_for(
        task.x.count, useful_threads(task.x.count * task.x.dim, threads),
        [&](std::int64_t begin, std::int64_t end) { kernels().straight_through_rows(task, begin, end); });
}

void move_codebook(const MovingCodebook& codebook, const float* counts, const float* sums, float decay,
                   float eps, int threads) {
    const float step = 1.0f - decay;
    double total = 0;
    for (std::int64_t code = 0; code < codebook.count; ++code) {
        codebook.cluster_size[code] += step * (counts[code] - codebook.cluster_size[code]);
        total += static_cast<double>(codebook.cluster_size[code]);
    }
    const double shrink = total / (total + static_cast<double>(codebook.count) * static_cast<double>(eps));
    const int useful = useful_threads(codebook.count * codebook.dim, threads);
    parallel_for(codebook.count, useful, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t code = begin; code < end; ++code) {
            const double size =
                (static_cast<double>(codebook.cluster_size[code]) + static_cast<double>(eps)) * shrink;
            const float smoothed = static_cast<float>(size);
            float* average = codebook.average + code * codebook.dim;
            float* out = codebook.codes + code * codebook.dim;
            const float* sum = sums + code * codebook.dim;
            for (std::int64_t d = 0; d < codebook.dim; ++d) average[d] += step * (sum[d] - average[d]);
            if (!(smoothed > 0)) continue;
            for (std::int64_t d = 0; d < codebook.dim; ++d) out[d] = average[d] / smoothed;
        }
    });
}

std::int64_t focal_loss(Focal focal, std::int64_t rows, Reduction reduction, float* reduced, int threads) {
    if (!targets_are_classes(focal, rows)) {
        std::int64_t bad = 0;
        while (!is_selected(focal, bad) || (focal.target[bad] >= 0 && focal.target[bad] < focal.classes))
            ++bad;
        return bad;
    }
    double divisor = 1;
    if (reduction == Reduction::mean) {
        divisor = total_weight(focal, rows);
        if (divisor == 0) divisor = 1;
    }
    focal.gradient_scale = static_cast<float>(1 / divisor);
    parallel_for(rows, useful_threads(rows * focal.classes * 16, threads),
                 [&](std::int64_t begin, std::int64_t end) { kernels().focal_rows(focal, begin, end); });
    if (reduction != Reduction::none) {
        *reduced = static_cast<float>(total_loss(focal.losses, rows) / divisor);
    }
    return -1;
}

void cached_attention(const CachedAttention& task, int threads) {
    const std::int64_t read = task.fresh - task.first_read;
    const std::int64_t multiply_adds = task.batch * task.heads * task.head_width * 2 * read * task.length;
    parallel_for(task.batch * task.heads, useful_threads(multiply_adds, threads),
                 [&](std::int64_t begin, std::int64_t end) { kernels().attention_heads(task, begin, end); });
}

void mask_weights(const Masking& task, const float* weights, void* masked, int threads) {
    parallel_for(task.size, useful_threads(task.size * task.tasks, threads),
                 [&](std::int64_t begin, std::int64_t end) {
                     kernels().mask_weights(task, weights, masked, begin, end);
                 });
}

void sum_masked(const Masking& task, const void* gradients, float* sum, int threads) {
    parallel_for(task.size, useful_threads(task.size * task.tasks, threads),
                 [&](std::int64_t begin, std::int64_t end) {
                     kernels().sum_masked(task, gradients, sum, begin, end);
                 });
}

void random_words(std::uint64_t seed, std::uint32_t* out, std::int64_t count, int threads) {
    const std::int64_t blocks = (count + RANDOM_BLOCK - 1) / RANDOM_BLOCK;
    parallel_for(blocks, useful_threads(count, threads), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t block = begin; block < end; ++block) {
            const std::int64_t first = block * RANDOM_BLOCK;
            kernels().random_words(seed, block, out + first, std::min(RANDOM_BLOCK, count - first));
        }
    });
}

void dropped_sum(const DroppedSum& task, std::int64_t rows, float* total, void* normal, int threads) {
    parallel_for(rows, useful_threads(rows * task.width, threads), [&](std::int64_t begin, std::int64_t end) {
        kernels().dropped_sum_rows(task, total, normal, begin, end);
    });
}

void dropped_sum_gradient(const DroppedSum& task, const DroppedSumGradient& gradient, std::int64_t rows,
                          float* sums, int threads) {
    for_parts(rows, useful_threads(rows * task.width, threads),
              [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
                  float* own = sums + part * 3 * task.width;
                  kernels().dropped_sum_gradient_rows(task, gradient, own, begin, end);
              });
}

void bias_relu(const BiasReLU& task, std::int64_t rows, const void* values, void* out, int threads) {
    parallel_for(rows, useful_threads(rows * task.width, threads), [&](std::int64_t begin, std::int64_t end) {
        kernels().bias_relu_rows(task, values, out, begin, end);
    });
}

void bias_relu_gradient(const BiasReLU& task, std::int64_t rows, const void* activation, const void* gradient,
                        void* out, float* sums, int threads) {
    for_parts(rows, useful_threads(rows * task.width, threads),
              [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
                  float* own = sums + part * task.width;
                  kernels().bias_relu_gradient_rows(task, activation, gradient, out, own, begin, end);
              });
}

std::int64_t attention_room(std::int64_t length) { return rounded_up(length, kernels().lanes); }

void self_attention(const SelfAttention& task, int threads) {
    const std::int64_t heads = task.batch * task.heads;
    parallel_for(
        heads, useful_threads(heads * task.length * task.length * task.head_width, threads),
        [&](std::int64_t begin, std::int64_t end) { kernels().self_attention_heads(task, begin, end); });
}

void self_attention_gradient(const SelfAttention& task, const void* gradient, void* out, float* sums,
                             int threads) {
    const std::int64_t heads = task.batch * task.heads;
    for_parts(heads, useful_threads(heads * task.length * task.length * task.head_width, threads),
              [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
                  float* own = sums + part * 3 * task.heads * task.head_width;
                  kernels().self_attention_gradient_heads(task, gradient, out, own, begin, end);
              });
}

float adam(const Adam& task, const std::vector<AdamParameter>& parameters, std::optional<float> clip,
           int threads) {
    constexpr std::int64_t part = 1 << 16;
    double total = 0;
    for (const AdamParameter& of : parameters) {
        std::vector<double> sums(static_cast<std::size_t>((of.size + part - 1) / part));
        parallel_for(static_cast<std::int64_t>(sums.size()), useful_threads(of.size, threads),
                     [&](std::int64_t begin, std::int64_t end) {
                         for (std::int64_t i = begin; i < end; ++i)
                             sums[static_cast<std::size_t>(i)] = kernels().squares(
                                 of.gradient + i * part, std::min(part, of.size - i * part));
                     });
        for (const double sum : sums) total += sum;
    }
    const float norm = static_cast<float>(std::sqrt(total));
    const float scale = clip ? *clip / (norm + 1e-6f) : 1.0f;
    for (const AdamParameter& of : parameters) {
        *of.step += 1;
        const double step = static_cast<double>(*of.step);
        const AdamScales scales{
            scale >= 1 ? 1.0f : scale,
            static_cast<float>(task.learning_rate / (1 - std::pow(task.beta1, step))),
            static_cast<float>(std::sqrt(1 - std::pow(task.beta2, step))),
        };
        parallel_for(
            of.size, useful_threads(of.size * 8, threads),
            [&](std::int64_t begin, std::int64_t end) { kernels().adam(task, of, scales, begin, end); });
    }
    return norm;
}

void add_norm(const AddNorm& task, std::int64_t rows, int threads) {
    parallel_for(rows, useful_threads(rows * task.width, threads),
                 [&](std::int64_t begin, std::int64_t end) { kernels().add_norm_rows(task, begin, end); });
}

}  // namespace goskill::ops
