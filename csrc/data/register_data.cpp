#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "data/class_index.hpp"
#include "data/fault.hpp"
#include "data/row_gather.hpp"
#include "data/store.hpp"
#include "registration.hpp"

namespace py = pybind11;

namespace goskill {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// Read-only, and keeps the store alive.
template <typename T>
py::array view(const py::object& store, const T* data, std::vector<py::ssize_t> shape) {
    py::array_t<T> array(std::move(shape), data, store);
    array.attr("flags").attr("writeable") = false;
    return std::move(array);
}

// What Python calls a column: its name, element type and the shape of a row.
using ColumnTuple = std::tuple<std::string, std::string, std::vector<std::int64_t>>;

std::vector<ColumnDescription> descriptions_of(const std::vector<ColumnTuple>& columns) {
    std::vector<ColumnDescription> result;
    for (const auto& [name, descr, row_shape] : columns) result.push_back({name, descr, row_shape});
    return result;
}

const ShardDescription& checked_shard(const Store& store, std::int64_t shard) {
    if (shard < 0 || shard >= static_cast<std::int64_t>(store.shards().size()))
        throw py::index_error("shard");
    return store.shards()[static_cast<std::size_t>(shard)];
}

py::array rows_of(const py::object& self, const DeclaredColumn& column, std::int64_t shard,
                  py::ssize_t rows) {
    const ColumnDescription& description = column.description();
    std::vector<py::ssize_t> shape{rows};
    shape.insert(shape.end(), description.row_shape.begin(), description.row_shape.end());
    py::array array(py::dtype::from_args(py::str(description.descr)), shape,
                    column.shard(static_cast<std::size_t>(shard)), self);
    array.attr("flags").attr("writeable") = false;
    return array;
}

// The rows that one shard has of a column of steps, declared or not.
py::array shard_rows(const py::object& self, const std::string& name, std::int64_t shard) {
    const Store& store = self.cast<const Store&>();
    const ShardDescription& found = checked_shard(store, shard);
    if (const DeclaredColumn* column = store.step_column(name)) {
        return rows_of(self, *column, shard, found.steps);
    }
    std::int64_t first = 0;
    for (std::int64_t i = 0; i < shard; ++i) first += store.shards()[static_cast<std::size_t>(i)].episodes;
    const Episode& episode = store.episode(first);
    const Outcome& outcome = store.outcome(first);
    if (name == "observations") {
        return view(self, episode.observations, {found.steps + found.episodes, store.observation_dim()});
    }
    if (name == "actions") return view(self, episode.actions, {found.steps, store.action_dim()});
    if (name == "returns_to_go") return view(self, episode.returns_to_go, {found.steps});
    if (name == "rewards") return view(self, outcome.rewards, {found.steps});
    if (name == "success") return view(self, outcome.success, {found.steps});
    throw py::key_error(name);
}

// The entries that one shard has of a declared column of episodes.
py::array shard_entries(const py::object& self, const std::string& name, std::int64_t shard) {
    const Store& store = self.cast<const Store&>();
    const ShardDescription& found = checked_shard(store, shard);
    const DeclaredColumn* column = store.episode_column(name);
    if (column == nullptr) throw py::key_error(name);
    return rows_of(self, *column, shard, found.episodes);
}

py::array per_episode(const Store& store, std::int64_t Episode::* member) {
    Array<std::int64_t> array(store.num_episodes());
    std::int64_t* out = array.mutable_data();
    for (const Episode& episode : store.episodes()) *out++ = episode.*member;
    return std::move(array);
}

const Episode& checked_episode(const Store& store, std::int64_t index) {
    if (index < 0 || index >= store.num_episodes()) {
        throw py::index_error("episode: expected an index in [0, " + std::to_string(store.num_episodes()) +
                              "), got " + std::to_string(index));
    }
    return store.episode(index);
}

template <typename Step>
py::tuple sorted_by_class(const LabelView& labels, std::int64_t num_classes, int threads) {
    Array<Step> order(labels.count);
    std::vector<std::int64_t> offsets;
    Step* data = order.mutable_data();
    {
        const py::gil_scoped_release released;
        offsets = build_class_index(labels, num_classes, {{0, labels.count}}, threads, data);
    }
    return py::make_tuple(order,
                          Array<std::int64_t>(static_cast<py::ssize_t>(offsets.size()), offsets.data()));
}

py::tuple class_index(const py::array& labels, std::int64_t num_classes, int threads) {
    const bool fits = labels.dtype().kind() == 'u' && labels.itemsize() <= 4 && labels.ndim() == 1 &&
                      (labels.flags() & py::array::c_style) != 0;
    if (!fits) throw py::type_error("labels: expected a contiguous array of uint8, uint16 or uint32");
    const LabelView labels_view{labels.data(), labels.size(), static_cast<int>(labels.itemsize())};
    return narrow_steps(labels.size()) ? sorted_by_class<std::uint32_t>(labels_view, num_classes, threads)
                                       : sorted_by_class<std::int64_t>(labels_view, num_classes, threads);
}

void register_store(py::module_& module) {
    py::class_<Store, std::shared_ptr<Store>>(module, "Store",
                                              "The episodes of a store, memory-mapped or in memory.")
        .def(py::init([](std::int64_t observation_dim, std::int64_t action_dim, std::int64_t num_tasks,
                         const std::vector<std::tuple<std::string, std::int64_t, std::int64_t>>& shards,
                         bool in_memory, const std::vector<ColumnTuple>& step_columns,
                         const std::vector<ColumnTuple>& episode_columns) {
                 std::vector<ShardDescription> descriptions;
                 for (const auto& [path, steps, episodes] : shards)
                     descriptions.push_back({path, steps, episodes});
                 const py::gil_scoped_release released;
                 return std::make_shared<Store>(
                     observation_dim, action_dim, num_tasks, std::move(descriptions), in_memory,
                     descriptions_of(step_columns), descriptions_of(episode_columns));
             }),
             py::arg("observation_dim"), py::arg("action_dim"), py::arg("num_tasks"), py::arg("shards"),
             py::arg("in_memory"), py::arg("step_columns"), py::arg("episode_columns"))
        .def_property_readonly("num_steps", &Store::num_steps)
        .def_property_readonly("num_episodes", &Store::num_episodes)
        .def("episode_task", [](const Store& s) { return per_episode(s, &Episode::task); })
        .def("episode_length", [](const Store& s) { return per_episode(s, &Episode::length); })
        .def("episode_start", [](const Store& s) { return per_episode(s, &Episode::first_step); })
        .def("shard_rows", &shard_rows, py::arg("name"), py::arg("shard"),
             "A read-only view of the rows that one shard has of a column of steps.")
        .def("shard_entries", &shard_entries, py::arg("name"), py::arg("shard"),
             "A read-only view of the entries that one shard has of a declared column of episodes.")
        .def("episode_return",
             [](const Store& s) {
                 return Array<double>(static_cast<py::ssize_t>(s.returns().size()), s.returns().data());
             })
        .def(
            "episode",
            [](const py::object& self, std::int64_t index) {
                const Store& store = self.cast<const Store&>();
                const Episode& episode = checked_episode(store, index);
                const Outcome& outcome = store.outcome(index);
                return py::make_tuple(
                    view(self, episode.observations, {episode.length + 1, store.observation_dim()}),
                    view(self, episode.actions, {episode.length, store.action_dim()}),
                    view(self, outcome.rewards, {episode.length}),
                    view(self, episode.returns_to_go, {episode.length}),
                    view(self, outcome.success, {episode.length}));
            },
            py::arg("index"),
            "Read-only views of one episode: observations, actions, rewards, returns-to-go, success.");
}

void register_labels(py::module_& module) {
    py::class_<LabelColumn, std::shared_ptr<LabelColumn>>(
        module, "LabelColumn", "Memory-mapped labels of every step, by class as well.")
        .def(py::init<const std::string&, std::int64_t, std::int64_t, int>(), py::arg("path"),
             py::arg("num_steps"), py::arg("num_classes"), py::arg("width"),
             py::call_guard<py::gil_scoped_release>())
        .def("labels", [](const py::object& self) {
            const LabelView& labels = self.cast<const LabelColumn&>().labels();
            if (labels.width == 1) {
                return view(self, static_cast<const std::uint8_t*>(labels.data), {labels.count});
            }
            if (labels.width == 2) {
                return view(self, static_cast<const std::uint16_t*>(labels.data), {labels.count});
            }
            return view(self, static_cast<const std::uint32_t*>(labels.data), {labels.count});
        });
    module.def("class_index", &class_index, py::arg("labels"), py::arg("num_classes"), py::arg("threads") = 1,
               "The steps ordered by label, and the offsets [num_classes + 1] where each class begins.");
}

// Holds on to the arrays it picks rows from.
struct RowGather {
    explicit RowGather(std::vector<Array<float>> given) : arrays(std::move(given)) {
        for (const Array<float>& array : arrays) {
            if (array.ndim() != 2 || array.shape(1) != arrays.front().shape(1)) {
                throw py::value_error("arrays: expected two dimensions, the second the same in all");
            }
            sources.push_back({array.data(), array.shape(0)});
        }
        width = arrays.empty() ? 0 : arrays.front().shape(1);
    }

