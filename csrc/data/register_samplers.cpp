// The samplers, to Python: batches are dictionaries of arrays that Python owns and the samplers fill.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "data/class_index.hpp"
#include "data/context_sampler.hpp"
#include "data/fault.hpp"
#include "data/philox.hpp"
#include "data/segment_sampler.hpp"
#include "data/store.hpp"
#include "data/transition_sampler.hpp"
#include "data/variable_segment_sampler.hpp"
#include "registration.hpp"

namespace py = pybind11;

namespace goskill {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// A writable array of exactly this type and shape, or an error that names it.
template <typename T>
T* output(const py::dict& batch, const std::string& name, const std::vector<std::int64_t>& shape) {
    if (!batch.contains(name)) throw py::key_error(name);
    const py::object value = batch[name.c_str()];
    if (!Array<T>::check_(value)) throw py::type_error(name + ": not a C-contiguous array of the right type");
    auto array = py::reinterpret_borrow<Array<T>>(value);
    bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (std::size_t i = 0; fits && i < shape.size(); ++i) {
        fits = array.shape(static_cast<py::ssize_t>(i)) == shape[i];
    }
    if (!fits) throw py::value_error(name + ": wrong shape");
    return array.mutable_data();
}

std::optional<Normalization> normalization(const Store& store, const std::optional<std::vector<float>>& mean,
                                           const std::optional<std::vector<float>>& std) {
    if (!mean || !std) return std::nullopt;
    const auto width = static_cast<std::size_t>(store.observation_dim());
    if (mean->size() != width || std->size() != width) {
        throw InputFault("normalize: expected " + std::to_string(width) + " dimensions, got " +
                         std::to_string(mean->size()));
    }
    return Normalization{*mean, *std};
}

Balance balance_named(const std::string& name) {
    if (name == "transition") return Balance::transition;
    if (name == "episode") return Balance::episode;
    return name == "skill" ? Balance::skill : Balance::task;
}

void check_weights(const Store& store, const std::vector<double>& weights) {
    if (!weights.empty() && static_cast<std::int64_t>(weights.size()) != store.num_tasks()) {
        throw InputFault("task_weights: expected one per task");
    }
}

// How steps are chosen, in the order in which the samplers' constructors take it.
StepSettings step_settings(const Store& store, const std::string& balance, std::vector<double> task_weights,
                           std::vector<double> episode_weights, std::int64_t samples_per_task,
                           std::uint64_t seed, int threads) {
    check_weights(store, task_weights);
    if (!episode_weights.empty() &&
        static_cast<std::int64_t>(episode_weights.size()) != store.num_episodes()) {
        throw InputFault("episode_weights: expected one per episode");
    }
    if (samples_per_task < 1) throw InputFault("samples_per_task: expected at least 1");
    return {balance_named(balance),
            std::move(task_weights),
            std::move(episode_weights),
            samples_per_task,
            seed,
            threads};
}

void fill_segments(const SegmentSampler& sampler, std::uint64_t step, std::int64_t global_batch,
                   std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    const std::int64_t horizon = sampler.horizon();
    const Store& store = sampler.store();
    const SegmentBatch target{
        output<float>(batch, "observations", {count, horizon + 1, store.observation_dim()}),
        output<float>(batch, "actions", {count, horizon, store.action_dim()}),
        output<bool>(batch, "mask", {count, horizon}),
        output<std::int64_t>(batch, "start", {count}),
        output<std::int64_t>(batch, "episode", {count}),
        output<std::int64_t>(batch, "task", {count}),
        sampler.has_labels() ? output<std::int64_t>(batch, "skill", {count}) : nullptr};
    const py::gil_scoped_release released;
    sampler.fill(step, global_batch, first, count, target);
}

void locate_segments(const SegmentSampler& sampler, std::uint64_t step, std::int64_t global_batch,
                     std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    SegmentBatch target{};
    target.start = output<std::int64_t>(batch, "start", {count});
    target.episode = output<std::int64_t>(batch, "episode", {count});
    target.task = output<std::int64_t>(batch, "task", {count});
    const py::gil_scoped_release released;
    sampler.locate(step, global_batch, first, count, target);
}

// Where a column of any type goes: an array of as many bytes.
std::byte* bytes_output(const py::dict& batch, const std::string& name, std::int64_t bytes) {
    if (!batch.contains(name)) throw py::key_error(name);
    const auto array = py::cast<py::array>(batch[name.c_str()]);
    const bool dense = (array.flags() & py::array::c_style) != 0 && array.writeable();
    if (!dense || array.nbytes() != bytes) throw py::value_error(name + ": not a dense array of its rows");
    return static_cast<std::byte*>(const_cast<void*>(array.data()));
}

TransitionBatch transition_places(const py::dict& batch, std::int64_t count) {
    TransitionBatch target{};
    target.start = output<std::int64_t>(batch, "start", {count});
    target.episode = output<std::int64_t>(batch, "episode", {count});
    target.task = output<std::int64_t>(batch, "task", {count});
    return target;
}

void fill_transitions(const TransitionSampler& sampler, std::uint64_t step, std::int64_t global_batch,
                      std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    const Store& store = sampler.store();
    TransitionBatch target = transition_places(batch, count);
    target.observations = output<float>(batch, "observations", {count, store.observation_dim()});
    target.actions = output<float>(batch, "actions", {count, store.action_dim()});
    target.rewards = output<float>(batch, "rewards", {count});
    target.next_observations = output<float>(batch, "next_observations", {count, store.observation_dim()});
    target.terminated = output<bool>(batch, "terminated", {count});
    target.discount = output<float>(batch, "discount", {count});
    if (sampler.has_labels()) target.skill = output<std::int64_t>(batch, "skill", {count});
    for (const std::string& name : sampler.settings().columns) {
        const std::int64_t row_bytes = store.step_column(name)->row_bytes();
        target.columns.push_back(bytes_output(batch, name, count * row_bytes));
    }
    if (const std::int64_t steps = sampler.settings().before + sampler.settings().after; steps > 0) {
        target.window_observations =
            output<float>(batch, "window_observations", {count, steps + 1, store.observation_dim()});
        target.window_actions = output<float>(batch, "window_actions", {count, steps, store.action_dim()});
        target.window_rewards = output<float>(batch, "window_rewards", {count, steps});
        target.window_mask = output<bool>(batch, "window_mask", {count, steps});
    }
    const py::gil_scoped_release released;
    sampler.fill(step, global_batch, first, count, target);
}

void locate_transitions(const TransitionSampler& sampler, std::uint64_t step, std::int64_t global_batch,
                        std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    const TransitionBatch target = transition_places(batch, count);
    const py::gil_scoped_release released;
    sampler.locate(step, global_batch, first, count, target);
}

Window window(const ContextSampler& sampler, const py::dict& batch, const std::string& prefix,
              std::int64_t count, std::int64_t points) {
    const Store& store = sampler.store();
    return {output<float>(batch, prefix + "observations", {count, points, store.observation_dim()}),
            batch.contains(prefix + "actions")
                ? output<float>(batch, prefix + "actions", {count, points, store.action_dim()})
                : nullptr,
            output<float>(batch, prefix + "returns_to_go", {count, points, 1}),
            output<std::int64_t>(batch, prefix + "timesteps", {count, points}),
            sampler.has_labels() ? output<std::int64_t>(batch, prefix + "skills", {count, points}) : nullptr,
            output<bool>(batch, prefix + "mask", {count, points})};
}

ContextBatch places(const ContextSampler& sampler, const py::dict& batch, std::int64_t count) {
    ContextBatch target{};
    target.start = output<std::int64_t>(batch, "start", {count});
    target.episode = output<std::int64_t>(batch, "episode", {count});
    target.task = output<std::int64_t>(batch, "task", {count});
    if (sampler.settings().prompt > 0) {
        target.prompt_episode = output<std::int64_t>(batch, "prompt_episode", {count});
    }
    return target;
}

void locate_contexts(const ContextSampler& sampler, std::uint64_t step, std::int64_t global_batch,
                     std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    const ContextBatch target = places(sampler, batch, count);
    const py::gil_scoped_release released;
    sampler.locate(step, global_batch, first, count, target);
}

void fill_contexts(const ContextSampler& sampler, std::uint64_t step, std::int64_t global_batch,
                   std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    ContextBatch target = places(sampler, batch, count);
    const std::int64_t prompt = sampler.settings().prompt;
    target.context = window(sampler, batch, "", count, sampler.settings().context);
    if (prompt > 0) target.prompt = window(sampler, batch, "prompt_", count, prompt);
    const py::gil_scoped_release released;
    sampler.fill(step, global_batch, first, count, target);
}

VariableSegmentBatch variable_segment_places(const py::dict& batch, std::int64_t count) {
    VariableSegmentBatch target{};
    target.length = output<std::int64_t>(batch, "length", {count});
    target.start = output<std::int64_t>(batch, "start", {count});
    target.segment_start = output<std::int64_t>(batch, "segment_start", {count});
    target.segment_length = output<std::int64_t>(batch, "segment_length", {count});
    target.episode = output<std::int64_t>(batch, "episode", {count});
    target.task = output<std::int64_t>(batch, "task", {count});
    target.skill = output<std::int64_t>(batch, "skill", {count});
    return target;
}

void locate_variable_segments(const VariableSegmentSampler& sampler, std::uint64_t step,
                              std::int64_t global_batch, std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    const VariableSegmentBatch target = variable_segment_places(batch, count);
    const py::gil_scoped_release released;
    sampler.locate(step, global_batch, first, count, target);
}

void fill_variable_segments(const VariableSegmentSampler& sampler, std::uint64_t step,
                            std::int64_t global_batch, std::int64_t first, const py::dict& batch) {
    const std::int64_t count = py::cast<py::array>(batch["start"]).size();
    const std::int64_t most = sampler.max_length();
    VariableSegmentBatch target = variable_segment_places(batch, count);
    target.observations =
        output<float>(batch, "observations", {count, most + 1, sampler.store().observation_dim()});
    target.actions = output<float>(batch, "actions", {count, most, sampler.store().action_dim()});
    target.mask = output<bool>(batch, "mask", {count, most});
    const py::gil_scoped_release released;
    sampler.fill(step, global_batch, first, count, target);
}

constexpr std::uint64_t replay_stream = 5;

// For each size [rings] `count` numbers below it, of samples `first`, `first + 1`, ... of a step.
Array<std::int64_t> draw_below(std::uint64_t seed, std::uint64_t step, std::uint64_t first,
                               const Array<std::int64_t>& sizes, std::int64_t count) {
    const py::ssize_t rings = sizes.size();
    Array<std::int64_t> drawn({rings, static_cast<py::ssize_t>(count)});
    std::int64_t* out = drawn.mutable_data();
    const std::int64_t* const size = sizes.data();
    const py::gil_scoped_release released;
    for (py::ssize_t ring = 0; ring < rings; ++ring) {
        for (std::int64_t i = 0; i < count; ++i)
            *out++ = below(draw(seed, replay_stream, step, first++)[0], size[ring]);
    }
    return drawn;
}

}  // namespace

