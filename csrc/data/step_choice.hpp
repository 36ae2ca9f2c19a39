// Which steps of a store a batch is made of.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/class_index.hpp"
#include "data/selection.hpp"
#include "data/store.hpp"

namespace goskill {

enum class Balance { transition, task, episode, skill };

struct StepSettings {
    Balance balance = Balance::task;
    std::vector<double> task_weights;     // [num_tasks] or empty: equal
    std::vector<double> episode_weights;  // [num_episodes] or empty: equal
    std::int64_t samples_per_task = 1;    // how many samples of a task follow one another
    std::uint64_t seed = 0;
    int threads = 1;
};

// Where samples come from, [B] each.
struct PlaceArrays {
    std::int64_t* start;
    std::int64_t* episode;
    std::int64_t* task;
};

// Chooses the step of each sample by its own random numbers, so that any part of a batch can be made alone.
class StepChoice {
  public:
    // `stream` tells the random numbers of samplers apart. `labels` are needed for Balance::skill alone.
    StepChoice(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
               const std::optional<std::vector<std::int64_t>>& episodes, StepSettings settings,
               std::uint64_t stream);

    // The steps of samples [first, first + count) of a step's global batch, of which there are
    // `global_batch`. Fills the arrays with them from the beginning.
    std::vector<Place> place(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                             std::int64_t count, const PlaceArrays& arrays) const;

    int threads() const { return settings_.threads; }

  private:
    Draw draw_step(std::uint64_t step, std::int64_t global_batch, std::int64_t sample) const;
    Draw draw_of_episode(std::uint64_t episode_word, std::uint64_t step_word) const;
    void look_up_classes(std::vector<Draw>& draws) const;
    void index_classes();

    std::shared_ptr<const Store> store_;
    std::shared_ptr<const LabelColumn> labels_;
    StepSettings settings_;
    std::uint64_t stream_;
    Selection selection_;
    TaskChoice task_choice_;
    std::optional<WeightedChoice> episode_choice_;
    StepIndex every_step_;  // of the store, where labels are indexed and not all episodes are chosen
    std::vector<std::uint32_t> narrow_order_;
    std::vector<std::int64_t> wide_order_;
    StepOrder order_;
    std::vector<std::int64_t> offsets_;
    std::vector<std::size_t> classes_;  // those that are not empty
};

}  // namespace goskill
