#include "data/transition_sampler.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "data/fault.hpp"
#include "parallel.hpp"

namespace goskill {
namespace {

constexpr std::uint64_t transition_stream = 3;
constexpr std::size_t prefetch_distance = 6;
constexpr std::int64_t normalized_together = 16;

}  // namespace

TransitionSampler::TransitionSampler(std::shared_ptr<const Store> store,
                                     std::shared_ptr<const LabelColumn> labels,
                                     const std::optional<std::vector<std::int64_t>>& episodes,
                                     TransitionSettings settings)
    : store_(std::move(store)),
      labels_(std::move(labels)),
      settings_(std::move(settings)),
      width_(store_->observation_dim()),
      action_width_(store_->action_dim()),
      choice_(store_, labels_, episodes, settings_.steps, transition_stream) {
    std::int64_t longest = 0;
    for (const Episode& episode : store_->episodes()) longest = std::max(longest, episode.length);
    settings_.interval = std::min(settings_.interval, longest);
    never_.resize(settings_.terminated ? 0 : static_cast<std::size_t>(longest));
    std::vector<const std::byte*> ends(static_cast<std::size_t>(store_->num_episodes()), never_.data());
    if (settings_.terminated) ends = store_->rows_by_episode(declared(*settings_.terminated));
    for (std::size_t i = 0; i < ends.size(); ++i) {
        results_.push_back({store_->outcome(static_cast<std::int64_t>(i)).rewards, ends[i]});
    }
    for (const std::string& name : settings_.columns) {
        const DeclaredColumn& column = declared(name);
        columns_.push_back({column.row_bytes(), column.truth(), store_->rows_by_episode(column)});
    }
    double power = 1;
    for (std::int64_t k = 0; k <= settings_.interval; ++k, power *= settings_.gamma) {
        powers_.push_back(power);
        discounts_.push_back(static_cast<float>(power));
    }
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
    source.state = episode.observations + first * width_;
    source.action = episode.actions + first * action_width_;
    source.rewards = results.rewards + first;
    source.terminated = results.terminated + first + length - 1;
    source.length = length;
    source.episode = episode.index;
    source.first = first;
    source.step = episode.first_step + first;
}

// Asks for what `copy` reads. With few instructions, as in `copy`: the processor looks no further ahead than
// some hundred of them for what else it could read meanwhile.
void TransitionSampler::ask(const Source& source) const {
    if (source.length == 1) {
        prefetch(source.state, 2 * width_);
    } else {
        prefetch(source.state, width_);
        prefetch(source.state + source.length * width_, width_);
        prefetch(source.rewards + 1, source.length - 1);
    }
    prefetch_line(source.action);
    prefetch_line(source.action + action_width_ - 1);
    prefetch_line(source.rewards);
    prefetch_line(source.terminated);
    if (labels_) prefetch_line(labels_->labels().address(source.step));
    for (const Column& column : columns_) {
        prefetch_line(column.rows[static_cast<std::size_t>(source.episode)] +
                      source.first * column.row_bytes);
    }
}

void TransitionSampler::copy(const Source& source, const TransitionBatch& batch, std::int64_t i) const {
    copy_row(source.state, width_, batch.observations + i * width_);
    copy_row(source.state + source.length * width_, width_, batch.next_observations + i * width_);
    copy_row(source.action, action_width_, batch.actions + i * action_width_);
    batch.rewards[i] = source.length == 1 ? *source.rewards : total_reward(source);
    batch.discount[i] = discounts_[static_cast<std::size_t>(source.length)];
    batch.terminated[i] = *source.terminated != std::byte{0};
    if (batch.skill != nullptr) batch.skill[i] = labels_->labels()[source.step];
    if (!columns_.empty()) copy_columns(source, batch, i);
    if (batch.window_mask != nullptr) copy_window(source, batch, i);
}

float TransitionSampler::total_reward(const Source& source) const {
    double total = 0;
    for (std::int64_t k = 0; k < source.length; ++k) {
        const double factor = settings_.discounted_rewards ? powers_[static_cast<std::size_t>(k)] : 1.0;
        total += factor * static_cast<double>(source.rewards[k]);
    }
    return static_cast<float>(total);
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

void TransitionSampler::copy_window(const Source& source, const TransitionBatch& batch,
                                    std::int64_t i) const {
    const std::int64_t steps = settings_.before + settings_.after;
    const Episode& episode = store_->episodes()[static_cast<std::size_t>(source.episode)];
    // The part of the window that lies within the episode: steps [begin, end), states [begin, last].
    const std::int64_t shift = source.first - settings_.before;
    const std::int64_t begin = std::max<std::int64_t>(shift, 0);
    const std::int64_t end = std::min(shift + steps, episode.length);
    const std::int64_t lead = begin - shift, count = end - begin;
    float* const observations = batch.window_observations + i * (steps + 1) * width_;
    float* const actions = batch.window_actions + i * steps * action_width_;
    float* const rewards = batch.window_rewards + i * steps;
    bool* const mask = batch.window_mask + i * steps;
    std::fill_n(observations, (steps + 1) * width_, 0.0F);
    std::fill_n(actions, steps * action_width_, 0.0F);
    std::fill_n(rewards, steps, 0.0F);
    std::fill_n(mask, steps, false);
    float* const states = observations + lead * width_;
    std::copy_n(episode.observations + begin * width_, (count + 1) * width_, states);
    if (settings_.normalization) normalize(states, count + 1, *settings_.normalization);
    std::copy_n(episode.actions + begin * action_width_, count * action_width_,
                actions + lead * action_width_);
    const float* const paid = results_[static_cast<std::size_t>(source.episode)].rewards;
    std::copy_n(paid + begin, count, rewards + lead);
    std::fill_n(mask + lead, count, true);
}

void TransitionSampler::normalize_states(const TransitionBatch& batch, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t offset = begin * width_;
    normalize(batch.observations + offset, end - begin, *settings_.normalization);
    normalize(batch.next_observations + offset, end - begin, *settings_.normalization);
}

void TransitionSampler::fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                             std::int64_t count, const TransitionBatch& batch) const {
    parallel_for(count, choice_.threads(), [&](std::int64_t begin, std::int64_t end) {
        const PlaceArrays part{batch.start + begin, batch.episode + begin, batch.task + begin};
        const std::vector<Place> places = choice_.place(step, global_batch, first + begin, end - begin, part);
        std::vector<Source> sources(places.size());
        for (std::size_t k = 0; k < places.size(); ++k) find(places[k], sources[k]);
        for (std::size_t k = 0; k < std::min(prefetch_distance, sources.size()); ++k) ask(sources[k]);
        std::int64_t done = begin;  // rows that are normalised
        for (std::size_t k = 0; k < sources.size(); ++k) {
            const std::int64_t i = begin + static_cast<std::int64_t>(k);
            copy(sources[k], batch, i);
            if (k + prefetch_distance < sources.size()) ask(sources[k + prefetch_distance]);
            // A few rows at a time, while they are near.
            if (settings_.normalization && (i + 1 == end || i + 1 - done == normalized_together)) {
                normalize_states(batch, done, i + 1);
                done = i + 1;
            }
        }
    });
}

}  // namespace goskill
