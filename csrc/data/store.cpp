#include "data/store.hpp"

#include <cmath>
#include <utility>

#include "data/fault.hpp"

namespace goskill {

Store::Store(std::int64_t observation_dim, std::int64_t action_dim, std::int64_t num_tasks,
             const std::vector<ShardDescription>& shards, bool in_memory)
    : observation_dim_(observation_dim), action_dim_(action_dim), num_tasks_(num_tasks) {
    if (observation_dim < 1 || action_dim < 1) throw StoreFault("the dimensions must be at least 1");
    for (const ShardDescription& shard : shards) add_shard(shard, in_memory);
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
