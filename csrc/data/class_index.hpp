// Skill labels of every step of a store, and where each class occurs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/npy.hpp"

namespace goskill {

// A label column of unsigned integers of 1, 2 or 4 bytes, memory-mapped or in memory that outlives this view.
struct LabelView {
    const void* data = nullptr;
    std::int64_t count = 0;
    int width = 1;

    std::int64_t operator[](std::int64_t step) const {
        if (width == 1) return static_cast<const std::uint8_t*>(data)[step];
        if (width == 2) return static_cast<const std::uint16_t*>(data)[step];
        return static_cast<const std::uint32_t*>(data)[step];
    }
    const void* address(std::int64_t step) const {
        return static_cast<const std::byte*>(data) + step * width;
    }
};

// Steps in class order, kept as uint32 where every one fits.
struct StepOrder {
    const void* data = nullptr;
    std::int64_t num_steps = 0;
    bool narrow = true;

    // The step at a position, or -1 where a damaged file names a step outside the store.
    std::int64_t operator[](std::int64_t position) const {
        const std::int64_t step = narrow ? std::int64_t{static_cast<const std::uint32_t*>(data)[position]}
                                         : static_cast<const std::int64_t*>(data)[position];
        return step < num_steps ? step : -1;
    }
    const void* address(std::int64_t position) const {
        return static_cast<const std::byte*>(data) + position * (narrow ? 4 : 8);
    }
};

inline bool narrow_steps(std::int64_t num_steps) { return num_steps <= (std::int64_t{1} << 32); }

// Steps [begin, end).
struct StepRange {
    std::int64_t begin;
    std::int64_t end;
};

// The steps of the ranges, ordered by class and within a class by step: one counting sort, in parallel.
// `Step` is std::uint32_t or std::int64_t; `order` must hold as many as the ranges cover. Returns the offsets
// [num_classes + 1]. Throws StoreFault on a label outside [0, num_classes).
template <typename Step>
std::vector<std::int64_t> build_class_index(const LabelView& labels, std::int64_t num_classes,
                                            const std::vector<StepRange>& ranges, int threads, Step* order);

// A label column of a store with its class index, as `EpisodeStore.write_labels` leaves them on disk.
class LabelColumn {
  public:
    LabelColumn(const std::string& path, std::int64_t num_steps, std::int64_t num_classes, int width);

    const LabelView& labels() const { return labels_; }
    std::int64_t num_classes() const { return num_classes_; }
    // [num_classes + 1]
    const std::int64_t* offsets() const { return offsets_.as<std::int64_t>(); }
    const StepOrder& order() const { return order_; }

  private:
    std::int64_t num_classes_;
    MappedColumn label_column_;
    MappedColumn order_column_;
    MappedColumn offsets_;
    LabelView labels_;
    StepOrder order_;
};

}  // namespace goskill
