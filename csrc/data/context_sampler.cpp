#include "data/context_sampler.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "data/philox.hpp"
#include "parallel.hpp"

namespace goskill {
namespace {

constexpr std::uint64_t context_stream = 2;
constexpr std::int64_t prefetch_distance = 1;
constexpr std::int64_t prompt_table_bytes = std::int64_t{1} << 26;

// Decision points before the episode begins.
std::int64_t padding_of(std::int64_t start, std::int64_t horizon) {
    return start < 0 ? (-start + horizon - 1) / horizon : 0;
}

template <typename T>
void copy_row(const T* table, std::int64_t row, std::int64_t size, T* target, std::int64_t i) {
    if (target != nullptr) std::copy_n(table + row * size, size, target + i * size);
}

}  // namespace

ContextSampler::ContextSampler(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
                               const std::optional<std::vector<std::int64_t>>& episodes,
                               std::vector<std::vector<std::int64_t>> prompt_episodes,
                               ContextSettings settings)
    : store_(std::move(store)),
      labels_(std::move(labels)),
      settings_(std::move(settings)),
      selection_(*store_, episodes),
      task_choice_(selection_, settings_.task_weights),
      prompt_episodes_(std::move(prompt_episodes)) {
    if (settings_.prompt > 0) build_prompt_table();
}

// Demonstrations are few and always give the same window, so batches copy finished ones that lie together.
void ContextSampler::build_prompt_table() {
    for (const auto& prompts : prompt_episodes_) {
        prompt_offsets_.push_back(prompt_offsets_.back() + static_cast<std::int64_t>(prompts.size()));
    }
    const std::int64_t points = prompt_offsets_.back() * settings_.prompt;
    const std::int64_t width = store_->observation_dim(), action_width = store_->action_dim();
    if (points * (width + action_width + 6) > prompt_table_bytes / std::int64_t{sizeof(float)}) return;
    const auto size = [&](std::int64_t elements) { return static_cast<std::size_t>(points * elements); };
    prompts_.observations.resize(size(width));
    prompts_.actions.resize(size(action_width));
    prompts_.returns_to_go.resize(size(1));
    prompts_.timesteps.resize(size(1));
    prompts_.skills.resize(labels_ ? size(1) : 0);
    prompts_.mask = std::make_unique<bool[]>(size(1));
    const Window window = prompts_.window();
    std::int64_t row = 0;
    for (const auto& prompts : prompt_episodes_) {
        for (const std::int64_t index : prompts) {
            const Episode& episode = store_->episode(index);
            gather(episode, prompt_start(episode), settings_.prompt, row++, window);
        }
    }
}

Window ContextSampler::PromptTable::window() {
    return {observations.data(),
            actions.data(),
            returns_to_go.data(),
            timesteps.data(),
            skills.empty() ? nullptr : skills.data(),
            mask.get()};
}

void ContextSampler::copy_prompt(std::int64_t row, std::int64_t i, const Window& target) const {
    const std::int64_t points = settings_.prompt;
    copy_row(prompts_.observations.data(), row, points * store_->observation_dim(), target.observations, i);
    copy_row(prompts_.actions.data(), row, points * store_->action_dim(), target.actions, i);
    copy_row(prompts_.returns_to_go.data(), row, points, target.returns_to_go, i);
    copy_row(prompts_.timesteps.data(), row, points, target.timesteps, i);
    copy_row(prompts_.skills.data(), row, points, target.skills, i);
    copy_row(prompts_.mask.get(), row, points, target.mask, i);
}

std::int64_t ContextSampler::prompt_start(const Episode& episode) const {
    const std::int64_t whole = std::max<std::int64_t>(episode.length / settings_.horizon, 1);
    const std::int64_t points = std::min(settings_.prompt, whole);
    const std::int64_t first = std::max<std::int64_t>(episode.length - points * settings_.horizon, 0);
    return first - (settings_.prompt - points) * settings_.horizon;
}

// In stages, each of which asks for what the next one reads: sample by sample, one cache miss would wait for
// the other.
std::vector<std::int64_t> ContextSampler::place(std::uint64_t step, std::int64_t global_batch,
                                                std::int64_t first, std::int64_t count,
                                                const ContextBatch& batch) const {
    std::vector<Draw> draws;
    draws.reserve(static_cast<std::size_t>(count));
    std::vector<std::int64_t> prompt_rows(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
        const auto sample = static_cast<std::uint64_t>(first + i);
        const Words words = draw(settings_.seed, context_stream, step, sample);
        const std::size_t task =
            task_choice_.pick(step * static_cast<std::uint64_t>(global_batch) + sample, words[1]);
        const StepIndex& steps = selection_.of_task(task);
        // A uniform start is the same as a uniform last decision point.
        draws.push_back({&steps, below(words[0], steps.size())});
        draws.back().prefetch();
        batch.task[i] = selection_.tasks()[task];
        if (settings_.prompt == 0) continue;
        const auto named = static_cast<std::size_t>(batch.task[i]);
        const auto& prompts = prompt_episodes_[named];
        const std::int64_t chosen = below(words[2], static_cast<std::int64_t>(prompts.size()));
        batch.prompt_episode[i] = prompts[static_cast<std::size_t>(chosen)];
        prompt_rows[static_cast<std::size_t>(i)] = prompt_offsets_[named] + chosen;
    }
    for (std::int64_t i = 0; i < count; ++i) {
        const Place last = draws[static_cast<std::size_t>(i)].find();
        batch.episode[i] = last.episode;
        batch.start[i] = last.step - (settings_.context - 1) * settings_.horizon;
        prefetch_line(&store_->episode(last.episode));
    }
    return prompt_rows;
}

void ContextSampler::prefetch_window(const Episode& episode, std::int64_t start, std::int64_t points,
                                     bool actions) const {
    const std::int64_t horizon = settings_.horizon, width = store_->observation_dim();
    const std::int64_t action_width = store_->action_dim();
    const std::int64_t padding = padding_of(start, horizon);
    for (std::int64_t k = padding, t = start + padding * horizon; k < points; ++k, t += horizon) {
        prefetch(episode.observations + t * width, width);
        prefetch_line(episode.returns_to_go + t);
        if (labels_) prefetch_line(labels_->labels().address(episode.first_step + t));
        if (actions) prefetch_line(episode.actions + t * action_width);
    }
}

void ContextSampler::gather(const Episode& episode, std::int64_t start, std::int64_t points, std::int64_t i,
                            const Window& window) const {
    const std::int64_t horizon = settings_.horizon;
    const std::int64_t width = store_->observation_dim();
    const std::int64_t action_width = store_->action_dim();
    const std::int64_t padding = padding_of(start, horizon);
    const std::int64_t real = points - padding;
    const std::int64_t first = start + padding * horizon;
    const std::int64_t row = i * points;

    if (padding > 0) {
        std::fill_n(window.mask + row, padding, false);
        std::fill_n(window.timesteps + row, padding, 0);
        std::fill_n(window.returns_to_go + row, padding, 0.0F);
        zero_rows(window.observations + row * width, padding, width);
    }
    std::fill_n(window.mask + row + padding, real, true);
    copy_observations(episode.observations + first * width, horizon * width, real, width,
                      settings_.normalization, window.observations + (row + padding) * width);
    std::iota(window.timesteps + row + padding, window.timesteps + row + points, first / horizon);
    const float* source = episode.returns_to_go + first;
    float* const returns_to_go = window.returns_to_go + row + padding;
    for (std::int64_t k = 0; k < real; ++k) returns_to_go[k] = source[k * horizon];
    divide(returns_to_go, real, settings_.return_scale);
    if (window.skills != nullptr) {
        std::fill_n(window.skills + row, padding, 0);
        const std::int64_t step = episode.first_step + first;
        for (std::int64_t k = 0; k < real; ++k) {
            window.skills[row + padding + k] = labels_->labels()[step + k * horizon];
        }
    }
    if (window.actions != nullptr) {
        zero_rows(window.actions + row * action_width, padding, action_width);
        copy_observations(episode.actions + first * action_width, horizon * action_width, real, action_width,
                          std::nullopt, window.actions + (row + padding) * action_width);
    }
}

void ContextSampler::locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                            std::int64_t count, const ContextBatch& batch) const {
    place(step, global_batch, first, count, batch);
}

