// Windows of consecutive steps, cut by the end of the episode.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/class_index.hpp"
#include "data/rows.hpp"
#include "data/step_choice.hpp"
#include "data/store.hpp"

namespace goskill {

struct SegmentSettings {
    std::int64_t horizon = 1;
    std::optional<Normalization> normalization;
    StepSettings steps;  // how the windows' first steps are chosen
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
    std::int64_t horizon() const { return horizon_; }
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

    Source source(const Place& chosen) const;
    Rows observations(const Source& source) const;
    Rows actions(const Source& source) const;
    void gather(const Source& source, const Source& upcoming, const SegmentBatch& batch,
                std::int64_t i) const;
    static void translate(const std::vector<Source>& sources, std::size_t first);

    std::shared_ptr<const Store> store_;
    std::shared_ptr<const LabelColumn> labels_;
    std::int64_t horizon_;
    std::optional<Normalization> normalization_;
    StepChoice choice_;
};

}  // namespace goskill
