// The operations on memory that ends where their arrays end, for shapes around the widths of vectors and
// tiles.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "ops/operations.hpp"

namespace {

using namespace goskill::ops;

constexpr int threads = 3;
std::mt19937 engine(0);
int failures = 0;

void check(bool holds, const char* what) {
    if (holds) return;
    std::printf("failed: %s\n", what);
    ++failures;
}

std::vector<float> normal(std::int64_t count) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = distribution(engine);
    return values;
}

std::vector<std::int64_t> integers(std::int64_t count, std::int64_t below) {
    std::vector<std::int64_t> values(static_cast<std::size_t>(count));
    for (std::int64_t& value : values)
        value = std::uniform_int_distribution<std::int64_t>(0, below - 1)(engine);
    return values;
}

std::unique_ptr<bool[]> mask(std::int64_t count) {
    auto values = std::make_unique<bool[]>(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = engine() % 4 != 0;
    return values;
}

// The upper halves of floats, which are bfloat16.
std::vector<std::uint16_t> bfloat16(const std::vector<float>& values) {
    std::vector<std::uint16_t> result;
    for (const float value : values) {
        std::uint32_t bits;
        __builtin_memcpy(&bits, &value, sizeof(bits));
        result.push_back(static_cast<std::uint16_t>(bits >> 16));
    }
    return result;
}

void look_up(std::int64_t rows, std::int64_t dim, std::int64_t codes) {
    const std::vector<float> x = normal(rows * dim), codebook = normal(codes * dim);
    std::vector<std::int64_t> indices(static_cast<std::size_t>(rows));
    std::vector<float> distance(indices.size()), quantized(x.size());
    const auto selected = mask(rows);
    Lookup lookup{{x.data(), Dtype::float32, rows, dim, dim, 1},
                  codebook.data(),
                  codes,
                  false,
                  nullptr,
                  indices.data(),
                  distance.data(),
                  nullptr,
                  nullptr};
    nearest_code(lookup, threads);
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto squared = [&](std::int64_t code) {
            double total = 0;
            for (std::int64_t d = 0; d < dim; ++d) {
                const double change = static_cast<double>(x[static_cast<std::size_t>(row * dim + d)]) -
                                      static_cast<double>(codebook[static_cast<std::size_t>(code * dim + d)]);
                total += change * change;
            }
            return total;
        };
        const double found = squared(indices[static_cast<std::size_t>(row)]);
        for (std::int64_t code = 0; code < codes; ++code)
            check(found <= squared(code) + 1e-3, "the nearest code");
    }
    std::vector<float> far_x = x, far_codebook = codebook;
    for (float& value : far_x) value += 1024;
    for (float& value : far_codebook) value += 1024;
    lookup.x.data = far_x.data();
    lookup.codebook = far_codebook.data();
    nearest_code(lookup, threads);
    lookup.codebook = codebook.data();
    const std::vector<std::uint16_t> halves = bfloat16(x);
    lookup.x = {halves.data(), Dtype::bfloat16, rows, dim, dim, 1};
    nearest_code(lookup, threads);

    std::vector<float> counts(static_cast<std::size_t>(codes)), sums(codebook.size()), average = codebook;
    float mean_squared_error = 0, elements = 0;
    lookup.x = {x.data(), Dtype::float32, rows, dim, dim, 1};
    lookup.mask = selected.get();
    lookup.distance = nullptr;
    lookup.quantized_codes = codebook.data();
    lookup.quantized = quantized.data();
    quantize(lookup, counts.data(), sums.data(), &mean_squared_error, &elements, threads);
    std::vector<float> out(x.size()), size(counts.size(), 1.0F), moved = codebook;
    straight_through({lookup.x, lookup.x, codebook.data(), indices.data(), 0.5F, out.data()}, threads);
    move_codebook({size.data(), average.data(), moved.data(), codes, dim}, counts.data(), sums.data(), 0.9F,
                  1e-5F, threads);
    for (const float value : moved) check(std::isfinite(value), "a moved codebook");
}

