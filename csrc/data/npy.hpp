// Memory-mapped .npy columns. Everything in the file is untrusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/arena.hpp"

namespace goskill {

enum class Access { random, sequential };

// Bytes of one element of a type as NumPy writes it ("<f4", "|b1"; "<U12": four bytes a letter), 0 if it is
// none.
std::int64_t element_size(const std::string& descr);

// A read-only mapping of one .npy file (format 1.0, C order). The constructor throws StoreFault unless the
// file is a regular file with exactly the expected element type and shape, and exactly as many bytes as those
// need.
class MappedColumn {
  public:
    MappedColumn() = default;
    MappedColumn(const std::string& path, const std::string& descr, const std::vector<std::int64_t>& shape,
                 Access access);
    MappedColumn(MappedColumn&& other) noexcept;
    MappedColumn& operator=(MappedColumn&& other) noexcept;
    MappedColumn(const MappedColumn&) = delete;
    MappedColumn& operator=(const MappedColumn&) = delete;
    ~MappedColumn();

    // Copies the elements to memory and lets go of the file.
    void move_to(Arena& memory);

    template <typename T>
    const T* as() const {
        return reinterpret_cast<const T*>(data_);
    }

  private:
    void unmap();

    void* mapping_ = nullptr;
    std::size_t size_ = 0;
    std::size_t payload_ = 0;
    const std::byte* data_ = nullptr;
};

}  // namespace goskill
