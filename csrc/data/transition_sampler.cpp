#include "data/transition_sampler.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "data/fault.hpp"
#include "parallel.hpp"

namespace goskill {
namespace {

constexpr std::uint64_t transition_stream = 3;
constexpr std::int64_t prefetch_distance = 8;
constexpr std::int64_t normalized_together = 16;

}  // namespace

TransitionSampler::TransitionSampler(std::shared_ptr<const Store> store,
                                     std::shared_ptr<const LabelColumn> labels,
                                     const std::optional<std::vector<std::int64_t>>& episodes,
                                     TransitionSettings settings)
    : store_(std::move(store)),
      labels_(std::move(labels)),
      settings_(std::move(settings)),
      choice_(store_, labels_, episodes, settings_.steps, transition_stream) {
    std::vector<const std::byte*> ends(static_cast<std::size_t>(store_->num_episodes()), nullptr);
    if (settings_.terminated) ends = store_->rows_by_episode(declared(*settings_.terminated));
    for (std::size_t i = 0; i < ends.size(); ++i) {
        results_.push_back({store_->outcome(static_cast<std::int64_t>(i)).rewards, ends[i]});
    }
    for (const std::string& name : settings_.columns) {
        const DeclaredColumn& column = declared(name);
        columns_.push_back({column.row_bytes(), column.truth(), store_->rows_by_episode(column)});
    }
    std::int64_t longest = 0;
    for (const Episode& episode : store_->episodes()) longest = std::max(longest, episode.length);
    settings_.interval = std::min(settings_.interval, longest);
    double power = 1;
    for (std::int64_t k = 0; k <= settings_.interval; ++k, power *= settings_.gamma) powers_.push_back(power);
}

const DeclaredColumn& TransitionSampler::declared(const std::string& name) const {
    const DeclaredColumn* column = store_->step_column(name);
    if (column == nullptr) throw InputFault("columns: the store declares no column '" + name + "'");
    return *column;
}

void TransitionSampler::locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                               std::int64_t count, const TransitionBatch& batch) const {
    choice_.place(step, global_batch, first, count, {batch.start, batch.episode, batch.task});
}

// Field by field: a struct that is read in wider pieces than it was just written in waits for all stores
// before it.
void TransitionSampler::find(const Place& chosen, Source& source) const {
    const Episode& episode = *chosen.episode;
    const Results& results = results_[static_cast<std::size_t>(episode.index)];
    const std::int64_t first = chosen.step, length = std::min(settings_.interval, episode.length - first);
    source.state = episode.observations + first * store_->observation_dim();
    source.action = episode.actions + first * store_->action_dim();
    source.rewards = results.rewards + first;
    source.terminated = results.terminated == nullptr ? nullptr : results.terminated + first + length - 1;
    source.length = length;
    source.episode = episode.index;
    source.first = first;
    source.step = episode.first_step + first;
}

// Asks for what `copy` reads.
void TransitionSampler::ask(const Source& source) const {
    const std::int64_t width = store_->observation_dim();
    if (source.length == 1) {
        prefetch(source.state, 2 * width);
    } else {
        prefetch(source.state, width);
        prefetch(source.state + source.length * width, width);
    }
    prefetch(source.action, store_->action_dim());
    prefetch(source.rewards, source.length);
    if (source.terminated != nullptr) prefetch_line(source.terminated);
    if (labels_) prefetch_line(labels_->labels().address(source.step));
    for (const Column& column : columns_) {
        prefetch_line(column.rows[static_cast<std::size_t>(source.episode)] +
                      source.first * column.row_bytes);
    }
}

void TransitionSampler::copy(const Source& source, const TransitionBatch& batch, std::int64_t i) const {
    const std::int64_t width = store_->observation_dim(), action_width = store_->action_dim();
    copy_row(source.state, width, batch.observations + i * width);
    copy_row(source.state + source.length * width, width, batch.next_observations + i * width);
    copy_row(source.action, action_width, batch.actions + i * action_width);
    double total = 0;
    for (std::int64_t k = 0; k < source.length; ++k) {
        const double factor = settings_.discounted_rewards ? powers_[static_cast<std::size_t>(k)] : 1.0;
        total += factor * static_cast<double>(source.rewards[k]);
    }
    batch.rewards[i] = static_cast<float>(total);
    batch.discount[i] = static_cast<float>(powers_[static_cast<std::size_t>(source.length)]);
    batch.terminated[i] = source.terminated != nullptr && *source.terminated != std::byte{0};
    if (batch.skill != nullptr) batch.skill[i] = labels_->labels()[source.step];
    copy_columns(source, batch, i);
}

void TransitionSampler::copy_columns(const Source& source, const TransitionBatch& batch,
                                     std::int64_t i) const {
    for (std::size_t c = 0; c < columns_.size(); ++c) {
        const Column& column = columns_[c];
        const std::byte* const row =
            column.rows[static_cast<std::size_t>(source.episode)] + source.first * column.row_bytes;
        std::byte* const target = batch.columns[c] + i * column.row_bytes;
        if (column.truth) {
            // A damaged file may hold bytes that no bool has.
            std::transform(row, row + column.row_bytes, target,
                           [](std::byte value) { return std::byte{value != std::byte{0}}; });
        } else {
            std::memcpy(target, row, static_cast<std::size_t>(column.row_bytes));
        }
    }
}

void TransitionSampler::normalize_states(const TransitionBatch& batch, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t offset = begin * store_->observation_dim();
    normalize(batch.observations + offset, end - begin, *settings_.normalization);
    normalize(batch.next_observations + offset, end - begin, *settings_.normalization);
}

void TransitionSampler::fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                             std::int64_t count, const TransitionBatch& batch) const {
    parallel_for(count, choice_.threads(), [&](std::int64_t begin, std::int64_t end) {
        const PlaceArrays part{batch.start + begin, batch.episode + begin, batch.task + begin};
        const std::vector<Place> places = choice_.place(step, global_batch, first + begin, end - begin, part);
        const auto size = static_cast<std::int64_t>(places.size());
        std::array<Source, prefetch_distance> upcoming;
        const auto ask_for = [&](std::int64_t k) {
            Source& next = upcoming[static_cast<std::size_t>(k % prefetch_distance)];
            find(places[static_cast<std::size_t>(k)], next);
            ask(next);
        };
        for (std::int64_t k = 0; k < std::min(prefetch_distance, size); ++k) ask_for(k);
        for (std::int64_t k = 0; k < size; ++k) {
            copy(upcoming[static_cast<std::size_t>(k % prefetch_distance)], batch, begin + k);
            if (k + prefetch_distance < size) ask_for(k + prefetch_distance);
            // A few rows at a time, while they are near.
            const bool last = k + 1 == size || (k + 1) % normalized_together == 0;
            if (settings_.normalization && last) {
                normalize_states(batch, begin + k / normalized_together * normalized_together, begin + k + 1);
            }
        }
    });
}

}  // namespace goskill
