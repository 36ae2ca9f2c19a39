// Which episodes a sampler draws from, and how a random number becomes a step of one of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/rows.hpp"
#include "data/store.hpp"

namespace goskill {

// A step of an episode.
struct Place {
    const Episode* episode;
    std::int64_t step;
};

// Positions 0, 1, 2, … over the steps of a list of episodes.
class StepIndex {
  public:
    StepIndex() = default;
    StepIndex(const Store& store, const std::vector<std::int64_t>& episodes);

    std::int64_t size() const { return size_; }
    // The position of the first step, and the steps, of the episode at a place in the list.
    std::int64_t first_of(std::size_t place) const { return runs_[place].first; }
    std::int64_t length_of(std::size_t place) const { return runs_[place].episode.length; }
    Place find(std::int64_t position) const;
    // Asks for what `find` will read.
    void prefetch(std::int64_t position) const { prefetch_line(&runs_[guess(position)]); }

  private:
    // With a copy of the episode, so that a sample is one cache line away: in a large store each further one
    // waits for memory.
    struct alignas(64) Run {
        std::int64_t first;  // position of the episode's first step
        Episode episode;
    };
    static_assert(sizeof(Run) == 64);

    // Episodes are often of one length: the guess is then right and saves the cache misses of a binary
    // search.
    std::size_t guess(std::int64_t position) const {
        const auto run = static_cast<std::size_t>(static_cast<double>(position) * episodes_per_step_);
        return std::min(run, runs_.size() - 1);
    }

    std::vector<Run> runs_;
    std::int64_t size_ = 0;
    double episodes_per_step_ = 0;
};

// A position among some steps.
struct Draw {
    const StepIndex* steps;
    std::int64_t position;

    Place find() const { return steps->find(position); }
    void prefetch() const { steps->prefetch(position); }
};

// The chosen episodes (all of the store unless given), as a whole and by task. Tasks without one are left
// out. Throws InputFault for an index outside the store, a repeated one, or none at all.
class Selection {
  public:
    Selection(const Store& store, const std::optional<std::vector<std::int64_t>>& episodes);

    const std::vector<std::int64_t>& episodes() const { return episodes_; }
    const StepIndex& all() const { return all_; }
    bool whole() const { return whole_; }
    // The tasks that have episodes, ascending, and the steps of each.
    const std::vector<std::int64_t>& tasks() const { return tasks_; }
    const StepIndex& of_task(std::size_t position) const { return by_task_[position]; }

  private:
    bool whole_;
    std::vector<std::int64_t> episodes_;
    StepIndex all_;
    std::vector<std::int64_t> tasks_;
    std::vector<StepIndex> by_task_;
};

// Positions in a list at random, in proportion to weights.
class WeightedChoice {
  public:
    // Throws InputFault that begins with `argument` if the sum is not finite, or 0: `none` "has a weight
    // above 0".
    WeightedChoice(const std::vector<double>& weights, const std::string& argument, const std::string& none);

    std::size_t pick(std::uint64_t word) const;

  private:
    std::vector<double> cumulative_;
};

// Which task a sample belongs to: in turn, or at random by weight.
class TaskChoice {
  public:
    // `weights` [num_tasks] or empty. Throws InputFault if no task with episodes has one above 0.
    TaskChoice(const Selection& selection, const std::vector<double>& weights);

    // A position in `Selection::tasks()`. `turn` counts all samples since step 0.
    std::size_t pick(std::uint64_t turn, std::uint64_t word) const;

  private:
    std::size_t num_tasks_;
    std::optional<WeightedChoice> weighted_;
};

}  // namespace goskill