    Array<float> gather(const Array<std::int64_t>& place, const Array<std::int64_t>& row) const {
        if (place.size() != row.size()) throw py::value_error("place and row: expected as many of each");
        Array<float> out({row.size(), static_cast<py::ssize_t>(width)});
        float* target = out.mutable_data();
        const py::gil_scoped_release released;
        gather_rows(sources, width, place.data(), row.data(), row.size(), target);
        return out;
    }

    std::vector<Array<float>> arrays;
    std::vector<RowSource> sources;
    std::int64_t width = 0;
};

void register_row_gather(py::module_& module) {
    py::class_<RowGather>(module, "RowGather", "Picks rows from many arrays of one width.")
        .def(py::init<std::vector<Array<float>>>(), py::arg("arrays"))
        .def("gather", &RowGather::gather, py::arg("place"), py::arg("row"),
             "Rows [n, width]: row[i] of array place[i], or zeros where row[i] is -1.");
}

}  // namespace

void register_data(py::module_& module) {
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const StoreFault& fault) {
            py::set_error(py::module_::import("goskill.errors").attr("StoreError"), fault.what());
        } catch (const InputFault& fault) {
            py::set_error(py::module_::import("goskill.errors").attr("InputError"), fault.what());
        }
    });
    register_store(module);
    register_labels(module);
    register_samplers(module);
    register_row_gather(module);
}

}  // namespace goskill
