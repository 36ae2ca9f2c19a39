#include "data/arena.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "data/fault.hpp"

namespace goskill {
namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t huge_page = std::size_t{1} << 21;
constexpr std::size_t least_chunk = std::size_t{1} << 26;  // what is not touched takes no memory

std::size_t rounded_up(std::size_t size, std::size_t unit) { return (size + unit - 1) / unit * unit; }

}  // namespace

Arena::~Arena() {
    for (const Chunk& chunk : chunks_) ::munmap(chunk.mapping, chunk.size);
}

std::byte* Arena::allocate(std::size_t size) {
    if (size > std::numeric_limits<std::size_t>::max() / 2) throw StoreFault("impossible size of a column");
    const std::size_t used = rounded_up(size, cache_line);
    if (used > left_) add_chunk(std::max(used, least_chunk));
    std::byte* const result = free_;
    free_ += used;
    left_ -= used;
    return result;
}

void Arena::add_chunk(std::size_t size) {
    chunks_.reserve(chunks_.size() + 1);  // no mapping is lost for want of memory
    // One page more, so that the first can begin at a multiple of its size.
    const std::size_t whole = rounded_up(size, huge_page) + huge_page;
    void* const mapping =
        ::mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        throw StoreFault("no memory for " + std::to_string(size) + " bytes: " + std::strerror(errno));
    }
    chunks_.push_back({mapping, whole});
#ifdef MADV_HUGEPAGE
    ::madvise(mapping, whole, MADV_HUGEPAGE);
#endif
    const auto address = reinterpret_cast<std::uintptr_t>(mapping);
    free_ = static_cast<std::byte*>(mapping) + (rounded_up(address, huge_page) - address);
    left_ = rounded_up(size, huge_page);
}

}  // namespace goskill
