// The matrix products of a plan with AMX, the matrix unit of Intel's processors from Sapphire Rapids on.
//
// A tile of sums is 16 rows by 16 output channels. Tiles 0 to 3 hold sums. Tile 4 holds a piece of 16 rows and tile 5 a
// piece of a panel, both 64 bytes deep; tiles 6 and 7 replace them for the rest of a row, 16 values at a time. No more
// than six tiles are in use at a time, because these processors lose much of their speed with all eight.
#pragma once

#include "kernels.h"
#include "simd.h"
#ifdef NATIVE_AMX_EMULATED
#include "amx_emulated.h"
#endif

namespace NATIVE_ISA {

constexpr int64_t TILE_ROWS = 16;      // and output channels
constexpr int64_t MOST_ROWS = 384;     // that are multiplied together
constexpr int64_t TILE_DEPTH = 64;     // in bytes
constexpr int64_t REST = 16;           // the depth in values of the tiles for the rest of a row
constexpr int64_t FETCHED_LINES = 8;   // cache lines of the next panel, prefetched for each 64 bytes of depth

// What ldtilecfg reads.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
    constexpr explicit TileShapes(int value_bytes) {
        bytes[6] = static_cast<uint16_t>(REST * value_bytes), rows[6] = TILE_ROWS;
        bytes[7] = 64, rows[7] = static_cast<uint8_t>(REST * value_bytes / 4);
    }
};
constexpr TileShapes BF16_SHAPES(2), INT8_SHAPES(1);

// Configures the calling thread's tiles for values of a size, and releases them when it goes out of scope.
class Configuration {
  public:
    Configuration() = default;
    Configuration(const Configuration&) = delete;
    void use(int64_t bytes) {
        if (value_bytes != bytes) _tile_loadconfig(bytes == 1 ? &INT8_SHAPES : &BF16_SHAPES);
        value_bytes = bytes;
    }
    ~Configuration() {
        if (value_bytes) _tile_release();
    }

  private:
    int64_t value_bytes = 0;
};

// 16 rows of a product, `pitch` bytes apart, and where their stretches lie.
template <class T>
struct Group {
    const T* first;
    int64_t pitch;
    Stretches at;
};

// The row and column of sum `t` in a block of N columns of tiles. Every second row goes backwards, so that a piece of a
// panel is used for two sums in a row.
template <int N>
constexpr int row_of(int t) {
    return t / N;
}
template <int N>
constexpr int column_of(int t) {
    return t / N % 2 ? N - 1 - t % N : t % N;
}

// The tile instructions take literal numbers for tiles, hence macros.
#define DOT_PRODUCT(sum, a, b)        \
    if constexpr (sizeof(T) == 2)     \
        _tile_dpbf16ps(sum, a, b);    \
    else                              \
        _tile_dpbusd(sum, a, b);
#define ADD_TO_SUM(t, A, B)                                                                         \
    if constexpr (t < R * N) {                                                                      \
        if constexpr (t == 0 || row_of<N>(t) != row_of<N>(t - 1))                                   \
            _tile_loadd(A, a[row_of<N>(t)], groups[row_of<N>(t)].pitch);                            \
        if constexpr (t == 0 || column_of<N>(t) != column_of<N>(t - 1))                             \
            _tile_loadd(B, panel + 64 * column_of<N>(t), pitch);                                    \
        DOT_PRODUCT(t, A, B)                                                                        \
    }
#define ADD_TO_SUMS(A, B) ADD_TO_SUM(0, A, B) ADD_TO_SUM(1, A, B) ADD_TO_SUM(2, A, B) ADD_TO_SUM(3, A, B)
#define STORE_SUM(t)                                                                                \
    if constexpr (t < R * N)                                                                        \
        _tile_stored(t, sums + TILE_ROWS * (row_of<N>(t) * TILE_ROWS * N + column_of<N>(t)), 64 * N);

