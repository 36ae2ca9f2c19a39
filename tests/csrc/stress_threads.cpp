// Samplers used from several threads at once, each with several threads of its own, and in a forked child.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "parallel.hpp"
#include "small_store.hpp"

namespace {

int failures = 0;

void check(bool holds, const char* what) {
    if (holds) return;
    std::printf("failed: %s\n", what);
    ++failures;
}

void sample(const goskill::SegmentSampler& segments, const goskill::ContextSampler& contexts,
            const goskill::ContextSampler& normalized_contexts, const goskill::SegmentArrays& expected) {
    goskill::SegmentArrays segment_arrays;
    goskill::ContextArrays context_arrays;
    for (std::uint64_t step = 0; step < 200; ++step) {
        segment_arrays.fill(segments, step);
        context_arrays.fill(contexts, step);
        context_arrays.fill(normalized_contexts, step);
    }
    segment_arrays.fill(segments, 0);
    if (segment_arrays.observations != expected.observations) throw std::runtime_error("another batch");
}

}  // namespace

int main(int count, char**) {
    const goskill::SmallStore small;
    const goskill::SegmentSampler segments = segment_sampler(small, goskill::Balance::task, 3);
    const goskill::ContextSampler contexts = context_sampler(small, 3);
    const goskill::ContextSampler normalized_contexts = context_sampler(small, 3, true);
    goskill::SegmentArrays expected;
    expected.fill(segment_sampler(small, goskill::Balance::task, 1), 0);

    std::vector<std::thread> users;
    for (int user = 0; user < 4; ++user)
        users.emplace_back([&] { sample(segments, contexts, normalized_contexts, expected); });
    for (std::thread& user : users) user.join();

    bool thrown = false;
    try {
        goskill::parallel_for(8, 4, [](std::int64_t begin, std::int64_t) {
            if (begin == 4) throw std::runtime_error("from a chunk");
        });
    } catch (const std::runtime_error&) {
        thrown = true;
    }
    check(thrown, "an exception of a chunk reaches the caller");

    const std::int64_t labels = 100'000;
    std::vector<std::uint16_t> values;
    for (std::int64_t i = 0; i < labels; ++i) values.push_back(static_cast<std::uint16_t>(i * i % 777));
    std::vector<std::uint32_t> one(values.size()), many(values.size());
    const goskill::LabelView view{values.data(), labels, 2};
    const auto offsets = goskill::build_class_index(view, 777, {{0, labels}}, 1, one.data());
    check(offsets == goskill::build_class_index(view, 777, {{0, labels}}, 5, many.data()) && one == many,
          "the class index does not depend on threads");

    // Not with AddressSanitizer, whose allocator may be locked when a process is forked, nor with
    // ThreadSanitizer, which does not follow threads that start in a forked child.
    if (count == 1) {
        const pid_t child = ::fork();
        if (child == 0) {
            sample(segments, contexts, normalized_contexts, expected);
            ::_exit(0);
        }
        int status = 1;
        ::waitpid(child, &status, 0);
        check(status == 0, "a forked child samples the same");
    }
    std::puts(failures == 0 ? "threads agree" : "threads disagree");
    return failures;
}
