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

// A column that the store declares beside those that every store has.
struct ColumnDescription {
    std::string name;
    std::string descr;                    // the element type, as NumPy writes it
    std::vector<std::int64_t> row_shape;  // of one step's or one episode's entry
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

// What only some of them read.
struct Outcome {
    const float* rewards;        // [length]
    const std::int8_t* success;  // [length]: 1 yes, 0 no, -1 unknown
};

// A declared column: rows of bytes, shard by shard.
class DeclaredColumn {
  public:
    // Throws StoreFault for an impossible type or shape.
    explicit DeclaredColumn(ColumnDescription description);

    const ColumnDescription& description() const { return description_; }
    std::int64_t row_bytes() const { return row_bytes_; }
    // Whether its bytes are truth values.
    bool truth() const { return description_.descr == "|b1"; }
    const std::byte* shard(std::size_t index) const { return shards_[index]; }
    void add_shard(const std::byte* rows) { shards_.push_back(rows); }

  private:
    ColumnDescription description_;
    std::int64_t row_bytes_;
    std::vector<const std::byte*> shards_;
};

// Immutable once built, so any number of threads may read it.
class Store {
  public:
    // Columns are mapped, or, `in_memory`, copied.
    Store(std::int64_t observation_dim, std::int64_t action_dim, std::int64_t num_tasks,
          std::vector<ShardDescription> shards, bool in_memory,
          const std::vector<ColumnDescription>& step_columns = {},
          const std::vector<ColumnDescription>& episode_columns = {});

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
    const std::vector<ShardDescription>& shards() const { return shards_; }
    // The declared columns by name, null for one that is not declared.
    const DeclaredColumn* step_column(const std::string& name) const { return find(step_columns_, name); }
    const DeclaredColumn* episode_column(const std::string& name) const {
        return find(episode_columns_, name);
    }
    // Where each episode's rows of a step column begin: [num_episodes].
    std::vector<const std::byte*> rows_by_episode(const DeclaredColumn& column) const;

  private:
    static const DeclaredColumn* find(const std::vector<DeclaredColumn>& columns, const std::string& name);
    void add_shard(const ShardDescription& shard, bool in_memory);

    std::int64_t observation_dim_;
    std::int64_t action_dim_;
    std::int64_t num_tasks_;
    std::int64_t num_steps_ = 0;
    std::vector<Episode> episodes_;
    std::vector<Outcome> outcomes_;
    std::vector<double> returns_;
    std::vector<ShardDescription> shards_;
    std::vector<DeclaredColumn> step_columns_;
    std::vector<DeclaredColumn> episode_columns_;
    Arena memory_;
    std::vector<MappedColumn> columns_;
};

}  // namespace goskill
