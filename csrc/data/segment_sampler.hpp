// Windows of consecutive steps, cut by the end of the episode.
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

enum class Balance { transition, task, skill };

struct SegmentSettings {
    std::int64_t horizon = 1;
    Balance balance = Balance::task;
    std::vector<double> task_weights;  // [num_tasks] or empty: equal
    std::optional<Normalization> normalization;
    std::uint64_t seed = 0;
    int threads = 1;
};

// Where the rows of a batch go. All arrays are dense; B is the number of samples asked for.
struct SegmentBatch {
    float* observations;    // [B, horizon + 1, observation_dim]
    float* actions;         // [B, horizon, action_dim]
    bool* mask;             // [B, horizon]
    std::int64_t* start;    // [B]
    std::int64_t* episode;  // [B]
    std::int64_t* task;     // [B]
    std::int64_t* skill;    // [B], or null without labels
};

class SegmentSampler {
  public:
    SegmentSampler(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
                   const std::optional<std::vector<std::int64_t>>& episodes, SegmentSettings settings);

    const Store& store() const { return *store_; }
    std::int64_t horizon() const { return settings_.horizon; }
    bool has_labels() const { return labels_ != nullptr; }

    // Episode, start and task alone of what `fill` fills.
    void locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
                const SegmentBatch& batch) const;

    // Samples [first, first + count) of a step's global batch, of which there are `global_batch`.
    void fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
              const SegmentBatch& batch) const;

  private:
    // What a window is copied from: `rows` steps and the state after them; nothing by default.
    struct Source {
        const float* observations = nullptr;
        const float* actions = nullptr;
        std::int64_t rows = 0;
        std::int64_t states = 0;
        std::int64_t step = 0;  // in the whole store
    };

    Draw draw_step(std::uint64_t step, std::int64_t global_batch, std::int64_t sample) const;
    void look_up_classes(std::vector<Draw>& draws) const;
    // What `locate` does. Returns the same places.
    std::vector<Place> place(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                             std::int64_t count, const SegmentBatch& batch) const;
    Source source(const Place& chosen) const;
    Rows observations(const Source& source) const;
    Rows actions(const Source& source) const;
    void gather(const Source& source, const Source& upcoming, const SegmentBatch& batch,
                std::int64_t i) const;
    static void translate(const std::vector<Source>& sources, std::size_t first);
    void index_classes();

    std::shared_ptr<const Store> store_;
    std::shared_ptr<const LabelColumn> labels_;
    SegmentSettings settings_;
    Selection selection_;
    TaskChoice task_choice_;
    StepIndex every_step_;  // of the store, where labels are indexed and not all episodes are chosen
    std::vector<std::uint32_t> narrow_order_;
    std::vector<std::int64_t> wide_order_;
    StepOrder order_;
    std::vector<std::int64_t> offsets_;
    std::vector<std::size_t> classes_;  // those that are not empty
};

}  // namespace goskill