// Zeroes the sums of R groups and N * 16 channels, and adds the products over the whole depth. Each row of the panel
// holds 4 bytes of depth and has `pitch` bytes. `ahead` is memory to prefetch, `forward` bytes for each 64 bytes of
// depth.
template <int R, int N, class T>
__attribute__((noinline)) void sum_tiles(const Group<T>* groups, int64_t runs, int64_t length, const char* panel,
                                         int64_t pitch, const char* ahead, int64_t forward) {
    static_assert(R * N <= 4);
    asm volatile("" ::: "memory");  // GCC's intrinsics do not say that they read memory
    _tile_zero(0);
    if constexpr (R * N > 1) _tile_zero(1);
    if constexpr (R * N > 2) _tile_zero(2);
    if constexpr (R * N > 3) _tile_zero(3);
    constexpr int64_t VALUES = TILE_DEPTH / sizeof(T);
    for (int64_t run = 0; run < runs; run++) {
        const T* a[R];
        for (int m = 0; m < R; m++) a[m] = groups[m].first + groups[m].at[run];
        int64_t left = length;
        for (; left >= VALUES; left -= VALUES) {
            ADD_TO_SUMS(4, 5)
            for (int m = 0; m < R; m++) a[m] += VALUES;
            panel += TILE_ROWS * pitch;
            for (int line = 0; line < FETCHED_LINES; line++) _mm_prefetch(ahead + 64 * line, _MM_HINT_T1);
            ahead += forward;
        }
        for (; left > 0; left -= REST) {
            ADD_TO_SUMS(6, 7)
            for (int m = 0; m < R; m++) a[m] += REST;
            panel += REST * sizeof(T) / 4 * pitch;
        }
    }
}

template <int R, int N, class Sum>
INLINE void store_tiles(Sum* sums) {
    STORE_SUM(0) STORE_SUM(1) STORE_SUM(2) STORE_SUM(3)
}

#undef DOT_PRODUCT
#undef ADD_TO_SUM
#undef ADD_TO_SUMS
#undef STORE_SUM

// Multiplies rows, `runs` stretches of `length` values each, by one panel after another, and passes each block of sums
// to `finish(first row, rows, first channel, vectors, sums [rows][vectors * 16])`: float for bfloat16, int32 for int8.
// A block is finished after the next one has been multiplied, so that the vector units work beside the matrix unit.
template <class T, class Finish>
class TileProduct {
  public:
    typedef std::conditional_t<sizeof(T) == 1, int32_t, float> Sum;

    TileProduct(int64_t runs, int64_t length, const Finish& finish) : runs(runs), length(length), finish(finish) {}
    TileProduct(const TileProduct&) = delete;
    ~TileProduct() { finish_last(); }

    // Takes `count` rows, from their value `offset` on, for the panels to come. A group whose 16 rows are not equally
    // far apart is copied into `scratch`. So is an incomplete last group, because memory after it must not be read; if
    // the rows are `inside` the scratch, that has room for whole groups. The values that pad the last group do not
    // matter.
    void read(const T* const* from, int64_t offset, int64_t count, Stretches at, bool inside, T* scratch) {
        rows = count;
        Group<T>* group = groups;
        for (int64_t first = 0; first < count; first += TILE_ROWS, from += TILE_ROWS, group++) {
            const int64_t here = std::min(TILE_ROWS, count - first), apart = here > 1 ? from[1] - from[0] : 0;
            bool straight = here == TILE_ROWS || here == 1 || inside;
            for (int64_t m = 2; m < here; m++) straight &= from[m] - from[m - 1] == apart;
            if (straight) {
                *group = {from[0] + offset, apart * static_cast<int64_t>(sizeof(T)), at};
                continue;
            }
            *group = {scratch, runs * length * static_cast<int64_t>(sizeof(T)), {1, length, 0}};
            for (int64_t m = 0; m < here; m++)
                for (int64_t run = 0; run < runs; run++)
                    std::memcpy(scratch + (m * runs + run) * length, from[m] + offset + at[run], length * sizeof(T));
            scratch += TILE_ROWS * runs * length;
        }
    }

    // Multiplies by the panel of `vectors` vectors of output channels that start with `channel`; `next` is the next
    // panel.
    void multiply(const void* panel, int64_t channel, int vectors, const void* next) {
        now = {static_cast<const char*>(panel), channel, vectors};
        ahead = static_cast<const char*>(next);
        ahead_end = ahead + runs * length * vectors * TILE_ROWS * static_cast<int64_t>(sizeof(T));
        const int64_t num_groups = (rows + TILE_ROWS - 1) / TILE_ROWS, paired = num_groups / 2 * 2;
        for (int64_t g = 0; g < paired; g += 2)
            for (int n = 0; n + 1 < vectors; n += 2) block<2, 2>(g, n);
        if (vectors % 2) {
            int64_t g = 0;
            for (; g + 4 <= paired; g += 4) block<4, 1>(g, vectors - 1);
            if (g < paired) block<2, 1>(g, vectors - 1);
        }
        if (paired == num_groups) return;
        switch (vectors) {
            case 1: return block<1, 1>(paired, 0);
            case 2: return block<1, 2>(paired, 0);
            case 3: return block<1, 3>(paired, 0);
            default: return block<1, 4>(paired, 0);
        }
    }

