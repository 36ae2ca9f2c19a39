// Decision points at a stride of H environment steps, padded on the left, behind a demonstration's last ones.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/class_index.hpp"
#include "data/rows.hpp"
#include "data/selection.hpp"
#include "data/store.hpp"

namespace goskill {

struct ContextSettings {
    std::int64_t horizon = 1;  // environment steps between decision points
    std::int64_t context = 1;  // decision points
    std::int64_t prompt = 0;   // decision points of the demonstration
    float return_scale = 1000.0F;
    std::vector<double> task_weights;  // [num_tasks] or empty: equal
    std::optional<Normalization> normalization;
    std::uint64_t seed = 0;
    int threads = 1;
};

// One window of L decision points per sample. All arrays are dense.
struct Window {
    float* observations;      // [B, L, observation_dim]
    float* actions;           // [B, L, action_dim], or null
    float* returns_to_go;     // [B, L, 1]
    std::int64_t* timesteps;  // [B, L]
    std::int64_t* skills;     // [B, L], or null without labels
    bool* mask;               // [B, L]
};

struct ContextBatch {
    Window context;
    Window prompt;
    std::int64_t* start;           // [B]
    std::int64_t* episode;         // [B]
    std::int64_t* task;            // [B]
    std::int64_t* prompt_episode;  // [B]
};

class ContextSampler {
  public:
    // `prompt_episodes` [num_tasks]: the demonstrations of each task; only tasks with episodes need any.
    ContextSampler(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
                   const std::optional<std::vector<std::int64_t>>& episodes,
                   std::vector<std::vector<std::int64_t>> prompt_episodes, ContextSettings settings);

    const Store& store() const { return *store_; }
    const ContextSettings& settings() const { return settings_; }
    bool has_labels() const { return labels_ != nullptr; }

    // Episode, start, task and prompt episode alone of what `fill` fills.
    void locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
                const ContextBatch& batch) const;

    // Samples [first, first + count) of a step's global batch, of which there are `global_batch`.
    void fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
              const ContextBatch& batch) const;

  private:
    // The window of each demonstration; empty if they would take too much memory.
    struct PromptTable {
        std::vector<float> observations, actions, returns_to_go;
        std::vector<std::int64_t> timesteps, skills;
        std::unique_ptr<bool[]> mask;
        Window window();
    };

    // What a window is copied from: `padding` empty points, then `real` ones from step `first` on; none by
    // default.
    struct Source {
        const Episode* episode = nullptr;
        std::int64_t first = 0;
        std::int64_t padding = 0;
        std::int64_t real = 0;
    };

    // A sample's episode, and its row in the table of prompts.
    struct Chosen {
        const Episode* episode = nullptr;
        std::int64_t prompt_row = 0;
    };

    void build_prompt_table();
    void copy_prompt(std::int64_t row, std::int64_t i, const Window& target) const;
    std::int64_t prompt_start(const Episode& episode) const;
    // What `locate` does. Returns what it chose.
    std::vector<Chosen> place(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                              std::int64_t count, const ContextBatch& batch) const;
    Source source(const Episode& episode, std::int64_t start, std::int64_t points) const;
    Source prompt_source(const Episode& episode) const;
    // The decision points of one column.
    Rows rows(const Source& source, const float* Episode::* column, std::int64_t width) const;
    void prefetch_source(const Source& source, bool actions) const;
    void prefetch_scalars(const Source& source) const;
    void translate(const std::vector<Source>& sources, std::size_t first) const;
    // Fills window `i` and asks for what `upcoming` will take.
    void gather(const Source& source, const Source& upcoming, std::int64_t i, const Window& window) const;

    std::shared_ptr<const Store> store_;
    std::shared_ptr<const LabelColumn> labels_;
    ContextSettings settings_;
    Selection selection_;
    TaskChoice task_choice_;
    std::vector<std::vector<std::int64_t>> prompt_episodes_;
    std::vector<std::int64_t> prompt_offsets_ = {0};  // [num_tasks + 1] of each task's first row in the table
    PromptTable prompts_;
};

}  // namespace goskill
