#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "ops/operations.hpp"

namespace goskill::ops {
namespace {

// Where the codes lie in one dimension: the middle of its finite values, rounded to a multiple of a power of
// two that is at least twice their range. So codes around zero have the centre 0, and differences from the
// centre are as exact as the numbers; none is more than 2.5 times the range.
float centre_of(float least, float greatest) {
    const float range = greatest - least;
    if (!(range >= 0) || !std::isfinite(range)) return 0.0f;
    if (range == 0) return least;
    int exponent;
    std::frexp(range, &exponent);
    const float spacing = std::ldexp(1.0f, exponent + 1);
    return std::isfinite(spacing) ? spacing * std::nearbyint((least + range / 2) / spacing) : 0.0f;
}

bool around_zero(const std::vector<float>& least, const std::vector<float>& greatest) {
    bool around = true;
    for (std::size_t d = 0; d < least.size(); ++d) around &= least[d] <= 0 && greatest[d] >= 0;
    return around;
}

}  // namespace

std::vector<float> codebook_centre(const float* codebook, std::int64_t codes, std::int64_t dim) {
    const std::size_t size = static_cast<std::size_t>(dim);
    std::vector<float> least(size, std::numeric_limits<float>::infinity()), greatest(size);
    std::fill(greatest.begin(), greatest.end(), -std::numeric_limits<float>::infinity());
    for (std::int64_t code = 0; code < codes; ++code) {
        for (std::size_t d = 0; d < size; ++d) {
            const float value = codebook[static_cast<std::size_t>(code) * size + d];
            // Without branches, which codes in no order would mispredict.
            const bool finite = value - value == 0;
            const bool below = finite & (value < least[d]);
            const bool above = finite & (value > greatest[d]);
            least[d] = below ? value : least[d];
            greatest[d] = above ? value : greatest[d];
        }
        // Where zero lies among the codes it is the centre, whatever codes follow.
        if (code % 32 == 15 && around_zero(least, greatest)) return {};
    }
    double offset = 0, extent = 0;
    for (std::size_t d = 0; d < size; ++d) {
        const double range = static_cast<double>(greatest[d]) - static_cast<double>(least[d]);
        least[d] = centre_of(least[d], greatest[d]);
        offset += static_cast<double>(least[d]) * static_cast<double>(least[d]);
        if (range > 0) extent += range * range;
    }
    return offset > extent ? least : std::vector<float>{};
}

}  // namespace goskill::ops
