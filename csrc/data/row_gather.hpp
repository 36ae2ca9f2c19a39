// Rows picked from many arrays of one width: trajectories that someone else holds in memory.
#pragma once

#include <cstdint>
#include <vector>

namespace goskill {

struct RowSource {
    const float* data;  // [rows, width]
    std::int64_t rows;
};

// out[i] = source[place[i]][row[i]], or zeros where row[i] is -1. Throws InputFault for a place or row
// outside.
void gather_rows(const std::vector<RowSource>& sources, std::int64_t width, const std::int64_t* place,
                 const std::int64_t* row, std::int64_t count, float* out);

}  // namespace goskill
