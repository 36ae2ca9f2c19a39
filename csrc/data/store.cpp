#include "data/store.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "data/fault.hpp"

namespace goskill {
namespace {

std::int64_t bytes_of_row(const ColumnDescription& description) {
    std::int64_t bytes = element_size(description.descr);
    for (const std::int64_t dimension : description.row_shape) {
        if (dimension < 1 || __builtin_mul_overflow(bytes, dimension, &bytes)) bytes = 0;
    }
    if (bytes < 1) throw StoreFault("column " + description.name + ": impossible type or shape");
    return bytes;
}

}  // namespace

DeclaredColumn::DeclaredColumn(ColumnDescription description)
    : description_(std::move(description)), row_bytes_(bytes_of_row(description_)) {}

Store::Store(std::int64_t observation_dim, std::int64_t action_dim, std::int64_t num_tasks,
             std::vector<ShardDescription> shards, bool in_memory,
             const std::vector<ColumnDescription>& step_columns,
             const std::vector<ColumnDescription>& episode_columns)
    : observation_dim_(observation_dim),
      action_dim_(action_dim),
      num_tasks_(num_tasks),
      shards_(std::move(shards)),
      step_columns_(step_columns.begin(), step_columns.end()),
      episode_columns_(episode_columns.begin(), episode_columns.end()) {
    if (observation_dim < 1 || action_dim < 1) throw StoreFault("the dimensions must be at least 1");
    for (const ShardDescription& shard : shards_) add_shard(shard, in_memory);
}

const DeclaredColumn* Store::find(const std::vector<DeclaredColumn>& columns, const std::string& name) {
    const auto found = std::find_if(columns.begin(), columns.end(), [&](const DeclaredColumn& column) {
        return column.description().name == name;
    });
    return found == columns.end() ? nullptr : &*found;
}

std::vector<const std::byte*> Store::rows_by_episode(const DeclaredColumn& column) const {
    std::vector<const std::byte*> result;
    result.reserve(episodes_.size());
    std::size_t episode = 0;
    for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
        const std::byte* rows = column.shard(shard);
        for (std::int64_t i = 0; i < shards_[shard].episodes; ++i, ++episode) {
            result.push_back(rows);
            rows += episodes_[episode].length * column.row_bytes();
        }
    }
    return result;
}

void Store::add_shard(const ShardDescription& shard, bool in_memory) {
    if (shard.steps < 1 || shard.episodes < 1 || shard.episodes > shard.steps) {
        throw StoreFault(shard.path + ": impossible counts of steps and episodes");
    }
    std::int64_t states = 0;
    if (__builtin_add_overflow(shard.steps, shard.episodes, &states) ||
        __builtin_add_overflow(num_steps_, shard.steps, &states)) {
        throw StoreFault(shard.path + ": impossible counts of steps and episodes");
    }
    states = shard.steps + shard.episodes;
    const auto column = [&](const char* name, const char* descr, std::vector<std::int64_t> shape) {
        columns_.emplace_back(shard.path + "/" + name + ".npy", descr, shape, Access::random);
        if (in_memory) columns_.back().move_to(memory_);
        return &columns_.back() - columns_.data();
    };
    const auto observations = column("observations", "<f4", {states, observation_dim_});
    const auto actions = column("actions", "<f4", {shard.steps, action_dim_});
    const auto rewards = column("rewards", "<f4", {shard.steps});
    const auto returns_to_go = column("returns_to_go", "<f4", {shard.steps});
    const auto success = column("success", "|i1", {shard.steps});
    const auto starts = column("episode_start", "<i8", {shard.episodes});
    const auto lengths = column("episode_length", "<i8", {shard.episodes});
    const auto tasks = column("episode_task", "<i8", {shard.episodes});
    const auto returns = column("episode_return", "<f8", {shard.episodes});
    const auto declared = [&](DeclaredColumn& target, std::int64_t rows) {
        std::vector<std::int64_t> shape{rows};
        const ColumnDescription& description = target.description();
        shape.insert(shape.end(), description.row_shape.begin(), description.row_shape.end());
        const auto index = column(description.name.c_str(), description.descr.c_str(), shape);
        target.add_shard(columns_[static_cast<std::size_t>(index)].as<std::byte>());
    };
    for (DeclaredColumn& target : step_columns_) declared(target, shard.steps);
    for (DeclaredColumn& target : episode_columns_) declared(target, shard.episodes);
    const auto at = [&](auto index) -> const MappedColumn& {
        return columns_[static_cast<std::size_t>(index)];
    };

    std::int64_t step = 0;
    for (std::int64_t i = 0; i < shard.episodes; ++i) {
        const std::string name = shard.path + ": episode " + std::to_string(i);
        const std::int64_t length = at(lengths).as<std::int64_t>()[i];
        const std::int64_t task = at(tasks).as<std::int64_t>()[i];
        const double return_sum = at(returns).as<double>()[i];
        if (at(starts).as<std::int64_t>()[i] != step) {
            throw StoreFault(name + ": expected start step " + std::to_string(step) + ", got " +
                             std::to_string(at(starts).as<std::int64_t>()[i]));
        }
        if (length < 1 || length > shard.steps - step) {
            throw StoreFault(name + ": impossible length " + std::to_string(length));
        }
        if (task < 0 || task >= num_tasks_) {
            throw StoreFault(name + ": task index " + std::to_string(task) + " is not among the " +
                             std::to_string(num_tasks_) + " tasks");
        }
        if (!std::isfinite(return_sum)) throw StoreFault(name + ": the return is not finite");
        episodes_.push_back({at(observations).as<float>() + (step + i) * observation_dim_,
                             at(actions).as<float>() + step * action_dim_,
                             at(returns_to_go).as<float>() + step, num_episodes(), num_steps_ + step, length,
                             task});
        outcomes_.push_back({at(rewards).as<float>() + step, at(success).as<std::int8_t>() + step});
        returns_.push_back(return_sum);
        step += length;
    }
    if (step != shard.steps) {
        throw StoreFault(shard.path + ": the episodes cover " + std::to_string(step) + " of " +
                         std::to_string(shard.steps) + " steps");
    }
    num_steps_ += step;
}

}  // namespace goskill
