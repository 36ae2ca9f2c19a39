// Single decisions for value learning: a state, its action, and what came of it some steps later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/class_index.hpp"
#include "data/rows.hpp"
#include "data/step_choice.hpp"
#include "data/store.hpp"

namespace goskill {

struct TransitionSettings {
    std::int64_t interval = 1;  // steps to the next state, fewer where the episode ends
    double gamma = 1;
    bool discounted_rewards = false;        // whether gamma applies within the interval
    std::optional<std::string> terminated;  // the column that says where episodes end; none: nowhere
    std::vector<std::string> columns;       // further columns of the first step
    std::int64_t before = 0, after = 0;     // steps of the window around the first state; none: no window
    std::optional<Normalization> normalization;
    StepSettings steps;
};

// Where the rows of a batch go. All arrays are dense; B is the number of samples asked for.
struct TransitionBatch {
    float* observations;              // [B, observation_dim]
    float* actions;                   // [B, action_dim]
    float* rewards;                   // [B]
    float* next_observations;         // [B, observation_dim]
    bool* terminated;                 // [B]
    float* discount;                  // [B]: gamma to the power of the steps between the two states
    std::int64_t* start;              // [B]
    std::int64_t* episode;            // [B]
    std::int64_t* task;               // [B]
    std::int64_t* skill;              // [B], or null without labels
    std::vector<std::byte*> columns;  // [B, row] each, in the order of the settings
    // The steps from `before` ahead of the first state to `after` behind it, W = before + after; zero outside
    // of the episode. Null without a window.
    float* window_observations;  // [B, W + 1, observation_dim]
    float* window_actions;       // [B, W, action_dim]
    float* window_rewards;       // [B, W]
    bool* window_mask;           // [B, W]: whether the episode has the step
};

class TransitionSampler {
  public:
    // Throws InputFault for a column that the store does not declare.
    TransitionSampler(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
                      const std::optional<std::vector<std::int64_t>>& episodes, TransitionSettings settings);

    const Store& store() const { return *store_; }
    const TransitionSettings& settings() const { return settings_; }
    bool has_labels() const { return labels_ != nullptr; }

    // Episode, start and task alone of what `fill` fills.
    void locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
                const TransitionBatch& batch) const;

    // Samples [first, first + count) of a step's global batch, of which there are `global_batch`.
    void fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
              const TransitionBatch& batch) const;

  private:
    // What samples read of an episode beside what `Episode` holds.
    struct Results {
        const float* rewards;
        const std::byte* terminated;
    };

    struct Column {
        std::int64_t row_bytes;
        bool truth;
        std::vector<const std::byte*> rows;  // [num_episodes]
    };

    // What a sample is copied from.
    struct Source {
        const float* state;
        const float* action;
        const float* rewards;
        const std::byte* terminated;  // of the last step of the interval
        std::int64_t length;          // steps to the next state
        std::int64_t episode;
        std::int64_t first;  // step of the episode
        std::int64_t step;   // of the whole store
    };

    const DeclaredColumn& declared(const std::string& name) const;
    void find(const Place& chosen, Source& source) const;
    void ask(const Source& source) const;
    void copy(const Source& source, const TransitionBatch& batch, std::int64_t i) const;
    float total_reward(const Source& source) const;
    void copy_columns(const Source& source, const TransitionBatch& batch, std::int64_t i) const;
    void copy_window(const Source& source, const TransitionBatch& batch, std::int64_t i) const;
    void normalize_states(const TransitionBatch& batch, std::int64_t begin, std::int64_t end) const;

    std::shared_ptr<const Store> store_;
    std::shared_ptr<const LabelColumn> labels_;
    TransitionSettings settings_;
    std::int64_t width_;
    std::int64_t action_width_;
    StepChoice choice_;
    std::vector<std::byte> never_;  // zeros, in place of a column that says where episodes end
    std::vector<Results> results_;  // [num_episodes]
    std::vector<Column> columns_;
    std::vector<double> powers_;    // gamma^0 ... gamma^interval
    std::vector<float> discounts_;  // the same
};

}  // namespace goskill
