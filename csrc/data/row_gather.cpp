#include "data/row_gather.hpp"

#include <optional>
#include <string>

#include "data/fault.hpp"
#include "data/rows.hpp"

namespace goskill {

void gather_rows(const std::vector<RowSource>& sources, std::int64_t width, const std::int64_t* place,
                 const std::int64_t* row, std::int64_t count, float* out) {
    constexpr std::int64_t distance = 16;
    for (std::int64_t i = 0; i < count; ++i) {
        const bool known = place[i] >= 0 && place[i] < static_cast<std::int64_t>(sources.size());
        if (!known || row[i] < -1 || row[i] >= sources[static_cast<std::size_t>(place[i])].rows) {
            throw InputFault("rows: expected a place and a row that exist, got " + std::to_string(place[i]) +
                             " and " + std::to_string(row[i]));
        }
    }
    const auto source = [&](std::int64_t i) -> Rows {
        if (i >= count || row[i] < 0) return {nullptr, width, 0, width};
        return {sources[static_cast<std::size_t>(place[i])].data + row[i] * width, width, 1, width};
    };
    for (std::int64_t i = 0; i < count; ++i, out += width) {
        if (row[i] < 0) zero_rows(out, 1, width);
        copy_rows(source(i), source(i + distance), std::nullopt, out);
    }
}

}  // namespace goskill
