#include "data/selection.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "data/fault.hpp"
#include "data/philox.hpp"

namespace goskill {
namespace {

constexpr int most_attempts = 8;  // before a binary search

}  // namespace

StepIndex::StepIndex(const Store& store, const std::vector<std::int64_t>& episodes) {
    runs_.reserve(episodes.size());
    for (const std::int64_t episode : episodes) {
        runs_.push_back({size_, store.episode(episode)});
        size_ += runs_.back().episode.length;
    }
    if (size_ > 0) episodes_per_step_ = static_cast<double>(episodes.size()) / static_cast<double>(size_);
}

// Interpolates from the guess: of episodes of many lengths, a few steps are usually enough.
Place StepIndex::find(std::int64_t position) const {
    const auto last = static_cast<std::int64_t>(runs_.size()) - 1;
    auto run = static_cast<std::int64_t>(guess(position));
    for (int attempt = 0; attempt < most_attempts; ++attempt) {
        const Run& here = runs_[static_cast<std::size_t>(run)];
        const std::int64_t step = position - here.first;
        if (step >= 0 && step < here.episode.length) return {&here.episode, step};
        const std::int64_t beyond = step < 0 ? step : step - here.episode.length;
        const auto skipped = static_cast<std::int64_t>(static_cast<double>(beyond) * episodes_per_step_);
        run = std::clamp<std::int64_t>(run + skipped + (step < 0 ? -1 : 1), 0, last);
    }
    const auto next =
        std::upper_bound(runs_.begin(), runs_.end(), position,
                         [](std::int64_t value, const Run& other) { return value < other.first; });
    const Run& found = *(next - 1);
    return {&found.episode, position - found.first};
}

Selection::Selection(const Store& store, const std::optional<std::vector<std::int64_t>>& episodes)
    : whole_(!episodes) {
    std::vector<std::int64_t>& chosen = episodes_;
    if (episodes) {
        chosen = *episodes;
        std::sort(chosen.begin(), chosen.end());
        if (!chosen.empty() && (chosen.front() < 0 || chosen.back() >= store.num_episodes())) {
            throw InputFault("episodes: expected indices in [0, " + std::to_string(store.num_episodes()) +
                             "), got " + std::to_string(chosen.front() < 0 ? chosen.front() : chosen.back()));
        }
        const auto repeated = std::adjacent_find(chosen.begin(), chosen.end());
        if (repeated != chosen.end()) {
            throw InputFault("episodes: expected distinct indices, got " + std::to_string(*repeated) +
                             " more than once");
        }
    } else {
        chosen.resize(static_cast<std::size_t>(store.num_episodes()));
        std::iota(chosen.begin(), chosen.end(), std::int64_t{0});
    }
    if (chosen.empty()) throw InputFault("episodes: there is none to sample from");
    std::vector<std::vector<std::int64_t>> by_task(static_cast<std::size_t>(store.num_tasks()));
    for (const std::int64_t episode : chosen) {
        by_task[static_cast<std::size_t>(store.episode(episode).task)].push_back(episode);
    }
    all_ = StepIndex(store, chosen);
    for (std::size_t task = 0; task < by_task.size(); ++task) {
        if (by_task[task].empty()) continue;
        tasks_.push_back(static_cast<std::int64_t>(task));
        by_task_.emplace_back(store, by_task[task]);
    }
}

WeightedChoice::WeightedChoice(const std::vector<double>& weights, const std::string& argument,
                               const std::string& none) {
    double total = 0;
    cumulative_.reserve(weights.size());
    for (const double weight : weights) cumulative_.push_back(total += weight);
    if (!std::isfinite(total)) throw InputFault(argument + ": expected a finite sum");
    if (!(total > 0)) throw InputFault(argument + ": " + none + " has a weight above 0");
    for (double& weight : cumulative_) weight /= total;
}

std::size_t WeightedChoice::pick(std::uint64_t word) const {
    const auto above = std::upper_bound(cumulative_.begin(), cumulative_.end(), unit(word));
    return static_cast<std::size_t>(above - cumulative_.begin());
}

TaskChoice::TaskChoice(const Selection& selection, const std::vector<double>& weights)
    : num_tasks_(selection.tasks().size()) {
    if (weights.empty()) return;
    std::vector<double> chosen;
    for (const std::int64_t task : selection.tasks())
        chosen.push_back(weights[static_cast<std::size_t>(task)]);
    weighted_.emplace(chosen, "task_weights", "no task with episodes");
}

std::size_t TaskChoice::pick(std::uint64_t turn, std::uint64_t word) const {
    return weighted_ ? weighted_->pick(word) : static_cast<std::size_t>(turn % num_tasks_);
}

}  // namespace goskill