void lose(std::int64_t rows, std::int64_t classes) {
    const std::vector<float> logits = normal(rows * classes), weight(static_cast<std::size_t>(classes), 0.5F);
    const std::vector<std::int64_t> target = integers(rows, classes);
    const std::vector<std::uint16_t> halves = bfloat16(logits);
    const auto selected = mask(rows);
    std::vector<float> losses(static_cast<std::size_t>(rows)), gradient(logits.size());
    std::vector<std::uint16_t> half_gradient(logits.size());
    float reduced = 0;
    Focal focal{logits.data(), Dtype::float32, classes,        classes, target.data(),
                weight.data(), selected.get(), 2.0F,           -100,    0.1F,
                1.0F,          losses.data(),  gradient.data()};
    check(focal_loss(focal, rows, Reduction::mean, &reduced, threads) == -1, "all targets are classes");
    check(std::isfinite(reduced), "a focal loss");
    focal.logits = halves.data();
    focal.dtype = Dtype::bfloat16;
    focal.gradient = half_gradient.data();
    focal_loss(focal, rows, Reduction::none, nullptr, threads);
}

void attend(std::int64_t fresh, std::int64_t length, std::int64_t head_width) {
    const std::int64_t batch = 2, heads = 3, capacity = length + 1, key_stride = (capacity + 31) / 32 * 32;
    const std::vector<float> projected = normal(batch * fresh * 3 * heads * head_width);
    std::vector<float> keys = normal(batch * heads * head_width * key_stride);
    std::vector<float> values = normal(batch * heads * capacity * head_width);
    auto visible = mask(batch * capacity);
    for (std::int64_t row = 0; row < batch; ++row) visible[static_cast<std::size_t>(row * capacity)] = true;
    std::vector<float> out(static_cast<std::size_t>(batch * fresh * heads * head_width));
    cached_attention({projected.data(), Dtype::float32, batch, fresh, heads, head_width, keys.data(),
                      values.data(), capacity, key_stride, length, visible.get(), 0, out.data()},
                     threads);
    for (const float value : out) check(std::isfinite(value), "attention");

    const std::int64_t width = heads * head_width, rows = batch * fresh;
    std::vector<float> residual = normal(rows * width);
    const std::vector<float> weight(static_cast<std::size_t>(width), 1.0F);
    add_norm(
        {residual.data(), out.data(), weight.data(), weight.data(), 1e-5F, Dtype::float32, width, out.data()},
        rows, threads);
}

void step(std::int64_t size) {
    std::vector<float> values = normal(size), average = normal(size), square(values.size(), 1.0F);
    const std::vector<float> gradient = normal(size);
    float steps = 3;
    const Adam task{1e-3, 0.9, 0.999, 1e-8, 0.01, true};
    const float norm = adam(
        task, {{values.data(), gradient.data(), average.data(), square.data(), &steps, size}}, 1.0F, threads);
    check(std::isfinite(norm) && steps == 4.0F, "a step of Adam");
    for (const float value : values) check(std::isfinite(value), "a parameter after a step");
}

std::vector<std::int16_t> shorts(std::int64_t count) {
    std::vector<std::int16_t> values(static_cast<std::size_t>(count));
    for (std::int16_t& value : values) value = static_cast<std::int16_t>(engine());
    return values;
}

// Values, and room for as many, of either type.
struct Either {
    explicit Either(std::int64_t count) : single(normal(count)), half(bfloat16(single)) {}
    void* of(Dtype dtype) {
        return dtype == Dtype::float32 ? static_cast<void*>(single.data()) : static_cast<void*>(half.data());
    }
    std::vector<float> single;
    std::vector<std::uint16_t> half;
};

