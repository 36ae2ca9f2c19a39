#include "data/segment_sampler.hpp"

#include <algorithm>
#include <utility>

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
      horizon_(settings.horizon),
      normalization_(std::move(settings.normalization)),
      choice_(store_, labels_, episodes, std::move(settings.steps), segment_stream) {}

void SegmentSampler::locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                            std::int64_t count, const SegmentBatch& batch) const {
    choice_.place(step, global_batch, first, count, {batch.start, batch.episode, batch.task});
}

SegmentSampler::Source SegmentSampler::source(const Place& chosen) const {
    const Episode& episode = *chosen.episode;
    const std::int64_t rows = std::min(horizon_, episode.length - chosen.step);
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
    const std::int64_t horizon = horizon_, rows = source.rows;
    const std::int64_t width = store_->observation_dim();
    const std::int64_t action_width = store_->action_dim();
    float* target = batch.observations + i * (horizon + 1) * width;
    Rows states = observations(source);
    if (rows < horizon) {
        // The state after the last action comes last, beyond the rows that are left empty.
        const Rows last{states.first + rows * width, width, 1, width};
        copy_rows(last, {}, normalization_, target + horizon * width);
        zero_rows(target + rows * width, horizon - rows, width);
        states.count = rows;
    }
    copy_rows(states, observations(upcoming), normalization_, target);
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
    parallel_for(count, choice_.threads(), [&](std::int64_t begin, std::int64_t end) {
        const PlaceArrays part{batch.start + begin, batch.episode + begin, batch.task + begin};
        std::vector<Source> sources;
        sources.reserve(static_cast<std::size_t>(end - begin));
        for (const Place& chosen : choice_.place(step, global_batch, first + begin, end - begin, part)) {
            const Source found = source(chosen);
            if (labels_) prefetch_line(labels_->labels().address(found.step));
            sources.push_back(found);
        }
        std::fill_n(batch.mask + begin * horizon_, (end - begin) * horizon_, true);
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
