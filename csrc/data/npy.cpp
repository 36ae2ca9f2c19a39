#include "data/npy.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "data/fault.hpp"

namespace goskill {
namespace {

constexpr std::size_t preamble_size = 10;  // magic string, version, header length

class Descriptor {
  public:
    explicit Descriptor(const std::string& path)
        // Without O_NONBLOCK opening a named pipe would wait for a writer.
        : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
        if (value_ < 0) throw StoreFault(path + ": cannot be opened: " + std::strerror(errno));
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() { ::close(value_); }
    int value() const { return value_; }

  private:
    int value_;
};

std::string expected_header(const std::string& descr, const std::vector<std::int64_t>& shape) {
    std::string dimensions;
    for (std::size_t i = 0; i < shape.size(); ++i) {
        dimensions += std::to_string(shape[i]);
        if (i + 1 < shape.size()) dimensions += ", ";
    }
    if (shape.size() == 1) dimensions += ",";
    return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + dimensions + "), }";
}

std::size_t payload_size(const std::string& path, const std::string& descr,
                         const std::vector<std::int64_t>& shape) {
    std::int64_t size = element_size(descr);
    for (const std::int64_t dimension : shape) {
        if (dimension < 0 || __builtin_mul_overflow(size, dimension, &size)) {
            throw StoreFault(path + ": the manifest asks for an impossible shape");
        }
    }
    return static_cast<std::size_t>(size);
}

std::string printable(std::string text) {
    for (char& letter : text) {
        if (letter < ' ' || letter > '~') letter = '?';
    }
    return text.size() > 120 ? text.substr(0, 120) + "..." : text;
}

// The offset of the array data.
std::size_t check_header(const std::string& path, const std::string& bytes, const std::string& expected) {
    if (bytes.size() < preamble_size || bytes.compare(0, 6, "\x93NUMPY", 6) != 0) {
        throw StoreFault(path + ": is not a .npy file");
    }
    if (bytes[6] != 1 || bytes[7] != 0) throw StoreFault(path + ": is not of .npy format version 1.0");
    const std::size_t length = static_cast<std::size_t>(static_cast<unsigned char>(bytes[8])) |
                               static_cast<std::size_t>(static_cast<unsigned char>(bytes[9])) << 8;
    if (bytes.size() < preamble_size + length || (preamble_size + length) % 64 != 0) {
        throw StoreFault(path + ": the .npy header is truncated or misaligned");
    }
    std::string header = bytes.substr(preamble_size, length);
    if (header.back() != '\n') throw StoreFault(path + ": the .npy header does not end in a newline");
    header.pop_back();
    header.erase(header.find_last_not_of(' ') + 1);
    if (header != expected) {
        throw StoreFault(path + ": expected the .npy header " + expected + ", got " + printable(header));
    }
    return preamble_size + length;
}

}  // namespace

std::int64_t element_size(const std::string& descr) {
    std::int64_t size = 0;
    for (const char digit : descr.substr(std::min<std::size_t>(2, descr.size()))) {
        if (digit < '0' || digit > '9' || size > 1 << 20) return 0;
        size = 10 * size + (digit - '0');
    }
    return descr.size() > 1 && descr[1] == 'U' ? 4 * size : size;
}

MappedColumn::MappedColumn(const std::string& path, const std::string& descr,
                           const std::vector<std::int64_t>& shape, Access access) {
    const std::size_t payload = payload_size(path, descr, shape);
    const Descriptor file(path);
    struct stat status{};
    if (::fstat(file.value(), &status) != 0) throw StoreFault(path + ": " + std::strerror(errno));
    if (!S_ISREG(status.st_mode)) throw StoreFault(path + ": is not a regular file");
    const std::size_t size = static_cast<std::size_t>(status.st_size);
    std::string start(std::min<std::size_t>(size, preamble_size + 0xFFFF), '\0');
    if (::pread(file.value(), start.data(), start.size(), 0) != static_cast<ssize_t>(start.size())) {
        throw StoreFault(path + ": cannot be read: " + std::strerror(errno));
    }
    const std::size_t offset = check_header(path, start, expected_header(descr, shape));
    if (size - offset != payload) {
        throw StoreFault(path + ": expected " + std::to_string(payload) + " bytes of data, got " +
                         std::to_string(size - offset));
    }
    void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.value(), 0);
    if (mapping == MAP_FAILED) throw StoreFault(path + ": cannot be mapped: " + std::strerror(errno));
    // Without it the kernel reads far ahead of every random row.
    ::madvise(mapping, size, access == Access::random ? MADV_RANDOM : MADV_SEQUENTIAL);
    mapping_ = mapping;
    size_ = size;
    payload_ = payload;
    data_ = static_cast<const std::byte*>(mapping) + offset;
}

MappedColumn::MappedColumn(MappedColumn&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      payload_(std::exchange(other.payload_, 0)),
      data_(std::exchange(other.data_, nullptr)) {}

MappedColumn& MappedColumn::operator=(MappedColumn&& other) noexcept {
    std::swap(mapping_, other.mapping_);
    std::swap(size_, other.size_);
    std::swap(payload_, other.payload_);
    std::swap(data_, other.data_);
    return *this;
}

MappedColumn::~MappedColumn() { unmap(); }

void MappedColumn::unmap() {
    if (mapping_ != nullptr) ::munmap(mapping_, size_);
    mapping_ = nullptr;
}

void MappedColumn::move_to(Arena& memory) {
    std::byte* const target = memory.allocate(payload_);
    ::madvise(mapping_, size_, MADV_SEQUENTIAL);
    std::memcpy(target, data_, payload_);
    data_ = target;
    unmap();
}

}  // namespace goskill
