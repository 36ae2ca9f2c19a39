#include "ops/encoder.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/operations.hpp"
#include "parallel.hpp"

namespace goskill::ops {
namespace {

constexpr std::int64_t integer_lanes = 16;
constexpr std::int64_t widest_integers = 1 << 14;  // inputs whose sums fit 32 bits with room to spare
constexpr std::int64_t most_integer_codes = 256;   // a table of their distances is small
constexpr std::int64_t fewest_integer_rows = 4096;
constexpr std::int64_t rows_per_piece = 960;  // whole blocks of every kernel
constexpr std::int64_t least_sample = 128, greatest_sample = 1024;

const EncoderKernels& kernels() {
#if defined(__x86_64__)
    if (instruction_set() == "avx512vnni") return avx512vnni_encoder;
    if (instruction_set() == "avx512") return avx512_encoder;
    if (instruction_set() == "avx2") return avx2_encoder;
#endif
    return baseline_encoder;
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// Shapes and the padded bias of a layer; value(column, input) gives the weights.
template <typename Weight, typename Value>
PackedLinear<Weight> pack(std::int64_t in, std::int64_t out, const float* bias, const Value& value) {
    constexpr std::int64_t group = sizeof(Weight) == 4 ? 1 : 4 / static_cast<std::int64_t>(sizeof(Weight));
    const std::int64_t panel = kernels().panel_width;
    PackedLinear<Weight> packed;
    packed.in = sizeof(Weight) == 4 ? in : round_up(in, integer_lanes);
    packed.depth = round_up(in, group);
    packed.out = out;
    packed.weights.assign(static_cast<std::size_t>(round_up(out, panel) * packed.in), Weight{});
    packed.bias.assign(static_cast<std::size_t>(round_up(out, panel)), 0.0f);
    for (std::int64_t column = 0; column < out; ++column) {
        if (bias != nullptr) packed.bias[static_cast<std::size_t>(column)] = bias[column];
        Weight* const own =
            packed.weights.data() + column / panel * panel * packed.in + column % panel * group;
        for (std::int64_t i = 0; i < in; ++i) own[i / group * group * panel + i % group] = value(column, i);
    }
    return packed;
}

// Weights in units of which the greatest of a column has `weight_levels`.
template <typename Weight>
PackedLinear<Weight> pack_integers(const Linear& layer, float weight_levels) {
    std::vector<float> unit(static_cast<std::size_t>(layer.out));
    for (std::int64_t column = 0; column < layer.out; ++column) {
        float top = 0;
        for (std::int64_t i = 0; i < layer.in; ++i)
            top = std::max(top, std::fabs(layer.weight[column * layer.in + i]));
        unit[static_cast<std::size_t>(column)] = top / weight_levels;
    }
    auto value = [&](std::int64_t column, std::int64_t i) {
        const float size = unit[static_cast<std::size_t>(column)];
        const long levels = size > 0 ? std::lrint(layer.weight[column * layer.in + i] / size) : 0;
        const long most = static_cast<long>(weight_levels);
        return static_cast<Weight>(std::clamp(levels, -most, most));
    };
    PackedLinear<Weight> packed = pack<Weight>(layer.in, layer.out, layer.bias, value);
    packed.scale.assign(packed.bias.size(), 0.0f);
    std::copy(unit.begin(), unit.end(), packed.scale.begin());
    return packed;
}

// The sum of a column's magnitudes in its own greatest: how far its sums can grow.
double reach(const Linear& layer) {
    double greatest = 1;
    for (std::int64_t column = 0; column < layer.out; ++column) {
        double total = 0, top = 0;
        for (std::int64_t i = 0; i < layer.in; ++i) {
            const double size = std::fabs(static_cast<double>(layer.weight[column * layer.in + i]));
            total += size;
            top = std::max(top, size);
        }
        if (top > 0) greatest = std::max(greatest, total / top);
    }
    return greatest;
}

// 16-bit factors as large as 32-bit sums allow, about as many levels for the weights as for the inputs.
PackedLinear<std::int16_t> pack_int16(const Linear& layer) {
    constexpr double most = std::numeric_limits<std::int32_t>::max(), limit = 32767;
    const double growth = reach(layer);
    const double weight_levels = std::floor(std::min(limit, std::sqrt(most / growth)));
    PackedLinear<std::int16_t> packed = pack_integers<std::int16_t>(layer, static_cast<float>(weight_levels));
    // Rounding adds at most half a unit to each weight.
    const double sums = weight_levels * growth + 0.5 * static_cast<double>(layer.in);
    packed.levels = static_cast<float>(std::floor(std::min(limit, most / sums)));
    return packed;
}

PackedLinear<std::int8_t> pack_int8(const Linear& layer) {
    PackedLinear<std::int8_t> packed = pack_integers<std::int8_t>(layer, 127);
    packed.levels = 255;
    return packed;
}

PackedLinear<float> pack_float(const Linear& layer) {
    return pack<float>(layer.in, layer.out, layer.bias, [&](std::int64_t column, std::int64_t i) {
        return layer.weight[column * layer.in + i];
    });
}

// The score x.e - |e|^2 / 2 less what all codes share, so that codes near each other and far from zero differ
// in it as much as they do: with e less the centre c, x.e - (|e|^2 / 2 + c.e).
void pack_codes(const Encoder& encoder, PackedEncoder& packed) {
    const std::int64_t dim = encoder.dim();
    std::vector<float> centre = codebook_centre(encoder.codebook, encoder.codes, dim);
    centre.resize(static_cast<std::size_t>(dim));
    const auto moved = [&](std::int64_t code, std::int64_t d) {
        return encoder.codebook[code * dim + d] - centre[static_cast<std::size_t>(d)];
    };
    packed.codes = pack<float>(dim, encoder.codes, nullptr, moved);
    packed.padded_codes = round_up(encoder.codes, kernels().lanes);
    for (std::size_t code = 0; code < packed.codes.bias.size(); ++code) {
        double offset = 0;
        const bool real = static_cast<std::int64_t>(code) < encoder.codes;
        for (std::int64_t d = 0; real && d < dim; ++d) {
            const double value = static_cast<double>(moved(static_cast<std::int64_t>(code), d));
            offset += value * (value / 2 + static_cast<double>(centre[static_cast<std::size_t>(d)]));
        }
        packed.codes.bias[code] =
            real ? -static_cast<float>(offset) : -std::numeric_limits<float>::infinity();
    }
}

void pack_distances(const Encoder& encoder, PackedEncoder& packed) {
    const std::int64_t dim = encoder.dim(), padded = packed.padded_codes;
    packed.inverse_distance.assign(static_cast<std::size_t>(encoder.codes * padded), 0.0f);
    for (std::int64_t a = 0; a < encoder.codes; ++a) {
        for (std::int64_t b = 0; b < encoder.codes; ++b) {
            if (a == b) continue;
            double square = 0;
            for (std::int64_t d = 0; d < dim; ++d) {
                const double change = static_cast<double>(encoder.codebook[a * dim + d]) -
                                      static_cast<double>(encoder.codebook[b * dim + d]);
                square += change * change;
            }
            const double inverse = square > 0 ? 1 / std::sqrt(square) : 1;
            packed.inverse_distance[static_cast<std::size_t>(a * padded + b)] = static_cast<float>(inverse);
        }
    }
}

bool finite(const float* values, std::int64_t count) {
    return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

bool integers_fit(const Encoder& encoder, std::int64_t rows) {
    if (!kernels().integers || rows < fewest_integer_rows || encoder.codes > most_integer_codes) return false;
    if (encoder.linears.size() < 2) return false;  // levels differ in the layers behind the first
    const auto fits = [](const Linear& layer) {
        return layer.in <= widest_integers && finite(layer.weight, layer.in * layer.out) &&
               finite(layer.bias, layer.out);
    };
    return std::all_of(encoder.linears.begin(), encoder.linears.end(), fits) &&
           finite(encoder.shift, encoder.linears.front().out - encoder.spread) &&
           finite(encoder.codebook, encoder.codes * encoder.dim());
}

PackedEncoder pack(const Encoder& encoder, bool integers) {
    PackedEncoder packed;
    const std::int64_t panel = kernels().panel_width;
    packed.first_width = round_up(encoder.linears.front().in, panel);
    packed.widest = std::max(packed.first_width, round_up(encoder.codes, panel));
    for (const Linear& layer : encoder.linears) {
        packed.float32.push_back(pack_float(layer));
        packed.widest = std::max(packed.widest, round_up(layer.out, panel));
        if (!integers) continue;
        packed.int16.push_back(pack_int16(layer));
        if (packed.int16.size() > 1) packed.int8.push_back(pack_int8(layer));
    }
    // An odd number of cache lines: rows at powers of two would get in each other's way.
    packed.widest += packed.widest % 32 == 0 ? 16 : 0;
    packed.spread = encoder.spread;
    const std::int64_t moved = encoder.linears.front().out - encoder.spread;
    packed.shift.assign(static_cast<std::size_t>(round_up(moved, panel)), 0.0f);
    std::copy_n(encoder.shift, moved, packed.shift.begin());
    packed.epsilon = encoder.epsilon;
    pack_codes(encoder, packed);
    if (integers) pack_distances(encoder, packed);
    return packed;
}

void check_rows(const std::string& name, const std::int64_t* rows, std::int64_t count, std::int64_t limit) {
    for (std::int64_t i = 0; rows != nullptr && i < count; ++i) {
        if (rows[i] < 0 || rows[i] >= limit)
            throw std::out_of_range(name + " must name rows from 0 to below " + std::to_string(limit) +
                                    ", got " + std::to_string(rows[i]) + " at " + std::to_string(i));
    }
}

// Labels rows level by level.
class Labeller {
  public:
    Labeller(const PackedEncoder& encoder, const Changes& changes, std::int64_t* indices, int threads)
        : encoder_(encoder), changes_(changes), indices_(indices), threads_(threads) {
        for (const PackedLinear<float>& layer : encoder.float32) multiply_adds_ += layer.in * layer.out;
    }

    // Labels the chosen changes, or all `count` if there is no choice. Returns how they differ from the level
    // below.
    Differences label(Level level, const std::int64_t* chosen, std::int64_t count, const Verdict* before) {
        std::vector<Verdict> verdicts(static_cast<std::size_t>(count));
        std::vector<float> units(level == Level::float32 ? 0 : verdicts.size() * encoder_.float32.size());
        float* const written = units.empty() ? nullptr : units.data();
        const EncoderTask task{&encoder_, &changes_, chosen, before, verdicts.data(), written};
        const Differences differences = run(task, level, count);
        for (std::int64_t row = 0; row < count; ++row)
            indices_[chosen == nullptr ? row : chosen[row]] = verdicts[static_cast<std::size_t>(row)].code;
        if (level != Level::float32) {
            const std::vector<std::int64_t> sample = sampled(count);
            compare_units(units, sample, verdicts);
            refine(static_cast<Level>(static_cast<int>(level) + 1), chosen, sample, verdicts);
        }
        return differences;
    }

    const LevelCounts& counts() const { return counts_; }

  private:
    Differences run(const EncoderTask& task, Level level, std::int64_t count) {
        counts_.rows[static_cast<int>(level)] += count;
        // Pieces are taken one after the other, so that a thread that is held up does not hold up the rest.
        const std::int64_t pieces = (count + rows_per_piece - 1) / rows_per_piece;
        const int threads = useful_threads(count * multiply_adds_, threads_);
        std::atomic<std::int64_t> next{0};
        std::vector<Differences> found(static_cast<std::size_t>(pieces));
        parallel_for(threads, threads, [&](std::int64_t, std::int64_t) {
            for (std::int64_t piece = next++; piece < pieces; piece = next++) {
                const std::int64_t begin = piece * rows_per_piece;
                found[static_cast<std::size_t>(piece)] =
                    kernels().encode_rows(task, level, begin, std::min(count, begin + rows_per_piece));
            }
        });
        Differences all;  // added in one order, whatever the threads
        for (const Differences& some : found) all.add(some);
        return all;
    }

    static std::vector<std::int64_t> sampled(std::int64_t count) {
        const std::int64_t size = std::min(count, std::clamp(count / 256, least_sample, greatest_sample));
        std::vector<std::int64_t> rows(static_cast<std::size_t>(size));
        for (std::int64_t i = 0; i < size; ++i) rows[static_cast<std::size_t>(i)] = i * count / size;
        return rows;
    }

    // Says of every row how coarse it is: errors grow with the units, so by how much at most one of its units
    // exceeds what nine in ten of the sampled rows have in that layer. Not the sample's greatest unit, for
    // that may be a rare row's whose own error happens to be small.
    static void compare_units(const std::vector<float>& units, const std::vector<std::int64_t>& sample,
                              std::vector<Verdict>& verdicts) {
        const std::size_t layers = units.size() / verdicts.size();
        for (std::size_t layer = 0; layer < layers; ++layer) {
            std::vector<float> known;
            for (const std::int64_t row : sample) {
                const float unit = units[static_cast<std::size_t>(row) * layers + layer];
                if (std::isfinite(unit)) known.push_back(unit);
            }
            float usual = 0;
            if (!known.empty()) {
                const auto place = known.begin() + static_cast<std::ptrdiff_t>(known.size() * 9 / 10);
                std::nth_element(known.begin(), place, known.end());
                usual = *place;
            }
            for (std::size_t row = 0; row < verdicts.size(); ++row) {
                const float unit = units[row * layers + layer];
                if (unit > usual) verdicts[row].coarse = std::max(verdicts[row].coarse, unit / usual);
            }
        }
    }

    // How far errors are taken to reach.
    static float bound(const Differences& known) {
        const double typical =
            known.count > 0 ? std::sqrt(known.squares / static_cast<double>(known.count)) : 0;
        return std::max(6 * static_cast<float>(typical), 1.5f * known.greatest);
    }

    // Labels at the next level the sample of the rows, and all that lie nearer to a boundary than the errors
    // of this level reach that the next one has shown, in proportion to how coarse a row is; what is known
    // grows until no such row is left.
    void refine(Level next, const std::int64_t* chosen, std::vector<std::int64_t> rows,
                const std::vector<Verdict>& verdicts) {
        const std::int64_t count = static_cast<std::int64_t>(verdicts.size());
        std::vector<bool> refined(verdicts.size());
        Differences known;
        float reach = 0;
        while (!rows.empty()) {
            std::vector<std::int64_t> changes;
            std::vector<Verdict> before;
            for (const std::int64_t row : rows) {
                const std::size_t place = static_cast<std::size_t>(row);
                refined[place] = true;
                changes.push_back(chosen == nullptr ? row : chosen[row]);
                before.push_back(verdicts[place]);
            }
            const std::int64_t size = static_cast<std::int64_t>(rows.size());
            known.add(label(next, changes.data(), size, before.data()));
            reach = std::max(reach, bound(known));
            rows.clear();
            for (std::int64_t row = 0; row < count; ++row) {
                const std::size_t place = static_cast<std::size_t>(row);
                const Verdict& verdict = verdicts[place];
                if (!refined[place] && !(verdict.distance > reach * verdict.coarse)) rows.push_back(row);
            }
        }
    }

    const PackedEncoder& encoder_;
    const Changes& changes_;
    std::int64_t* indices_;
    int threads_;
    std::int64_t multiply_adds_ = 0;
    LevelCounts counts_;
};

}  // namespace

LevelCounts encoded_codes(const Encoder& encoder, const Changes& changes, std::int64_t* indices,
                          int threads) {
    check_rows("from_row", changes.from, changes.count, changes.row_count);
    check_rows("to_row", changes.to, changes.count, changes.row_count);
    if (encoder.codes == 1) std::fill_n(indices, changes.count, 0);
    if (changes.count == 0 || encoder.codes == 1) return {};
    const bool integers = integers_fit(encoder, changes.count);
    const PackedEncoder packed = pack(encoder, integers);
    Labeller labeller(packed, changes, indices, threads);
    labeller.label(integers ? Level::int8 : Level::float32, nullptr, changes.count, nullptr);
    return labeller.counts();
}

}  // namespace goskill::ops