void ContextSampler::fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                          std::int64_t count, const ContextBatch& batch) const {
    const auto prefetch_sample = [&](std::int64_t i) {
        prefetch_window(store_->episode(batch.episode[i]), batch.start[i], settings_.context,
                        batch.context.actions != nullptr);
    };
    parallel_for(count, settings_.threads, [&](std::int64_t begin, std::int64_t end) {
        ContextBatch places = batch;
        places.episode += begin;
        places.start += begin;
        places.task += begin;
        if (settings_.prompt > 0) places.prompt_episode += begin;
        const std::vector<std::int64_t> prompt_rows =
            place(step, global_batch, first + begin, end - begin, places);
        for (std::int64_t i = begin; i < std::min(begin + prefetch_distance, end); ++i) prefetch_sample(i);
        for (std::int64_t i = begin; i < end; ++i) {
            if (i + prefetch_distance < end) prefetch_sample(i + prefetch_distance);
            gather(store_->episode(batch.episode[i]), batch.start[i], settings_.context, i, batch.context);
            if (settings_.prompt == 0) continue;
            if (prompts_.mask) {
                copy_prompt(prompt_rows[static_cast<std::size_t>(i - begin)], i, batch.prompt);
            } else {
                const Episode& prompt = store_->episode(batch.prompt_episode[i]);
                gather(prompt, prompt_start(prompt), settings_.prompt, i, batch.prompt);
            }
        }
    });
}

}  // namespace goskill
