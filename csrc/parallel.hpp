// A small persistent thread pool: OpenMP would bring a second runtime beside the one torch ships.
#pragma once

#include <cstdint>
#include <functional>

namespace goskill {

// Calls body(begin, end) on disjoint chunks that cover [0, count), on at most `threads` threads including the
// caller's, and returns when all are done. The first exception that a chunk throws is rethrown here.
// Chunks are contiguous and depend on `count` and `threads` only. Safe in a forked child.
void parallel_for(std::int64_t count, int threads,
                  const std::function<void(std::int64_t begin, std::int64_t end)>& body);

}  // namespace goskill