  private:
    template <int R, int N>
    void block(int64_t group, int column) {
        const bool fetch = ahead < ahead_end;
        const int64_t pitch = 64 * now.vectors;
        sum_tiles<R, N>(groups + group, runs, length, now.panel + 64 * column, pitch, ahead,
                        fetch ? 64 * FETCHED_LINES : 0);
        if (fetch) ahead += runs * (length / (TILE_DEPTH / sizeof(T))) * 64 * FETCHED_LINES;
        finish_last();
        store_tiles<R, N>(sums);
        const int64_t first = group * TILE_ROWS;
        last = {first, std::min(R * TILE_ROWS, rows - first), now.channel + column * TILE_ROWS, N};
    }

    void finish_last() {
        if (last.rows) finish(last.first, last.rows, last.channel, last.vectors, static_cast<const Sum*>(sums));
    }

    const int64_t runs, length;
    const Finish& finish;
    int64_t rows = 0;
    Group<T> groups[MOST_ROWS / TILE_ROWS];
    struct {
        const char* panel;
        int64_t channel;
        int vectors;
    } now{};
    struct {
        int64_t first, rows, channel;
        int vectors;
    } last{};
    const char *ahead = nullptr, *ahead_end = nullptr;
    alignas(64) Sum sums[4 * TILE_ROWS * TILE_ROWS];
};

// Whether products of small integers, which are exact, are right on this machine.
template <class T>
bool tiles_multiply() {
    constexpr int64_t COUNT = 40, RUNS = 2, LENGTH = 112, VECTORS = 3, COLUMNS = VECTORS * TILE_ROWS;
    constexpr int64_t DEPTH = RUNS * LENGTH, TOGETHER = 4 / sizeof(T);
    const auto value = [](int64_t i, int64_t least, int64_t most) {
        return least + i * 7919 % 104729 % (most - least + 1);
    };
    const auto row_value = [&](int64_t i) { return sizeof(T) == 1 ? value(i, 0, 255) : value(i, -3, 3); };
    const auto weight = [&](int64_t i) { return sizeof(T) == 1 ? value(i, -127, 127) : value(i, -4, 3); };
    const auto put = [](T& to, int64_t v) {
        if constexpr (sizeof(T) == 1)
            to = static_cast<T>(v);
        else
            store<1>(&to, F<1>{static_cast<float>(v)});
    };
    T a[COUNT * DEPTH], b[DEPTH * COLUMNS], scratch[TILE_ROWS * DEPTH];
    const T* rows[COUNT];
    for (int64_t m = 0; m < COUNT; m++) rows[m] = a + (m < 32 ? m : COUNT + 31 - m) * DEPTH;
    for (int64_t i = 0; i < COUNT * DEPTH; i++) put(a[i], row_value(i));
    for (int64_t k = 0; k < DEPTH; k++)
        for (int64_t n = 0; n < COLUMNS; n++)
            put(b[(k / TOGETHER * COLUMNS + n) * TOGETHER + k % TOGETHER], weight(k * COLUMNS + n));
    int64_t right = 0;
    const auto compare = [&](int64_t first, int64_t count, int64_t channel, int vectors, const auto* sums) {
        for (int64_t m = 0; m < count; m++)
            for (int64_t n = 0; n < vectors * TILE_ROWS; n++) {
                int64_t expected = 0;
                for (int64_t k = 0; k < DEPTH; k++)
                    expected += row_value(rows[first + m] - a + k) * weight(k * COLUMNS + channel + n);
                right += sums[m * vectors * TILE_ROWS + n] == expected;
            }
    };
    {
        Configuration tiles;
        tiles.use(sizeof(T));
        TileProduct<T, decltype(compare)> product(RUNS, LENGTH, compare);
        product.read(rows, 0, COUNT, {1, LENGTH, 0}, false, scratch);
        product.multiply(b, 0, VECTORS, b);
    }
    return right == COUNT * COLUMNS;
}

}  // namespace NATIVE_ISA