void train_transformer(std::int64_t rows, std::int64_t width, Dtype dtype) {
    Either branch(rows * width), out(rows * width), gradient(rows * width);
    const std::vector<float> residual = normal(rows * width), vector = normal(width);
    const std::vector<std::int16_t> random = shorts(rows * width);
    std::vector<float> total(residual.size()), by_residual(residual.size());
    std::vector<float> sums(static_cast<std::size_t>(SUM_PARTS * 3 * width));
    const DroppedSum sum{residual.data(), branch.of(dtype), vector.data(), random.data(), -3277, 1.25F,
                         vector.data(),   vector.data(),    1e-5F,         dtype,         width};
    dropped_sum(sum, rows, total.data(), out.of(dtype), threads);
    dropped_sum_gradient(
        sum, {total.data(), residual.data(), gradient.of(dtype), by_residual.data(), out.of(dtype)}, rows,
        sums.data(), threads);
    for (const float value : by_residual) check(std::isfinite(value), "a gradient of dropped sums");
    const BiasReLU relu{vector.data(), dtype, width};
    bias_relu(relu, rows, branch.of(dtype), branch.of(dtype), threads);
    bias_relu_gradient(relu, rows, branch.of(dtype), gradient.of(dtype), out.of(dtype), sums.data(), threads);
    for (const float value : sums) check(std::isfinite(value), "a gradient by vectors");
}

void attend_in_training(std::int64_t length, std::int64_t head_width, Dtype dtype) {
    const std::int64_t batch = 2, heads = 3, room = attention_room(length);
    Either projected(batch * length * 3 * heads * head_width), out(batch * length * heads * head_width);
    Either slope(batch * length * 3 * heads * head_width);
    const std::vector<std::int16_t> random = shorts(batch * heads * length * room);
    const std::vector<float> bias = normal(3 * heads * head_width);
    std::vector<float> weights(random.size()), sums(static_cast<std::size_t>(SUM_PARTS) * bias.size());
    const SelfAttention task{projected.of(dtype), dtype,          batch,         length, heads,
                             head_width,          0.25F,          random.data(), -3277,  1.25F,
                             bias.data(),         weights.data(), out.of(dtype)};
    self_attention(task, threads);
    self_attention_gradient(task, out.of(dtype), slope.of(dtype), sums.data(), threads);
    for (const float value : sums) check(std::isfinite(value), "a gradient by the bias of attention");
}

void mask_for_tasks(std::int64_t size, Dtype dtype) {
    const std::vector<std::int64_t> order{2, 0, 1, 2};
    const auto masks = mask(3 * size);
    const std::vector<float> weights = normal(size);
    Either masked(4 * size);
    std::vector<float> sum(weights.size());
    const Masking task{masks.get(), order.data(), 4, size, dtype};
    mask_weights(task, weights.data(), masked.of(dtype), threads);
    sum_masked(task, masked.of(dtype), sum.data(), threads);
    for (const float value : sum) check(std::isfinite(value), "a sum of masked weights");
}

void draw(std::int64_t count) {
    std::vector<std::uint32_t> one(static_cast<std::size_t>(count)), other = one;
    random_words(7, one.data(), count, 1);
    random_words(7, other.data(), count, threads);
    check(one == other, "random words of any number of threads");
}

}  // namespace

int main() {
    for (const std::int64_t count : {0, 1, 17, 1 << 14, 3 * (1 << 14) + 5}) draw(count);
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
        for (const std::int64_t rows : {1, 5, 37}) {
            for (const std::int64_t width : {16, 48, 128}) train_transformer(rows, width, dtype);
        }
        for (const std::int64_t length : {1, 3, 16, 21, 60}) {
            for (const std::int64_t head_width : {16, 64}) attend_in_training(length, head_width, dtype);
        }
        for (const std::int64_t size : {1, 15, 16, 33, 1000}) mask_for_tasks(size, dtype);
    }
    for (const std::int64_t size : {0, 1, 15, 16, 17, 63, 65, 1 << 16, (1 << 16) + 1, 5'000'003}) step(size);
    for (const std::int64_t rows : {1, 7, 97}) {
        for (const std::int64_t dim : {1, 7, 16, 65}) {
            for (const std::int64_t codes : {1, 3, 16, 17, 70, 300}) look_up(rows, dim, codes);
        }
        for (const std::int64_t classes : {2, 5, 16, 33, 1000}) lose(rows, classes);
    }
    for (const std::int64_t length : {1, 5, 33}) attend(length < 3 ? 1 : 3, length, 16);
    attend(2, 90, 32);
    if (failures == 0) std::printf("operations agree on %s\n", instruction_set().c_str());
    return failures == 0 ? 0 : 1;
}
