#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "ops/encoder.hpp"

namespace goskill::ops {
namespace {

// R in A = QR, [count, count], of A [height, count], by modified Gram-Schmidt: then |R x| = |A x| for any x,
// as exactly as A is known.
std::vector<double> triangular_factor(const std::vector<double>& matrix, std::int64_t count,
                                      std::int64_t height) {
    std::vector<double> columns(matrix.size());
    for (std::int64_t i = 0; i < height; ++i) {
        for (std::int64_t j = 0; j < count; ++j)
            columns[static_cast<std::size_t>(j * height + i)] =
                matrix[static_cast<std::size_t>(i * count + j)];
    }
    std::vector<double> factor(static_cast<std::size_t>(count * count), 0.0);
    for (std::int64_t j = 0; j < count; ++j) {
        double* const own = columns.data() + j * height;
        double square = 0;
        for (std::int64_t i = 0; i < height; ++i) square += own[i] * own[i];
        const double length = std::sqrt(square);
        if (!(length > 0)) continue;  // what is not finite shows in the product of the layers
        factor[static_cast<std::size_t>(j * count + j)] = length;
        for (std::int64_t i = 0; i < height; ++i) own[i] /= length;
        for (std::int64_t k = j + 1; k < count; ++k) {
            double* const other = columns.data() + k * height;
            double along = 0;
            for (std::int64_t i = 0; i < height; ++i) along += own[i] * other[i];
            for (std::int64_t i = 0; i < height; ++i) other[i] -= along * own[i];
            factor[static_cast<std::size_t>(j * count + k)] = along;
        }
    }
    return factor;
}

// Weights and biases [out, in + 1] less the mean of each column.
std::vector<double> centred(const Linear& layer) {
    const std::int64_t columns = layer.in + 1;
    std::vector<double> values(static_cast<std::size_t>(layer.out * columns));
    for (std::int64_t j = 0; j < columns; ++j) {
        double total = 0;
        const auto value = [&](std::int64_t i) {
            return static_cast<double>(j < layer.in ? layer.weight[i * layer.in + j] : layer.bias[i]);
        };
        for (std::int64_t i = 0; i < layer.out; ++i) total += value(i);
        for (std::int64_t i = 0; i < layer.out; ++i)
            values[static_cast<std::size_t>(i * columns + j)] =
                value(i) - total / static_cast<double>(layer.out);
    }
    return values;
}

}  // namespace

void fold_norm(const Linear& first, const float* norm_weight, const float* norm_bias, const Linear& second,
               const Folded& folded) {
    const std::int64_t inputs = first.in, columns = inputs + 1, height = first.out;
    const std::vector<double> values = centred(first);
    const auto write = [&](std::int64_t row, const double* from, double scale) {
        for (std::int64_t j = 0; j < inputs; ++j)
            folded.weight[row * inputs + j] = static_cast<float>(from[j] * scale);
        folded.bias[row] = static_cast<float>(from[inputs] * scale);
    };

    const std::vector<double> factor = height < columns ? values : triangular_factor(values, columns, height);
    const std::int64_t rows = std::min(height, columns);
    const std::vector<double> nothing(static_cast<std::size_t>(columns), 0.0);
    for (std::int64_t row = 0; row < folded.spread; ++row)
        write(row, row < rows ? factor.data() + row * columns : nothing.data(),
              1 / std::sqrt(static_cast<double>(height)));

    std::vector<double> sums(static_cast<std::size_t>(columns));
    for (std::int64_t out = 0; out < second.out; ++out) {
        std::fill(sums.begin(), sums.end(), 0.0);
        double shift = static_cast<double>(second.bias[out]);
        for (std::int64_t i = 0; i < height; ++i) {
            const double weight = static_cast<double>(second.weight[out * height + i]);
            const double scaled = weight * static_cast<double>(norm_weight[i]);
            const double* const own = values.data() + i * columns;
            for (std::int64_t j = 0; j < columns; ++j) sums[static_cast<std::size_t>(j)] += scaled * own[j];
            shift += weight * static_cast<double>(norm_bias[i]);
        }
        write(folded.spread + out, sums.data(), 1);
        folded.shift[out] = static_cast<float>(shift);
    }
}

}  // namespace goskill::ops
