// The AMX instructions in C++, as Intel's manual describes them, for tests on processors without AMX. Where the
// processor would raise an exception, these end the process.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "simd.h"

namespace NATIVE_ISA {
namespace emulated {

struct Tile {
    uint8_t rows[16][64];
};

// The state of one thread.
struct State {
    uint8_t config[64];
    Tile tiles[8];
};
static thread_local State state;

[[noreturn]] inline void fault(const char* what) {
    std::fprintf(stderr, "a tile instruction faults: %s\n", what);
    std::abort();
}
inline void check(bool allowed, const char* what) {
    if (!allowed) fault(what);
}

inline int rows(int t) { return state.config[48 + t]; }
inline int bytes(int t) { return state.config[16 + 2 * t] + 256 * state.config[17 + 2 * t]; }

inline Tile& tile(int t) {
    check(state.config[0] == 1, "tiles are not configured");
    check(rows(t) && bytes(t), "this tile is not configured");
    return state.tiles[t];
}

inline void load_config(const void* from) {
    std::memset(&state, 0, sizeof state);
    std::memcpy(state.config, from, sizeof state.config);
    check(state.config[0] == 1, "palette");
    for (int i = 1; i < 64; i++)
        if (i < 16 || (i >= 32 && i < 48) || i >= 56) check(!state.config[i], "reserved bytes");
    for (int t = 0; t < 8; t++) {
        check(rows(t) <= 16 && bytes(t) <= 64, "a tile is too large");
        check(!rows(t) == !bytes(t), "rows without columns");
    }
}

inline void release() { std::memset(&state, 0, sizeof state); }

inline void load(int t, const void* base, int64_t stride) {
    Tile& to = tile(t);
    std::memset(&to, 0, sizeof to);
    for (int m = 0; m < rows(t); m++) std::memcpy(to.rows[m], static_cast<const char*>(base) + m * stride, bytes(t));
}

inline void store(int t, void* base, int64_t stride) {
    const Tile& from = tile(t);
    for (int m = 0; m < rows(t); m++) std::memcpy(static_cast<char*>(base) + m * stride, from.rows[m], bytes(t));
}

inline void clear(int t) { std::memset(&tile(t), 0, sizeof(Tile)); }

inline void check_shapes(int sum, int a, int b) {
    tile(sum), tile(a), tile(b);
    check(sum != a && a != b && b != sum, "one tile stands twice in a product");
    check(bytes(sum) % 4 == 0 && bytes(a) % 4 == 0 && bytes(b) % 4 == 0, "a row is not of whole values");
    check(rows(sum) == rows(a) && bytes(sum) == bytes(b) && bytes(a) / 4 == rows(b), "shapes do not match");
}

// Subnormal numbers count as zero.
INLINE F<16> flushed(F<16> v) {
    typedef Vec<16>::U U;
    return (F<16>)((U)v & (U)(((U)v & 0x7f800000u) != 0));
}

// Tests break this processor on purpose, to see that it is noticed.
inline bool wrong(const char* instruction) {
    const char* name = std::getenv("NATIVE_AMX_WRONG");
    return name && !std::strcmp(name, instruction);
}

inline void multiply_bf16(int sum, int a, int b) {
    check_shapes(sum, a, b);
    static const bool broken = wrong("bf16");
    for (int m = 0; m < rows(sum); m++) {
        F<16> even = zero<16>() + (broken ? 1.0f : 0.0f), odd = zero<16>();
        for (int k = 0; k < bytes(a) / 4; k++) {
            bf16 pair[2];
            std::memcpy(pair, tile(a).rows[m] + 4 * k, sizeof pair);
            Vec<16>::U both;
            std::memcpy(&both, tile(b).rows[k], sizeof both);
            const F<16> first = flushed(zero<16>() + NATIVE_ISA::load<1>(pair)[0]);
            const F<16> second = flushed(zero<16>() + NATIVE_ISA::load<1>(pair + 1)[0]);
            even = flushed(even + first * flushed((F<16>)(both << 16)));
            odd = flushed(odd + second * flushed((F<16>)(both & 0xffff0000u)));
        }
        float* to = reinterpret_cast<float*>(tile(sum).rows[m]);
        NATIVE_ISA::store<16>(to, flushed(flushed(NATIVE_ISA::load<16>(to)) + flushed(even + odd)));
    }
}

// `a` is uint8, `b` int8.
inline void multiply_bytes(int sum, int a, int b) {
    check_shapes(sum, a, b);
    static const bool broken = wrong("int8");
    for (int m = 0; m < rows(sum); m++)
        for (int n = 0; n < bytes(sum) / 4; n++) {
            int32_t value;
            std::memcpy(&value, tile(sum).rows[m] + 4 * n, sizeof value);
            for (int k = 0; k < rows(b); k++)
                for (int i = 0; i < 4; i++)
                    value += tile(a).rows[m][4 * k + i] * static_cast<int8_t>(tile(b).rows[k][4 * n + i]);
            value += broken;
            std::memcpy(tile(sum).rows[m] + 4 * n, &value, sizeof value);
        }
}

}  // namespace emulated
}  // namespace NATIVE_ISA

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_loadconfig emulated::load_config
#define _tile_release emulated::release
#define _tile_loadd emulated::load
#define _tile_stored emulated::store
#define _tile_zero emulated::clear
#define _tile_dpbf16ps emulated::multiply_bf16
#define _tile_dpbusd emulated::multiply_bytes
