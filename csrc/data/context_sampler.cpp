#include "data/context_sampler.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "data/philox.hpp"
#include "parallel.hpp"

namespace goskill {
namespace {

constexpr std::uint64_t context_stream = 2;
constexpr std::size_t prefetch_distance = 2;
constexpr std::size_t translated_together = 16;
constexpr std::size_t translation_distance = 3;  // beyond what is prefetched whole
constexpr std::int64_t prompt_table_bytes = std::int64_t{1} << 26;

template <typename T>
void copy_table_row(const T* table, std::int64_t row, std::int64_t size, T* target, std::int64_t i) {
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
            gather(prompt_source(store_->episode(index)), {}, row++, window);
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
    copy_table_row(prompts_.observations.data(), row, points * store_->observation_dim(), target.observations,
                   i);
    copy_table_row(prompts_.actions.data(), row, points * store_->action_dim(), target.actions, i);
    copy_table_row(prompts_.returns_to_go.data(), row, points, target.returns_to_go, i);
    copy_table_row(prompts_.timesteps.data(), row, points, target.timesteps, i);
    copy_table_row(prompts_.skills.data(), row, points, target.skills, i);
    copy_table_row(prompts_.mask.get(), row, points, target.mask, i);
}

std::int64_t ContextSampler::prompt_start(const Episode& episode) const {
    const std::int64_t whole = std::max<std::int64_t>(episode.length / settings_.horizon, 1);
    const std::int64_t points = std::min(settings_.prompt, whole);
    const std::int64_t first = std::max<std::int64_t>(episode.length - points * settings_.horizon, 0);
    return first - (settings_.prompt - points) * settings_.horizon;
}

// In stages, each of which asks for what the next one reads: sample by sample, one cache miss would wait for
// the other.
std::vector<ContextSampler::Chosen> ContextSampler::place(std::uint64_t step, std::int64_t global_batch,
                                                          std::int64_t first, std::int64_t count,
                                                          const ContextBatch& batch) const {
    std::vector<Draw> draws;
    draws.reserve(static_cast<std::size_t>(count));
    std::vector<Chosen> chosen(static_cast<std::size_t>(count));
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
        const std::int64_t prompt = below(words[2], static_cast<std::int64_t>(prompts.size()));
        batch.prompt_episode[i] = prompts[static_cast<std::size_t>(prompt)];
        chosen[static_cast<std::size_t>(i)].prompt_row = prompt_offsets_[named] + prompt;
    }
    for (std::int64_t i = 0; i < count; ++i) {
        const Place last = draws[static_cast<std::size_t>(i)].find();
        chosen[static_cast<std::size_t>(i)].episode = last.episode;
        batch.episode[i] = last.episode->index;
        batch.start[i] = last.step - (settings_.context - 1) * settings_.horizon;
    }
    return chosen;
}

ContextSampler::Source ContextSampler::source(const Episode& episode, std::int64_t start,
                                              std::int64_t points) const {
    const std::int64_t horizon = settings_.horizon;
    const std::int64_t padding = start < 0 ? (-start + horizon - 1) / horizon : 0;
    return {&episode, start + padding * horizon, padding, points - padding};
}

ContextSampler::Source ContextSampler::prompt_source(const Episode& episode) const {
    return source(episode, prompt_start(episode), settings_.prompt);
}

Rows ContextSampler::rows(const Source& source, const float* Episode::* column, std::int64_t width) const {
    const std::int64_t stride = settings_.horizon * width;
    if (source.real == 0) return {nullptr, stride, 0, width};
    return {source.episode->*column + source.first * width, stride, source.real, width};
}

// Asks for what `gather` will read.
void ContextSampler::prefetch_source(const Source& source, bool actions) const {
    prefetch(rows(source, &Episode::observations, store_->observation_dim()));
    if (actions) prefetch(rows(source, &Episode::actions, store_->action_dim()));
    prefetch_scalars(source);
}

void ContextSampler::prefetch_scalars(const Source& source) const {
    prefetch(rows(source, &Episode::returns_to_go, 1));
    if (!labels_ || source.real == 0) return;
    const std::int64_t step = source.episode->first_step + source.first;
    for (std::int64_t k = 0; k < source.real; ++k) {
        prefetch_line(labels_->labels().address(step + k * settings_.horizon));
    }
}

// Asks for the ends of some windows together: one by one, each would wait for the translation of its address.
// The pages between the ends are near enough for theirs to come along.
void ContextSampler::translate(const std::vector<Source>& sources, std::size_t first) const {
    const std::int64_t width = store_->observation_dim();
    const std::size_t end = std::min(first + translated_together, sources.size());
    for (std::size_t k = first; k < end; ++k) {
        const Source& source = sources[k];
        const std::int64_t last = source.first + (source.real - 1) * settings_.horizon;
        prefetch_line(source.episode->observations + source.first * width);
        prefetch_line(source.episode->observations + last * width);
        prefetch_line(source.episode->returns_to_go + source.first);
    }
}

void ContextSampler::gather(const Source& source, const Source& upcoming, std::int64_t i,
                            const Window& window) const {
    const std::int64_t horizon = settings_.horizon;
    const std::int64_t width = store_->observation_dim();
    const std::int64_t action_width = store_->action_dim();
    const std::int64_t padding = source.padding, real = source.real;
    const std::int64_t row = i * (padding + real);
    const Episode& episode = *source.episode;

    if (padding > 0) {
        std::fill_n(window.mask + row, padding, false);
        std::fill_n(window.timesteps + row, padding, 0);
        std::fill_n(window.returns_to_go + row, padding, 0.0F);
        zero_rows(window.observations + row * width, padding, width);
    }
    std::fill_n(window.mask + row + padding, real, true);
    copy_rows(rows(source, &Episode::observations, width), rows(upcoming, &Episode::observations, width),
              settings_.normalization, window.observations + (row + padding) * width);
    prefetch_scalars(upcoming);
    std::iota(window.timesteps + row + padding, window.timesteps + row + padding + real,
              source.first / horizon);
    const float* const values = episode.returns_to_go + source.first;
    float* const returns_to_go = window.returns_to_go + row + padding;
    for (std::int64_t k = 0; k < real; ++k) returns_to_go[k] = values[k * horizon];
    divide(returns_to_go, real, settings_.return_scale);
    if (window.skills != nullptr) {
        std::fill_n(window.skills + row, padding, 0);
        const std::int64_t step = episode.first_step + source.first;
        for (std::int64_t k = 0; k < real; ++k) {
            window.skills[row + padding + k] = labels_->labels()[step + k * horizon];
        }
    }
    if (window.actions != nullptr) {
        zero_rows(window.actions + row * action_width, padding, action_width);
        copy_rows(rows(source, &Episode::actions, action_width),
                  rows(upcoming, &Episode::actions, action_width), std::nullopt,
                  window.actions + (row + padding) * action_width);
    }
}

void ContextSampler::locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                            std::int64_t count, const ContextBatch& batch) const {
    place(step, global_batch, first, count, batch);
}

