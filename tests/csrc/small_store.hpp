// A small valid store on disk with a label column, and what a reader does with it. For the native tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/class_index.hpp"
#include "data/context_sampler.hpp"
#include "data/segment_sampler.hpp"
#include "data/store.hpp"

namespace goskill {

// Rows as wide as a block of 16 values and one more, and narrower ones.
constexpr std::int64_t observation_dim = 17, action_dim = 2, num_classes = 4;

inline std::string column_bytes(const std::string& descr, const std::string& shape, const void* data,
                                std::size_t size) {
    std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
    header.resize(117, ' ');
    header += '\n';
    std::string bytes("\x93NUMPY\x01\x00\x76\x00", 10);
    return bytes + header + std::string(static_cast<const char*>(data), size);
}

template <typename T>
std::string column(const std::string& descr, const std::string& shape, const std::vector<T>& values) {
    return column_bytes(descr, shape, values.data(), values.size() * sizeof(T));
}

struct SmallStore {
    std::vector<std::int64_t> lengths{5, 1, 17, 9, 2, 30};
    std::int64_t steps = 64;
    std::string folder;
    std::vector<std::pair<std::string, std::string>> files;  // name, content

    SmallStore() {
        std::string pattern = (std::filesystem::temp_directory_path() / "goskill-XXXXXX").string();
        folder = ::mkdtemp(pattern.data());
        const auto episodes = static_cast<std::int64_t>(lengths.size());
        std::vector<float> observations, actions;
        for (std::int64_t i = 0; i < (steps + episodes) * observation_dim; ++i)
            observations.push_back(static_cast<float>(i));
        for (std::int64_t i = 0; i < steps * action_dim; ++i) actions.push_back(static_cast<float>(-i));
        std::vector<std::int64_t> starts, tasks;
        std::int64_t step = 0;
        for (const std::int64_t length : lengths) {
            tasks.push_back(static_cast<std::int64_t>(starts.size()) % 2);
            starts.push_back(step);
            step += length;
        }
        std::vector<std::uint8_t> labels;
        for (std::int64_t i = 0; i < steps; ++i) labels.push_back(static_cast<std::uint8_t>(i % num_classes));
        std::vector<std::uint32_t> order(static_cast<std::size_t>(steps));
        const auto offsets =
            build_class_index(LabelView{labels.data(), steps, 1}, num_classes, {{0, steps}}, 1, order.data());
        const std::string all = "(64,)", few = "(6,)";
        files = {{"observations", column("<f4", "(70, 17)", observations)},
                 {"actions", column("<f4", "(64, 2)", actions)},
                 {"rewards", column("<f4", all, std::vector<float>(64))},
                 {"returns_to_go", column("<f4", all, std::vector<float>(64))},
                 {"success", column("|i1", all, std::vector<std::int8_t>(64))},
                 {"episode_start", column("<i8", few, starts)},
                 {"episode_length", column("<i8", few, lengths)},
                 {"episode_task", column("<i8", few, tasks)},
                 {"episode_return", column("<f8", few, std::vector<double>(6))},
                 {"labels", column("|u1", all, labels)},
                 {"order", column("<u4", all, order)},
                 {"offsets", column("<i8", "(5,)", offsets)}};
        for (const auto& [name, content] : files) write(name, content);
    }
    SmallStore(const SmallStore&) = delete;
    SmallStore& operator=(const SmallStore&) = delete;
    ~SmallStore() { std::filesystem::remove_all(folder); }

    void write(const std::string& name, const std::string& content) const {
        std::ofstream(folder + "/" + name + ".npy", std::ios::binary | std::ios::trunc) << content;
    }

    std::shared_ptr<const Store> open(bool in_memory) const {
        const std::vector<ShardDescription> shards{
            {folder, steps, static_cast<std::int64_t>(lengths.size())}};
        return std::make_shared<Store>(observation_dim, action_dim, 2, shards, in_memory);
    }
    std::shared_ptr<const LabelColumn> open_labels() const {
        return std::make_shared<LabelColumn>(folder, steps, num_classes, 1);
    }
};

struct SegmentArrays {
    static constexpr std::int64_t batch = 24, horizon = 4;
    std::vector<float> observations = std::vector<float>(batch * (horizon + 1) * observation_dim);
    std::vector<float> actions = std::vector<float>(batch * horizon * action_dim);
    std::unique_ptr<bool[]> mask = std::make_unique<bool[]>(batch * horizon);
    std::vector<std::int64_t> places = std::vector<std::int64_t>(4 * batch);

    void fill(const SegmentSampler& sampler, std::uint64_t step) {
        std::int64_t* place = places.data();
        sampler.fill(step, batch, 0, batch,
                     {observations.data(), actions.data(), mask.get(), place, place + batch,
                      place + 2 * batch, sampler.has_labels() ? place + 3 * batch : nullptr});
    }
};

struct ContextArrays {
    static constexpr std::int64_t batch = 24, context = 3, prompt = 2;
    std::vector<float> observations = std::vector<float>(batch * (context + prompt) * observation_dim);
    std::vector<float> actions = std::vector<float>(batch * (context + prompt) * action_dim);
    std::vector<float> returns = std::vector<float>(batch * (context + prompt));
    std::vector<std::int64_t> timesteps = std::vector<std::int64_t>(batch * (context + prompt));
    std::vector<std::int64_t> skills = std::vector<std::int64_t>(batch * (context + prompt));
    std::unique_ptr<bool[]> mask = std::make_unique<bool[]>(batch * (context + prompt));
    std::vector<std::int64_t> places = std::vector<std::int64_t>(4 * batch);

    void fill(const ContextSampler& sampler, std::uint64_t step) {
        const std::int64_t split = batch * context;
        const Window first{observations.data(), actions.data(), returns.data(),
                           timesteps.data(),    skills.data(),  mask.get()};
        const Window second{observations.data() + split * observation_dim,
                            actions.data() + split * action_dim,
                            returns.data() + split,
                            timesteps.data() + split,
                            skills.data() + split,
                            mask.get() + split};
        std::int64_t* place = places.data();
        sampler.fill(step, batch, 0, batch,
                     {first, second, place, place + batch, place + 2 * batch, place + 3 * batch});
    }
};

inline std::optional<Normalization> normalization(bool wanted) {
    if (!wanted) return std::nullopt;
    return Normalization{std::vector<float>(observation_dim, 3.0F),
                         std::vector<float>(observation_dim, 2.0F)};
}

inline SegmentSampler segment_sampler(const SmallStore& small, Balance balance, int threads,
                                      bool normalized = false) {
    SegmentSettings settings;
    settings.normalization = normalization(normalized);
    settings.horizon = SegmentArrays::horizon;
    settings.steps.balance = balance;
    settings.steps.threads = threads;
    return SegmentSampler(small.open(false), small.open_labels(), std::nullopt, settings);
}

inline ContextSampler context_sampler(const SmallStore& small, int threads, bool normalized = false) {
    ContextSettings settings;
    settings.normalization = normalization(normalized);
    settings.horizon = 4;
    settings.context = ContextArrays::context;
    settings.prompt = ContextArrays::prompt;
    settings.threads = threads;
    return ContextSampler(small.open(true), small.open_labels(), std::nullopt, {{0, 2}, {1, 3}}, settings);
}

}  // namespace goskill
