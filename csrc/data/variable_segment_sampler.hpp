// Segments of variable length: consecutive steps of one label within an episode.
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

struct VariableSegmentSettings {
    std::int64_t max_length = 1;  // longer segments are cropped
    bool by_class = false;        // classes take turns; else all segments are equally likely
    std::optional<Normalization> normalization;
    std::uint64_t seed = 0;
    int threads = 1;
};

// Where the rows of a batch go. All arrays are dense; B is the number of samples, L the maximum length.
struct VariableSegmentBatch {
    float* observations;           // [B, L + 1, observation_dim]
    float* actions;                // [B, L, action_dim]
    bool* mask;                    // [B, L]
    std::int64_t* length;          // [B]: steps of the sample
    std::int64_t* start;           // [B]: its first step in the episode
    std::int64_t* segment_start;   // [B]: that of the whole segment
    std::int64_t* segment_length;  // [B]: steps of the whole segment
    std::int64_t* episode;         // [B]
    std::int64_t* task;            // [B]
    std::int64_t* skill;           // [B]
};

// Whole numbers in as few bytes as hold them all.
class CompactIntegers {
  public:
    CompactIntegers() = default;
    explicit CompactIntegers(bool narrow) : narrow_(narrow) {}

    void push_back(std::int64_t value) {
        if (narrow_) {
            narrow_values_.push_back(static_cast<std::uint32_t>(value));
        } else {
            wide_values_.push_back(value);
        }
    }
    void resize(std::int64_t size) {
        if (narrow_) {
            narrow_values_.resize(static_cast<std::size_t>(size));
        } else {
            wide_values_.resize(static_cast<std::size_t>(size));
        }
    }
    void set(std::int64_t index, std::int64_t value) {
        const auto i = static_cast<std::size_t>(index);
        if (narrow_) {
            narrow_values_[i] = static_cast<std::uint32_t>(value);
        } else {
            wide_values_[i] = value;
        }
    }
    std::int64_t operator[](std::int64_t index) const {
        const auto i = static_cast<std::size_t>(index);
        return narrow_ ? std::int64_t{narrow_values_[i]} : wide_values_[i];
    }
    std::int64_t size() const {
        return static_cast<std::int64_t>(narrow_ ? narrow_values_.size() : wide_values_.size());
    }

  private:
    bool narrow_ = true;
    std::vector<std::uint32_t> narrow_values_;
    std::vector<std::int64_t> wide_values_;
};

class VariableSegmentSampler {
  public:
    // Throws StoreFault on a label outside the column's classes.
    VariableSegmentSampler(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
                           const std::optional<std::vector<std::int64_t>>& episodes,
                           VariableSegmentSettings settings);

    const Store& store() const { return *store_; }
    std::int64_t max_length() const { return settings_.max_length; }
    std::int64_t num_segments() const { return starts_.size(); }

    // All of what `fill` fills but observations, actions and mask.
    void locate(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
                const VariableSegmentBatch& batch) const;

    // Samples [first, first + count) of a step's global batch, of which there are `global_batch`.
    void fill(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t count,
              const VariableSegmentBatch& batch) const;

  private:
    // What a sample is copied from; nothing by default.
    struct Source {
        const float* observations = nullptr;
        const float* actions = nullptr;
        std::int64_t length = 0;
    };

    void find_segments(const Selection& selection);
    void index_classes();
    Source place(std::uint64_t step, std::int64_t global_batch, std::int64_t first, std::int64_t i,
                 const VariableSegmentBatch& batch) const;
    Rows observations(const Source& source) const;
    Rows actions(const Source& source) const;
    void gather(const Source& source, const Source& upcoming, const VariableSegmentBatch& batch,
                std::int64_t i) const;

    std::shared_ptr<const Store> store_;
    std::shared_ptr<const LabelColumn> labels_;
    VariableSegmentSettings settings_;
    StepIndex every_step_;               // of the store
    CompactIntegers starts_;             // the first step of each segment in the whole store, ascending
    CompactIntegers by_class_;           // places in `starts_`, ordered by class
    std::vector<std::int64_t> offsets_;  // [num_classes + 1] of each class in `by_class_`
    std::vector<std::size_t> classes_;   // those that are not empty
};

}  // namespace goskill
