#include "data/variable_segment_sampler.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "data/fault.hpp"
#include "data/philox.hpp"
#include "parallel.hpp"

namespace goskill {
namespace {

constexpr std::uint64_t variable_segment_stream = 4;
constexpr std::size_t prefetch_distance = 2;

}  // namespace

VariableSegmentSampler::VariableSegmentSampler(std::shared_ptr<const Store> store,
                                               std::shared_ptr<const LabelColumn> labels,
                                               const std::optional<std::vector<std::int64_t>>& episodes,
                                               VariableSegmentSettings settings)
    : store_(std::move(store)), labels_(std::move(labels)), settings_(std::move(settings)) {
    std::vector<std::int64_t> every(static_cast<std::size_t>(store_->num_episodes()));
    std::iota(every.begin(), every.end(), std::int64_t{0});
    every_step_ = StepIndex(*store_, every);
    find_segments(Selection(*store_, episodes));
    if (settings_.by_class) index_classes();
}

void VariableSegmentSampler::find_segments(const Selection& selection) {
    const LabelView& labels = labels_->labels();
    starts_ = CompactIntegers(narrow_steps(store_->num_steps()));
    for (const std::int64_t index : selection.episodes()) {
        const Episode& episode = store_->episode(index);
        const std::int64_t end = episode.first_step + episode.length;
        for (std::int64_t step = episode.first_step; step < end; ++step) {
            if (step == episode.first_step || labels[step] != labels[step - 1]) starts_.push_back(step);
        }
    }
}

// One counting sort of the segments.
void VariableSegmentSampler::index_classes() {
    const LabelView& labels = labels_->labels();
    const std::int64_t num_classes = labels_->num_classes();
    offsets_.assign(static_cast<std::size_t>(num_classes) + 1, 0);
    for (std::int64_t i = 0; i < starts_.size(); ++i) {
        const std::int64_t label = labels[starts_[i]];
        if (label >= num_classes) {
            throw StoreFault("labels: expected values below " + std::to_string(num_classes) + ", got " +
                             std::to_string(label) + " at step " + std::to_string(starts_[i]));
        }
        ++offsets_[static_cast<std::size_t>(label) + 1];
    }
    for (std::size_t c = 0; c + 1 < offsets_.size(); ++c) {
        if (offsets_[c + 1] > 0) classes_.push_back(c);
        offsets_[c + 1] += offsets_[c];
    }
    std::vector<std::int64_t> next(offsets_.begin(), offsets_.end() - 1);
    by_class_ = CompactIntegers(narrow_steps(store_->num_steps()));
    by_class_.resize(starts_.size());
    for (std::int64_t i = 0; i < starts_.size(); ++i) {
        by_class_.set(next[static_cast<std::size_t>(labels[starts_[i]])]++, i);
    }
}

// Chooses sample `i` of the batch, which is the `first + i`-th of the global one.
VariableSegmentSampler::Source VariableSegmentSampler::place(std::uint64_t step, std::int64_t global_batch,
                                                             std::int64_t first, std::int64_t i,
                                                             const VariableSegmentBatch& batch) const {
    const auto sample = static_cast<std::uint64_t>(first + i);
    const Words words = draw(settings_.seed, variable_segment_stream, step, sample);
    std::int64_t segment = 0;
    if (settings_.by_class) {
        const std::uint64_t turn = step * static_cast<std::uint64_t>(global_batch) + sample;
        const std::size_t c = classes_[static_cast<std::size_t>(turn % classes_.size())];
        segment = by_class_[offsets_[c] + below(words[0], offsets_[c + 1] - offsets_[c])];
    } else {
        segment = below(words[0], starts_.size());
    }
    const std::int64_t begin = starts_[segment];
    const Place found = every_step_.find(begin);
    const Episode& episode = *found.episode;
    // The next segment may be one of an episode further on, if not all are chosen.
    std::int64_t end = episode.first_step + episode.length;
    if (segment + 1 < starts_.size()) end = std::min(end, starts_[segment + 1]);
    const std::int64_t whole = end - begin, length = std::min(whole, settings_.max_length);
    const std::int64_t start = found.step + below(words[1], whole - length + 1);
    batch.length[i] = length;
    batch.start[i] = start;
    batch.segment_start[i] = found.step;
    batch.segment_length[i] = whole;
    batch.episode[i] = episode.index;
    batch.task[i] = episode.task;
    batch.skill[i] = labels_->labels()[begin];
    return {episode.observations + start * store_->observation_dim(),
            episode.actions + start * store_->action_dim(), length};
}

void VariableSegmentSampler::locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                                    std::int64_t count, const VariableSegmentBatch& batch) const {
    for (std::int64_t i = 0; i < count; ++i) place(step, global_batch, first, i, batch);
}

Rows VariableSegmentSampler::observations(const Source& source) const {
    const std::int64_t width = store_->observation_dim();
    return {source.observations, width, source.length == 0 ? 0 : source.length + 1, width};
}

Rows VariableSegmentSampler::actions(const Source& source) const {
    const std::int64_t width = store_->action_dim();
    return {source.actions, width, source.length, width};
}

void VariableSegmentSampler::gather(const Source& source, const Source& upcoming,
                                    const VariableSegmentBatch& batch, std::int64_t i) const {
    const std::int64_t most = settings_.max_length, length = source.length;
    const std::int64_t width = store_->observation_dim(), action_width = store_->action_dim();
    float* const states = batch.observations + i * (most + 1) * width;
    float* const decisions = batch.actions + i * most * action_width;
    copy_rows(observations(source), observations(upcoming), settings_.normalization, states);
    copy_rows(actions(source), actions(upcoming), std::nullopt, decisions);
    zero_rows(states + (length + 1) * width, most - length, width);
    zero_rows(decisions + length * action_width, most - length, action_width);
    std::fill_n(batch.mask + i * most, length, true);
    std::fill_n(batch.mask + i * most + length, most - length, false);
}

void VariableSegmentSampler::fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                                  std::int64_t count, const VariableSegmentBatch& batch) const {
    parallel_for(count, settings_.threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<Source> sources;
        sources.reserve(static_cast<std::size_t>(end - begin));
        for (std::int64_t i = begin; i < end; ++i)
            sources.push_back(place(step, global_batch, first, i, batch));
        for (std::size_t k = 0; k < std::min(prefetch_distance, sources.size()); ++k) {
            prefetch(observations(sources[k]));
            prefetch(actions(sources[k]));
        }
        const Source none;
        for (std::size_t k = 0; k < sources.size(); ++k) {
            const std::size_t next = k + prefetch_distance;
            gather(sources[k], next < sources.size() ? sources[next] : none, batch,
                   begin + static_cast<std::int64_t>(k));
        }
    });
}

}  // namespace goskill
