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
constexpr std::size_t prefetch_distance = 4;
constexpr std::size_t translated_together = 8;

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
    const std::int64_t num_classes = labels_->num_classes();
    if (selection_.whole()) {
        order_ = labels_->order();
        offsets_.assign(labels_->offsets(), labels_->offsets() + num_classes + 1);
    } else {
        std::vector<std::int64_t> every(static_cast<std::size_t>(store_->num_episodes()));
        std::iota(every.begin(), every.end(), std::int64_t{0});
        every_step_ = StepIndex(*store_, every);
        std::vector<StepRange> ranges;
        for (const std::int64_t index : selection_.episodes()) {
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

Draw SegmentSampler::draw_step(std::uint64_t step, std::int64_t global_batch, std::int64_t sample) const {
    const Words words = draw(settings_.seed, segment_stream, step, static_cast<std::uint64_t>(sample));
    const std::uint64_t turn =
        step * static_cast<std::uint64_t>(global_batch) + static_cast<std::uint64_t>(sample);
    if (settings_.balance == Balance::skill) {
        const std::size_t c = classes_[static_cast<std::size_t>(turn % classes_.size())];
        return {selection_.whole() ? &selection_.all() : &every_step_,
                offsets_[c] + below(words[0], offsets_[c + 1] - offsets_[c])};
    }
    const StepIndex& steps = settings_.balance == Balance::transition
                                 ? selection_.all()
                                 : selection_.of_task(task_choice_.pick(turn, words[1]));
    return {&steps, below(words[0], steps.size())};
}

// From positions in class order to steps.
void SegmentSampler::look_up_classes(std::vector<Draw>& draws) const {
    for (const Draw& drawn : draws) prefetch_line(order_.address(drawn.position));
    for (Draw& drawn : draws) {
        drawn.position = order_[drawn.position];
        if (drawn.position < 0) throw StoreFault("order.npy: a step lies outside the store");
    }
}

// In stages, each of which asks for what the next one reads: sample by sample, one cache miss would wait for
// the other.
std::vector<Place> SegmentSampler::place(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                                         std::int64_t count, const SegmentBatch& batch) const {
    std::vector<Draw> draws;
    draws.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) draws.push_back(draw_step(step, global_batch, first + i));
    if (settings_.balance == Balance::skill) look_up_classes(draws);
    for (const Draw& drawn : draws) drawn.prefetch();
    std::vector<Place> places;
    places.reserve(draws.size());
    for (std::int64_t i = 0; i < count; ++i) {
        const Place found = draws[static_cast<std::size_t>(i)].find();
        places.push_back(found);
        batch.episode[i] = found.episode->index;
        batch.start[i] = found.step;
        batch.task[i] = found.episode->task;
    }
    return places;
}

void SegmentSampler::locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                            std::int64_t count, const SegmentBatch& batch) const {
    place(step, global_batch, first, count, batch);
}

SegmentSampler::Source SegmentSampler::source(const Place& chosen) const {
    const Episode& episode = *chosen.episode;
    const std::int64_t rows = std::min(settings_.horizon, episode.length - chosen.step);
    return {episode.observations + chosen.step * store_->observation_dim(),
            episode.actions + chosen.step * store_->action_dim(), rows, rows + 1,
            episode.first_step + chosen.step};
}

Rows SegmentSampler::observations(const Source& source) const {
    const std::int64_t width = store_->observation_dim();
    return {source.observations, width, source.states, width};
}

Rows SegmentSampler::actions(const Source& source) const {
    return {source.actions, store_->action_dim(), source.rows, store_->action_dim()};
}

// The mask is true before: only rows past the end of the episode become false.
void SegmentSampler::gather(const Source& source, const Source& upcoming, const SegmentBatch& batch,
                            std::int64_t i) const {
    const std::int64_t horizon = settings_.horizon, rows = source.rows;
    const std::int64_t width = store_->observation_dim();
    const std::int64_t action_width = store_->action_dim();
    float* target = batch.observations + i * (horizon + 1) * width;
    Rows states = observations(source);
    if (rows < horizon) {
        // The state after the last action comes last, beyond the rows that are left empty.
        const Rows last{states.first + rows * width, width, 1, width};
        copy_rows(last, {}, settings_.normalization, target + horizon * width);
        zero_rows(target + rows * width, horizon - rows, width);
        states.count = rows;
    }
    copy_rows(states, observations(upcoming), settings_.normalization, target);
    float* target_actions = batch.actions + i * horizon * action_width;
    copy_rows(actions(source), actions(upcoming), std::nullopt, target_actions);
    zero_rows(target_actions + rows * action_width, horizon - rows, action_width);
    std::fill_n(batch.mask + i * horizon + rows, horizon - rows, false);
    if (batch.skill != nullptr) {
        batch.skill[i] = labels_->labels()[source.step];
    }
}

// Asks for the first line of some windows, which has the addresses of their pages translated. In a large
// store a translation waits for memory as a line does and holds up what follows: those of several windows
// overlap.
void SegmentSampler::translate(const std::vector<Source>& sources, std::size_t first) {
    const std::size_t end = std::min(first + translated_together, sources.size());
    for (std::size_t k = first; k < end; ++k) {
        prefetch_line(sources[k].observations);
        prefetch_line(sources[k].actions);
    }
}

void SegmentSampler::fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                          std::int64_t count, const SegmentBatch& batch) const {
    parallel_for(count, settings_.threads, [&](std::int64_t begin, std::int64_t end) {
        SegmentBatch part = batch;
        part.episode += begin;
        part.start += begin;
        part.task += begin;
        std::vector<Source> sources;
        sources.reserve(static_cast<std::size_t>(end - begin));
        for (const Place& chosen : place(step, global_batch, first + begin, end - begin, part)) {
            const Source found = source(chosen);
            if (labels_) prefetch_line(labels_->labels().address(found.step));
            sources.push_back(found);
        }
        std::fill_n(batch.mask + begin * settings_.horizon, (end - begin) * settings_.horizon, true);
        const Source none;
        translate(sources, 0);
        for (std::size_t k = 0; k < std::min(prefetch_distance, sources.size()); ++k) {
            prefetch(observations(sources[k]));
            prefetch(actions(sources[k]));
        }
        for (std::size_t k = 0; k < sources.size(); ++k) {
            if (k % translated_together == 0) translate(sources, k + translated_together);
            const std::size_t next = k + prefetch_distance;
            gather(sources[k], next < sources.size() ? sources[next] : none, batch,
                   begin + static_cast<std::int64_t>(k));
        }
    });
}

}  // namespace goskill