void register_samplers(py::module_& module) {
    py::class_<SegmentSampler>(module, "SegmentSampler", "Fills batches of windows.")
        .def(py::init([](std::shared_ptr<Store> store, std::shared_ptr<LabelColumn> labels,
                         std::int64_t horizon, const std::string& balance,
                         const std::optional<std::vector<std::int64_t>>& episodes,
                         std::vector<double> task_weights, std::vector<double> episode_weights,
                         std::int64_t samples_per_task, const std::optional<std::vector<float>>& mean,
                         const std::optional<std::vector<float>>& std, std::uint64_t seed, int threads) {
                 SegmentSettings settings{
                     horizon, normalization(*store, mean, std),
                     step_settings(*store, balance, std::move(task_weights), std::move(episode_weights),
                                   samples_per_task, seed, threads)};
                 const py::gil_scoped_release released;
                 return std::make_unique<SegmentSampler>(std::move(store), std::move(labels), episodes,
                                                         std::move(settings));
             }),
             py::arg("store"), py::arg("labels").none(true), py::arg("horizon"), py::arg("balance"),
             py::arg("episodes"), py::arg("task_weights"), py::arg("episode_weights"),
             py::arg("samples_per_task"), py::arg("mean"), py::arg("std"), py::arg("seed"),
             py::arg("threads"))
        .def("fill", &fill_segments, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills the arrays of a batch with samples first, first + 1, ... of a step.")
        .def("locate", &locate_segments, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills only the arrays that say where the samples come from.");
    py::class_<TransitionSampler>(module, "TransitionSampler", "Fills batches of transitions.")
        .def(py::init([](std::shared_ptr<Store> store, std::shared_ptr<LabelColumn> labels,
                         std::int64_t interval, double gamma, bool discounted_rewards,
                         const std::optional<std::string>& terminated,
                         const std::vector<std::string>& columns, std::int64_t before, std::int64_t after,
                         const std::string& balance, const std::optional<std::vector<std::int64_t>>& episodes,
                         std::vector<double> task_weights, std::vector<double> episode_weights,
                         std::int64_t samples_per_task, const std::optional<std::vector<float>>& mean,
                         const std::optional<std::vector<float>>& std, std::uint64_t seed, int threads) {
                 TransitionSettings settings{
                     interval,
                     gamma,
                     discounted_rewards,
                     terminated,
                     columns,
                     before,
                     after,
                     normalization(*store, mean, std),
                     step_settings(*store, balance, std::move(task_weights), std::move(episode_weights),
                                   samples_per_task, seed, threads)};
                 const py::gil_scoped_release released;
                 return std::make_unique<TransitionSampler>(std::move(store), std::move(labels), episodes,
                                                            std::move(settings));
             }),
             py::arg("store"), py::arg("labels").none(true), py::arg("interval"), py::arg("gamma"),
             py::arg("discounted_rewards"), py::arg("terminated"), py::arg("columns"), py::arg("before"),
             py::arg("after"), py::arg("balance"), py::arg("episodes"), py::arg("task_weights"),
             py::arg("episode_weights"), py::arg("samples_per_task"), py::arg("mean"), py::arg("std"),
             py::arg("seed"), py::arg("threads"))
        .def("fill", &fill_transitions, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills the arrays of a batch with samples first, first + 1, ... of a step.")
        .def("locate", &locate_transitions, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills only the arrays that say where the samples come from.");
    py::class_<ContextSampler>(module, "ContextSampler", "Fills batches of decision points.")
        .def(py::init([](std::shared_ptr<Store> store, std::shared_ptr<LabelColumn> labels,
                         std::int64_t horizon, std::int64_t context, std::int64_t prompt, float return_scale,
                         const std::optional<std::vector<std::int64_t>>& episodes,
                         std::vector<std::vector<std::int64_t>> prompt_episodes,
                         std::vector<double> task_weights, const std::optional<std::vector<float>>& mean,
                         const std::optional<std::vector<float>>& std, std::uint64_t seed, int threads) {
                 check_weights(*store, task_weights);
                 ContextSettings settings{horizon,
                                          context,
                                          prompt,
                                          return_scale,
                                          std::move(task_weights),
                                          normalization(*store, mean, std),
                                          seed,
                                          threads};
                 const py::gil_scoped_release released;
                 return std::make_unique<ContextSampler>(std::move(store), std::move(labels), episodes,
                                                         std::move(prompt_episodes), std::move(settings));
             }),
             py::arg("store"), py::arg("labels").none(true), py::arg("horizon"), py::arg("context"),
             py::arg("prompt"), py::arg("return_scale"), py::arg("episodes"), py::arg("prompt_episodes"),
             py::arg("task_weights"), py::arg("mean"), py::arg("std"), py::arg("seed"), py::arg("threads"))
        .def("fill", &fill_contexts, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills the arrays of a batch with samples first, first + 1, ... of a step.")
        .def("locate", &locate_contexts, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills only the arrays that say where the samples come from.");
    py::class_<VariableSegmentSampler>(module, "VariableSegmentSampler",
                                       "Fills batches of segments of variable length.")
        .def(py::init([](std::shared_ptr<Store> store, std::shared_ptr<LabelColumn> labels,
                         std::int64_t max_length, bool by_class,
                         const std::optional<std::vector<std::int64_t>>& episodes,
                         const std::optional<std::vector<float>>& mean,
                         const std::optional<std::vector<float>>& std, std::uint64_t seed, int threads) {
                 VariableSegmentSettings settings{max_length, by_class, normalization(*store, mean, std),
                                                  seed, threads};
                 const py::gil_scoped_release released;
                 return std::make_unique<VariableSegmentSampler>(std::move(store), std::move(labels),
                                                                 episodes, std::move(settings));
             }),
             py::arg("store"), py::arg("labels").none(false), py::arg("max_length"), py::arg("by_class"),
             py::arg("episodes"), py::arg("mean"), py::arg("std"), py::arg("seed"), py::arg("threads"))
        .def_property_readonly("num_segments", &VariableSegmentSampler::num_segments)
        .def("fill", &fill_variable_segments, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills the arrays of a batch with samples first, first + 1, ... of a step.")
        .def("locate", &locate_variable_segments, py::arg("step"), py::arg("global_batch"), py::arg("first"),
             py::arg("batch"), "Fills only the arrays that say where the samples come from.");
    module.def("draw_below", &draw_below, py::arg("seed"), py::arg("step"), py::arg("first"),
               py::arg("sizes"), py::arg("count"),
               "Numbers [rings, count] below each size, of samples first, first + 1, ... of a step.");
}

}  // namespace goskill
