#include "data/step_choice.hpp"

#include <numeric>
#include <utility>

#include "data/fault.hpp"
#include "data/philox.hpp"

namespace goskill {

StepChoice::StepChoice(std::shared_ptr<const Store> store, std::shared_ptr<const LabelColumn> labels,
                       const std::optional<std::vector<std::int64_t>>& episodes, StepSettings settings,
                       std::uint64_t stream)
    : store_(std::move(store)),
      labels_(std::move(labels)),
      settings_(std::move(settings)),
      stream_(stream),
      selection_(*store_, episodes),
      task_choice_(selection_, settings_.task_weights) {
    if (settings_.balance == Balance::skill) index_classes();
    if (!settings_.episode_weights.empty()) {
        std::vector<double> weights;
        for (const std::int64_t index : selection_.episodes()) {
            weights.push_back(settings_.episode_weights[static_cast<std::size_t>(index)]);
        }
        episode_choice_.emplace(weights, "episode_weights", "no episode");
    }
}

void StepChoice::index_classes() {
    const std::int64_t num_classes = labels_->num_classes();
    if (selection_.whole()) {
        order_ = labels_->order();
        offsets_.assign(labels_->offsets(), labels_->offsets() + num_classes + 1);
    } else {
        std::vector<std::int64_t> every(static_cast<std::size_t>(store_->num_episodes()));
        std::iota(every.begin(), every.end(), std::int64_t{0});
        every_step_ = StepIndex(*store_, every);
        std::vector<StepRange> ranges;
        for (const std::int64_t index : selection_.episodes()) {
            const Episode& episode = store_->episode(index);
            ranges.push_back({episode.first_step, episode.first_step + episode.length});
        }
        const auto size = static_cast<std::size_t>(selection_.all().size());
        const bool narrow = narrow_steps(store_->num_steps());
        if (narrow) {
            narrow_order_.resize(size);
            offsets_ = build_class_index(labels_->labels(), num_classes, ranges, settings_.threads,
                                         narrow_order_.data());
            order_ = {narrow_order_.data(), store_->num_steps(), true};
        } else {
            wide_order_.resize(size);
            offsets_ = build_class_index(labels_->labels(), num_classes, ranges, settings_.threads,
                                         wide_order_.data());
            order_ = {wide_order_.data(), store_->num_steps(), false};
        }
    }
    for (std::size_t c = 0; c + 1 < offsets_.size(); ++c) {
        if (offsets_[c] < offsets_[c + 1]) classes_.push_back(c);
    }
}

Draw StepChoice::draw_step(std::uint64_t step, std::int64_t global_batch, std::int64_t sample) const {
    const Words words = draw(settings_.seed, stream_, step, static_cast<std::uint64_t>(sample));
    const std::uint64_t turn =
        step * static_cast<std::uint64_t>(global_batch) + static_cast<std::uint64_t>(sample);
    if (settings_.balance == Balance::skill) {
        const std::size_t c = classes_[static_cast<std::size_t>(turn % classes_.size())];
        return {selection_.whole() ? &selection_.all() : &every_step_,
                offsets_[c] + below(words[0], offsets_[c + 1] - offsets_[c])};
    }
    if (settings_.balance == Balance::episode) return draw_of_episode(words[1], words[0]);
    const std::uint64_t task_turn = turn / static_cast<std::uint64_t>(settings_.samples_per_task);
    const StepIndex& steps = settings_.balance == Balance::transition
                                 ? selection_.all()
                                 : selection_.of_task(task_choice_.pick(task_turn, words[1]));
    return {&steps, below(words[0], steps.size())};
}

Draw StepChoice::draw_of_episode(std::uint64_t episode_word, std::uint64_t step_word) const {
    const auto count = static_cast<std::int64_t>(selection_.episodes().size());
    const auto run = episode_choice_ ? episode_choice_->pick(episode_word)
                                     : static_cast<std::size_t>(below(episode_word, count));
    const StepIndex& steps = selection_.all();
    return {&steps, steps.first_of(run) + below(step_word, steps.length_of(run))};
}

// From positions in class order to steps.
void StepChoice::look_up_classes(std::vector<Draw>& draws) const {
    for (const Draw& drawn : draws) prefetch_line(order_.address(drawn.position));
    for (Draw& drawn : draws) {
        drawn.position = order_[drawn.position];
        if (drawn.position < 0) throw StoreFault("order.npy: a step lies outside the store");
    }
}

// In stages, each of which asks for what the next one reads: sample by sample, one cache miss would wait for
// the other.
std::vector<Place> StepChoice::place(std::uint64_t step, std::int64_t global_batch, std::int64_t first,
                                     std::int64_t count, const PlaceArrays& arrays) const {
    std::vector<Draw> draws;
    draws.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) draws.push_back(draw_step(step, global_batch, first + i));
    if (settings_.balance == Balance::skill) look_up_classes(draws);
    for (const Draw& drawn : draws) drawn.prefetch();
    std::vector<Place> places(draws.size());
    for (std::int64_t i = 0; i < count; ++i) {
        const Place found = draws[static_cast<std::size_t>(i)].find();
        // One by one: see `copy_rows` on structs that are read in wider pieces than they were written in.
        places[static_cast<std::size_t>(i)].episode = found.episode;
        places[static_cast<std::size_t>(i)].step = found.step;
        arrays.episode[i] = found.episode->index;
        arrays.start[i] = found.step;
        arrays.task[i] = found.episode->task;
    }
    return places;
}

}  // namespace goskill
