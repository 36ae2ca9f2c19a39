// The episodes of a store, as pointers into its columns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/npy.hpp"

namespace goskill {

struct ShardDescription {
    std::string path;
    std::int64_t steps;
    std::int64_t episodes;
};

// What samplers read of an episode.
struct Episode {
    const float* observations;   // [length + 1, observation_dim]
    const float* actions;        // [length, action_dim]
    const float* returns_to_go;  // [length]
    std::int64_t index;          // in the whole store, as the first step
    std::int64_t first_step;
    std::int64_t length;
    std::int64_t task;
};

// The columns that they do not read.
struct Outcome {
    const float* rewards;        // [length]
    const std::int8_t* success;  // [length]: 1 yes, 0 no, -1 unknown
};

// Immutable once built, so any number of threads may read it.
class Store {
  public:
    // Columns are mapped, or, `in_memory`, copied.
    Store(std::int64_t observation_dim, std::int64_t action_dim, std::int64_t num_tasks,
          const std::vector<ShardDescription>& shards, bool in_memory);

    std::int64_t observation_dim() const { return observation_dim_; }
    std::int64_t action_dim() const { return action_dim_; }
    std::int64_t num_tasks() const { return num_tasks_; }
    std::int64_t num_steps() const { return num_steps_; }
    std::int64_t num_episodes() const { return static_cast<std::int64_t>(episodes_.size()); }
    // The undiscounted return of each episode.
    const std::vector<double>& returns() const { return returns_; }
    const std::vector<Episode>& episodes() const { return episodes_; }
    const Episode& episode(std::int64_t index) const { return episodes_[static_cast<std::size_t>(index)]; }
    const Outcome& outcome(std::int64_t index) const { return outcomes_[static_cast<std::size_t>(index)]; }

  private:
    void add_shard(const ShardDescription& shard, bool in_memory);

    std::int64_t observation_dim_;
    std::int64_t action_dim_;
    std::int64_t num_tasks_;
    std::int64_t num_steps_ = 0;
    std::vector<Episode> episodes_;
    std::vector<Outcome> outcomes_;
    std::vector<double> returns_;
    Arena memory_;
    std::vector<MappedColumn> columns_;
};

}  // namespace goskill
