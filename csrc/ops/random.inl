// Many random bits. Included inside a namespace of one instruction set, after vectors.inl.

// SplitMix64 (Steele, Lea and Flood 2014), which fills the states of other generators.
inline std::uint64_t split_mix(std::uint64_t& state) {
    state += 0x9e3779b97f4a7c15u;
    std::uint64_t bits = state;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

// Words of block `block` by xoshiro128++ (Blackman and Vigna 2021), RANDOM_STREAMS generators side by side.
// Each vector of LANES streams makes its own words, so that numbers are the same by every instruction set.
inline void random_words(std::uint64_t seed, std::int64_t block, std::uint32_t* out, std::int64_t count) {
    std::uint64_t filling = seed ^ (static_cast<std::uint64_t>(block) * 0xd1342543de82ef95u);
    std::uint32_t states[4][RANDOM_STREAMS];
    for (int stream = 0; stream < RANDOM_STREAMS; ++stream) {
        for (int part = 0; part < 4; part += 2) {
            const std::uint64_t bits = split_mix(filling);
            states[part][stream] = static_cast<std::uint32_t>(bits);
            states[part + 1][stream] = static_cast<std::uint32_t>(bits >> 32);
        }
    }
    for (int stream = 0; stream < RANDOM_STREAMS; stream += LANES) {
        Words a, b, c, d;
        __builtin_memcpy(&a, states[0] + stream, sizeof(a));
        __builtin_memcpy(&b, states[1] + stream, sizeof(b));
        __builtin_memcpy(&c, states[2] + stream, sizeof(c));
        __builtin_memcpy(&d, states[3] + stream, sizeof(d));
        for (std::int64_t at = stream; at < count; at += RANDOM_STREAMS) {
            const Words total = a + d, word = ((total << 7) | (total >> 25)) + a, shifted = b << 9;
            c ^= a;
            d ^= b;
            b ^= c;
            a ^= d;
            c ^= shifted;
            d = (d << 11) | (d >> 21);
            const std::int64_t left = count - at;
            __builtin_memcpy(out + at, &word,
                             left >= LANES ? sizeof(word) : static_cast<std::size_t>(left) * 4);
        }
    }
}
