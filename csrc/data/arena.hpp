// Memory for columns that are read at random.
#pragma once

#include <cstddef>
#include <vector>

namespace goskill {

// Anonymous memory that only grows, on huge pages where the system has them: with pages of 4 KiB, finding the
// pages of random rows takes longer than reading the rows as soon as there are gigabytes of them.
class Arena {
  public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena();

    // Aligned to a cache line. Throws StoreFault if the system gives no such address space.
    std::byte* allocate(std::size_t size);

  private:
    struct Chunk {
        void* mapping;
        std::size_t size;
    };

    void add_chunk(std::size_t size);

    std::vector<Chunk> chunks_;
    std::byte* free_ = nullptr;
    std::size_t left_ = 0;
};

}  // namespace goskill
