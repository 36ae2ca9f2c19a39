// Feeds the reader damaged columns: it must refuse them with StoreFault or read them, and never do anything
// else.
//
// An input is the number of a column (one byte) and the content of its file. Built with clang's
// -fsanitize=fuzzer it is an ordinary libFuzzer target. Otherwise main() below mutates the valid files
// itself, guided by coverage if the code under test was compiled with -fsanitize-coverage=trace-pc.

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "data/fault.hpp"
#include "small_store.hpp"

namespace {

const goskill::SmallStore& small_store() {
    static const goskill::SmallStore store;
    return store;
}

bool read_everything() {
    try {
        const goskill::SegmentSampler segments = segment_sampler(small_store(), goskill::Balance::skill, 1);
        const goskill::ContextSampler contexts = context_sampler(small_store(), 1);
        const goskill::SegmentSampler normalized_segments =
            segment_sampler(small_store(), goskill::Balance::task, 1, true);
        const goskill::ContextSampler normalized_contexts = context_sampler(small_store(), 1, true);
        goskill::SegmentArrays segment_arrays;
        goskill::ContextArrays context_arrays;
        for (std::uint64_t step = 0; step < 4; ++step) {
            segment_arrays.fill(segments, step);
            context_arrays.fill(contexts, step);
            segment_arrays.fill(normalized_segments, step);
            context_arrays.fill(normalized_contexts, step);
        }
        return true;
    } catch (const goskill::StoreFault&) {
        return false;
    } catch (const goskill::InputFault&) {
        return false;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const goskill::SmallStore& small = small_store();
    const auto& [name, content] = small.files[data[0] % small.files.size()];
    small.write(name, std::string(reinterpret_cast<const char*>(data + 1), size - 1));
    read_everything();
    small.write(name, content);
    return 0;
}

#ifndef GOSKILL_LIBFUZZER

namespace {

std::array<std::uint8_t, 1 << 16> covered{};
bool found_new = false;

using Input = std::vector<std::uint8_t>;

Input mutate(Input input, std::mt19937_64& random) {
    const auto position = [&] { return 1 + random() % (input.size() > 1 ? input.size() - 1 : 1); };
    for (std::uint64_t change = 1 + random() % 3; change > 0; --change) {
        if (input.size() < 12) return input;
        switch (random() % 6) {
            case 0:
                input[position()] ^= static_cast<std::uint8_t>(1U << (random() % 8));
                break;
            case 1:
                input.resize(position());
                break;
            case 2:
                input.insert(input.end(), 1 + random() % 64, static_cast<std::uint8_t>(random()));
                break;
            case 3:
                input[position()] = static_cast<std::uint8_t>(random());
                break;
            case 4:
                input[1 + random() % 10] = static_cast<std::uint8_t>(random());
                break;
            default: {
                constexpr std::array<std::uint64_t, 6> edges{0, 1, 63, ~0ULL, 1ULL << 63, (1ULL << 63) - 1};
                const std::uint64_t value = edges[random() % edges.size()];
                const std::size_t at = position();
                for (std::size_t i = 0; i < 8 && at + i < input.size(); ++i) {
                    input[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
                }
            }
        }
    }
    return input;
}

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
    const auto place = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0));
    std::uint8_t& seen = covered[(place ^ (place >> 16)) & 0xFFFF];
    found_new = found_new || seen == 0;
    seen = 1;
}

int main(int count, char** arguments) {
    const long runs = count > 1 ? std::atol(arguments[1]) : 20'000;
    if (!read_everything()) {
        std::puts("the valid store was refused");
        return 1;
    }
    std::vector<Input> corpus;
    for (std::size_t file = 0; file < small_store().files.size(); ++file) {
        const std::string& content = small_store().files[file].second;
        Input input{static_cast<std::uint8_t>(file)};
        input.insert(input.end(), content.begin(), content.end());
        corpus.push_back(std::move(input));
    }
    std::mt19937_64 random(0);
    for (long run = 0; run < runs; ++run) {
        Input input = mutate(corpus[random() % corpus.size()], random);
        found_new = false;
        LLVMFuzzerTestOneInput(input.data(), input.size());
        if (found_new) corpus.push_back(std::move(input));
    }
    std::printf("%ld damaged stores read, %zu inputs kept for their coverage\n", runs, corpus.size());
    return 0;
}

#endif