void ContextSampler::fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                          std::int64_t count, const ContextBatch& batch) const {
    const bool actions = batch.context.actions != nullptr;
    parallel_for(count, settings_.threads, [&](std::int64_t begin, std::int64_t end) {
        ContextBatch part = batch;
        part.episode += begin;
        part.start += begin;
        part.task += begin;
        if (settings_.prompt > 0) part.prompt_episode += begin;
        const std::vector<Chosen> chosen = place(step, global_batch, first + begin, end - begin, part);
        std::vector<Source> sources;
        sources.reserve(chosen.size());
        for (std::size_t k = 0; k < chosen.size(); ++k) {
            sources.push_back(source(*chosen[k].episode, part.start[k], settings_.context));
        }
        const Source none;
        for (std::size_t k = 0; k < std::min(prefetch_distance, sources.size()); ++k) {
            prefetch_source(sources[k], actions);
        }
        for (std::size_t k = 0; k < sources.size(); ++k) {
            const std::int64_t i = begin + static_cast<std::int64_t>(k);
            const std::size_t next = k + prefetch_distance;
            if (k % translated_together == 0) translate(sources, k + translation_distance);
            gather(sources[k], next < sources.size() ? sources[next] : none, i, batch.context);
            if (settings_.prompt == 0) continue;
            if (prompts_.mask) {
                copy_prompt(chosen[k].prompt_row, i, batch.prompt);
            } else {
                gather(prompt_source(store_->episode(batch.prompt_episode[i])), {}, i, batch.prompt);
            }
        }
    });
}

}  // namespace goskill
