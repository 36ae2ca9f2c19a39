// Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), counted as NumPy counts
// it.
#pragma once

#include <array>
#include <cstdint>

namespace goskill {

__extension__ using Wide = unsigned __int128;
using Words = std::array<std::uint64_t, 4>;

inline Words philox4x64(Words counter, std::uint64_t key0, std::uint64_t key1) {
    for (int round = 0; round < 10; ++round) {
        const Wide low = static_cast<Wide>(0xD2E7470EE14C6C93ULL) * counter[0];
        const Wide high = static_cast<Wide>(0xCA5A826395121157ULL) * counter[2];
        counter = {
            static_cast<std::uint64_t>(high >> 64) ^ counter[1] ^ key0, static_cast<std::uint64_t>(high),
            static_cast<std::uint64_t>(low >> 64) ^ counter[3] ^ key1, static_cast<std::uint64_t>(low)};
        key0 += 0x9E3779B97F4A7C15ULL;
        key1 += 0xBB67AE8584CAA73BULL;
    }
    return counter;
}

// The four words of one sample: numpy.random.Philox(key=[seed, stream], counter=[0, sample, step,
// 0]).random_raw(4).
inline Words draw(std::uint64_t seed, std::uint64_t stream, std::uint64_t step, std::uint64_t sample) {
    return philox4x64({1, sample, step, 0}, seed, stream);
}

// Uniform in [0, count). The bias, at most count / 2^64, is beyond measurement.
inline std::int64_t below(std::uint64_t word, std::int64_t count) {
    return static_cast<std::int64_t>((static_cast<Wide>(word) * static_cast<std::uint64_t>(count)) >> 64);
}

// Uniform in [0, 1), as numpy.random.Generator.random makes it.
inline double unit(std::uint64_t word) { return static_cast<double>(word >> 11) * 0x1.0p-53; }

}  // namespace goskill
