#include "memory.hpp"

#include <cstdlib>  // says whether this is glibc

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace goskill {

void keep_freed_memory([[maybe_unused]] bool keep) {
#ifdef __GLIBC__
    // glibc adapts its thresholds until they are set. What is set at the end is the most that it comes to.
    constexpr int most_mappings = 65536, mapped_from = 32 << 20, trimmed_from = 64 << 20;
    mallopt(M_MMAP_MAX, keep ? 0 : most_mappings);
    mallopt(M_MMAP_THRESHOLD, mapped_from);
    mallopt(M_TRIM_THRESHOLD, keep ? -1 : trimmed_from);
    if (!keep) malloc_trim(0);
#endif
}

}  // namespace goskill
