#include "data/class_index.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "data/fault.hpp"
#include "parallel.hpp"

namespace goskill {
namespace {

// Parts of about equal size, cut within ranges where needed, in order.
std::vector<std::vector<StepRange>> split(const std::vector<StepRange>& ranges, int parts) {
    std::int64_t total = 0;
    for (const StepRange& range : ranges) total += range.end - range.begin;
    std::vector<std::vector<StepRange>> result(static_cast<std::size_t>(parts));
    const std::int64_t share = total / parts + 1;
    std::size_t part = 0;
    std::int64_t room = share;
    for (StepRange range : ranges) {
        while (range.begin < range.end) {
            const std::int64_t taken = std::min(room, range.end - range.begin);
            result[part].push_back({range.begin, range.begin + taken});
            range.begin += taken;
            room -= taken;
            if (room == 0) {
                ++part;
                room = share;
            }
        }
    }
    return result;
}

template <typename Label>
void count_part(const Label* labels, const std::vector<StepRange>& part, std::int64_t num_classes,
                std::vector<std::int64_t>& counts) {
    for (const StepRange& range : part) {
        for (std::int64_t step = range.begin; step < range.end; ++step) {
            if (static_cast<std::int64_t>(labels[step]) >= num_classes) {
                throw StoreFault("labels: expected values below " + std::to_string(num_classes) + ", got " +
                                 std::to_string(labels[step]) + " at step " + std::to_string(step));
            }
            ++counts[labels[step]];
        }
    }
}

template <typename Label, typename Step>
std::vector<std::int64_t> build(const Label* labels, std::int64_t num_classes,
                                const std::vector<StepRange>& ranges, int threads, Step* order) {
    const auto classes = static_cast<std::size_t>(num_classes);
    const auto parts = split(ranges, std::max(threads, 1));
    const auto num_parts = static_cast<std::int64_t>(parts.size());
    std::vector<std::vector<std::int64_t>> counts(parts.size(), std::vector<std::int64_t>(classes, 0));
    parallel_for(num_parts, threads, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
            count_part(labels, parts[i], num_classes, counts[i]);
        }
    });
    std::vector<std::int64_t> offsets(classes + 1, 0);
    std::int64_t position = 0;
    for (std::size_t c = 0; c < classes; ++c) {
        offsets[c] = position;
        for (auto& part_counts : counts) position += std::exchange(part_counts[c], position);
    }
    offsets[classes] = position;
    parallel_for(num_parts, threads, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
            std::vector<std::int64_t>& next = counts[i];
            for (const StepRange& range : parts[i]) {
                for (std::int64_t step = range.begin; step < range.end; ++step) {
                    order[next[labels[step]]++] = static_cast<Step>(step);
                }
            }
        }
    });
    return offsets;
}

const char* label_descr(int width) { return width == 1 ? "|u1" : width == 2 ? "<u2" : "<u4"; }

}  // namespace

template <typename Step>
std::vector<std::int64_t> build_class_index(const LabelView& labels, std::int64_t num_classes,
                                            const std::vector<StepRange>& ranges, int threads, Step* order) {
    if (labels.width == 1) {
        return build(static_cast<const std::uint8_t*>(labels.data), num_classes, ranges, threads, order);
    }
    if (labels.width == 2) {
        return build(static_cast<const std::uint16_t*>(labels.data), num_classes, ranges, threads, order);
    }
    return build(static_cast<const std::uint32_t*>(labels.data), num_classes, ranges, threads, order);
}

template std::vector<std::int64_t> build_class_index(const LabelView&, std::int64_t,
                                                     const std::vector<StepRange>&, int, std::uint32_t*);
template std::vector<std::int64_t> build_class_index(const LabelView&, std::int64_t,
                                                     const std::vector<StepRange>&, int, std::int64_t*);

LabelColumn::LabelColumn(const std::string& path, std::int64_t num_steps, std::int64_t num_classes, int width)
    : num_classes_(num_classes) {
    const bool narrow = narrow_steps(num_steps);
    if (num_classes < 1 || (width != 1 && width != 2 && width != 4)) {
        throw StoreFault(path + ": impossible number of classes or width of labels");
    }
    label_column_ = MappedColumn(path + "/labels.npy", label_descr(width), {num_steps}, Access::random);
    order_column_ = MappedColumn(path + "/order.npy", narrow ? "<u4" : "<i8", {num_steps}, Access::random);
    offsets_ = MappedColumn(path + "/offsets.npy", "<i8", {num_classes + 1}, Access::random);
    const std::int64_t* bounds = offsets();
    bool ordered = bounds[0] == 0 && bounds[num_classes] == num_steps;
    for (std::int64_t c = 0; c < num_classes; ++c) ordered = ordered && bounds[c] <= bounds[c + 1];
    if (!ordered) throw StoreFault(path + "/offsets.npy: the class offsets are not ordered");
    labels_ = {label_column_.as<void>(), num_steps, width};
    order_ = {order_column_.as<void>(), num_steps, narrow};
}

}  // namespace goskill
