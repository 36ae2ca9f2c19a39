#include "data/segment_sampler.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "data/fault.hpp"
#include "data/philox.hpp"
#include "parallel.hpp"

namespace goskill {
namespace {

constexpr std::uint64_t segment_stream = 1;
constexpr std::int64_t prefetch_distance = 4;

}  // namespace

SegmentSampler::SegmentSampler(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
                               const std::optional<std::vector<std::int64_t>>& episodes,
                               SegmentSettings settings)
    : store_(std::move(store)),
      labels_(std::move(labels)),
      settings_(std::move(settings)),
      selection_(*store_, episodes),
      task_choice_(selection_, settings_.task_weights) {
    if (settings_.balance == Balance::skill) index_classes();
}

void SegmentSampler::index_classes() {
    std::vector<std::int64_t> every(static_cast<std::size_t>(store_->num_episodes()));
    std::iota(every.begin(), every.end(), std::int64_t{0});
    every_step_ = StepIndex(*store_, std::move(every));
    const std::int64_t num_classes = labels_->num_classes();
    if (selection_.whole()) {
        order_ = labels_->order();
        offsets_.assign(labels_->offsets(), labels_->offsets() + num_classes + 1);
    } else {
        std::vector<StepRange> ranges;
        for (const std::int64_t index : selection_.all().episodes()) {
            const Episode& episode = store_->episode(index);
            ranges.push_back({episode.first_step, episode.first_step + episode.length});
        }
        const auto size = static_cast<std::size_t>(selection_.all().size());
        const bool narrow = narrow_steps(store_->num_steps());
        if (narrow) {
            narrow_order_.resize(size);
            offsets_ = build_class_index(labels_->labels(), num_classes, ranges, settings_.threads,
                                         narrow_order_.data());
            order_ = {narrow_order_.data(), store_->num_steps(), true};
        } else {
            wide_order_.resize(size);
            offsets_ = build_class_index(labels_->labels(), num_classes, ranges, settings_.threads,
                                         wide_order_.data());
            order_ = {wide_order_.data(), store_->num_steps(), false};
        }
    }
    for (std::size_t c = 0; c + 1 < offsets_.size(); ++c) {
        if (offsets_[c] < offsets_[c + 1]) classes_.push_back(c);
    }
}

Place SegmentSampler::place(std::uint64_t step, std::int64_t global_batch, std::int64_t sample) const {
    const Words words = draw(settings_.seed, segment_stream, step, static_cast<std::uint64_t>(sample));
    const std::uint64_t turn =
        step * static_cast<std::uint64_t>(global_batch) + static_cast<std::uint64_t>(sample);
    if (settings_.balance == Balance::skill) {
        const std::size_t c = classes_[static_cast<std::size_t>(turn % classes_.size())];
        const std::int64_t position = offsets_[c] + below(words[0], offsets_[c + 1] - offsets_[c]);
        const std::int64_t found = order_[position];
        if (found < 0) throw StoreFault("order.npy: a step lies outside the store");
        return every_step_.find(found);
    }
    if (settings_.balance == Balance::transition) {
        return selection_.all().find(below(words[0], selection_.all().size()));
    }
    const StepIndex& steps = selection_.of_task(task_choice_.pick(turn, words[1]));
    return steps.find(below(words[0], steps.size()));
}

void SegmentSampler::prefetch_sample(const SegmentBatch& batch, std::int64_t i) const {
    const Episode& episode = store_->episode(batch.episode[i]);
    const std::int64_t start = batch.start[i];
    const std::int64_t rows = std::min(settings_.horizon, episode.length - start);
    const std::int64_t width = store_->observation_dim();
    const std::int64_t action_width = store_->action_dim();
    prefetch(episode.observations + start * width,
             static_cast<std::size_t>((rows + 1) * width) * sizeof(float));
    prefetch(episode.actions + start * action_width,
             static_cast<std::size_t>(rows * action_width) * sizeof(float));
    if (labels_) prefetch_line(labels_->labels().address(episode.first_step + start));
}

// The mask is true before: here only rows past the end of the episode become false.
void SegmentSampler::gather(const SegmentBatch& batch, std::int64_t i) const {
    const Episode& episode = store_->episode(batch.episode[i]);
    const std::int64_t horizon = settings_.horizon;
    const std::int64_t width = store_->observation_dim();
    const std::int64_t action_width = store_->action_dim();
    const std::int64_t start = batch.start[i];
    const std::int64_t rows = std::min(horizon, episode.length - start);
    const float* source = episode.observations + start * width;
    float* target = batch.observations + i * (horizon + 1) * width;
    if (rows == horizon) {
        copy_observations(source, width, horizon + 1, width, settings_.normalization, target);
    } else {
        copy_observations(source, width, rows, width, settings_.normalization, target);
        zero_rows(target + rows * width, horizon - rows, width);
        copy_observations(source + rows * width, width, 1, width, settings_.normalization,
                          target + horizon * width);
    }
    float* actions = batch.actions + i * horizon * action_width;
    copy_rows(episode.actions + start * action_width, rows, action_width, actions);
    zero_rows(actions + rows * action_width, horizon - rows, action_width);
    std::fill_n(batch.mask + i * horizon + rows, horizon - rows, false);
    if (batch.skill != nullptr) batch.skill[i] = labels_->labels()[episode.first_step + start];
}

void SegmentSampler::locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                            std::int64_t count, const SegmentBatch& batch) const {
    for (std::int64_t i = 0; i < count; ++i) {
        const Place found = place(step, global_batch, first + i);
        batch.episode[i] = found.episode;
        batch.start[i] = found.step;
        batch.task[i] = store_->episode(found.episode).task;
    }
}

void SegmentSampler::fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                          std::int64_t count, const SegmentBatch& batch) const {
    parallel_for(count, settings_.threads, [&](std::int64_t begin, std::int64_t end) {
        SegmentBatch places = batch;
        places.episode += begin;
        places.start += begin;
        places.task += begin;
        locate(step, global_batch, first + begin, end - begin, places);
        std::fill_n(batch.mask + begin * settings_.horizon, (end - begin) * settings_.horizon, true);
        for (std::int64_t i = begin; i < std::min(begin + prefetch_distance, end); ++i)
            prefetch_sample(batch, i);
        for (std::int64_t i = begin; i < end; ++i) {
            if (i + prefetch_distance < end) prefetch_sample(batch, i + prefetch_distance);
            gather(batch, i);
        }
    });
}

}  // namespace goskill
