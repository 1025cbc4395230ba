// The matrix products (GEMM) of a plan: the rows of a tile times panels of output channels.
//
// T is the type of maps, Row that of a product's rows: T, or uint8 if the weights are int8. Out is what a step writes:
// T, uint8 if an int8 product reads it, or float for the network's result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "simd.h"
#include "values.h"
#ifdef NATIVE_AMX
#include "amx.h"
#endif

namespace NATIVE_ISA {

// Rows that are multiplied together, and the vectors of a panel of output channels: their sums fill the registers.
constexpr int ROWS = WIDTH >= 8 ? 6 : 2;
constexpr int VECTORS = WIDTH == 8 ? 2 : 4;
constexpr int64_t PANEL = VECTORS * WIDTH;
constexpr int64_t MOST_PIXELS = 384;        // in a tile, up to a group of rows
#ifdef NATIVE_AMX
constexpr int64_t PIXEL_GROUP = TILE_ROWS;  // every tile but the last has whole groups
#else
constexpr int64_t PIXEL_GROUP = 1;
#endif

template <int N>
using Constant = std::integral_constant<int, N>;

template <class Row>
using Sum = std::conditional_t<sizeof(Row) == 1, typename Vec<WIDTH>::I, F<WIDTH>>;

// sum += a * b for 4 bytes of each row, which are one float32, two bfloat16 or four uint8, and as many rows of a panel.
template <int R, int N>
INLINE void add_products(F<WIDTH> (&sum)[R][N], const float* const (&a)[R], int64_t k, const F<WIDTH> (&b)[N]) {
#pragma GCC unroll 16
    for (int m = 0; m < R; m++) {
        const F<WIDTH> value = zero<WIDTH>() + a[m][k];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[m][n] += value * b[n];
    }
}

template <int R, int N>
INLINE void add_products(F<WIDTH> (&sum)[R][N], const bf16* const (&a)[R], int64_t k, const F<WIDTH> (&b)[N]) {
#ifdef NATIVE_AVX512BF16
#pragma GCC unroll 16
    for (int m = 0; m < R; m++) {
        int32_t pair;
        std::memcpy(&pair, a[m] + k, sizeof pair);
        const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int n = 0; n < N; n++)
            sum[m][n] = (F<WIDTH>)_mm512_dpbf16_ps((__m512)sum[m][n], value, (__m512bh)b[n]);
    }
#else
    typedef typename Vec<WIDTH>::U U;
    F<WIDTH> even[N], odd[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
        even[n] = (F<WIDTH>)((U)b[n] << 16);
        odd[n] = (F<WIDTH>)((U)b[n] & 0xffff0000u);
    }
#pragma GCC unroll 16
    for (int m = 0; m < R; m++) {
        const F<WIDTH> first = zero<WIDTH>() + load<1>(a[m] + k)[0];
        const F<WIDTH> second = zero<WIDTH>() + load<1>(a[m] + k + 1)[0];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[m][n] += first * even[n] + second * odd[n];
    }
#endif
}

// uint8 times int8; the sums are exact.
template <int R, int N>
INLINE void add_products(Sum<uint8_t> (&sum)[R][N], const uint8_t* const (&a)[R], int64_t k, const F<WIDTH> (&b)[N]) {
    typedef Sum<uint8_t> I;
#ifndef NATIVE_AVX512BF16
    I even[N], odd[N];  // 16 bits each
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
        even[n] = even_bytes<WIDTH>((I)b[n]);
        odd[n] = odd_bytes<WIDTH>((I)b[n]);
    }
#endif
#pragma GCC unroll 16
    for (int m = 0; m < R; m++) {
        uint32_t four;
        std::memcpy(&four, a[m] + k, sizeof four);
#ifdef NATIVE_AVX512BF16
        const __m512i values = _mm512_set1_epi32(static_cast<int>(four));
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[m][n] = (I)_mm512_dpbusd_epi32((__m512i)sum[m][n], values, (__m512i)b[n]);
#else
        const int first = four & 0xff00ff, second = four >> 8 & 0xff00ff;
#pragma GCC unroll 4
        for (int n = 0; n < N; n++)
            sum[m][n] += multiply_pairs<WIDTH>(even[n], first) + multiply_pairs<WIDTH>(odd[n], second);
#endif
    }
}

// The inner kernel: R rows times a panel of N vectors of output channels, which start with channel `c`, then bias,
// residual and activation. The panel is [runs * length / (4 bytes)][N * WIDTH][4 bytes]. Rows are read from their value
// `first_input` on. `ahead` is memory to prefetch, `forward` bytes in each step. Float sums that become uint8 are
// watched. It is not inlined because its sums then stay in registers.
template <int R, int N, class Row, class T, class Out>
__attribute__((noinline)) bool multiply(const Step& s, int64_t c, int64_t first_input, const Row* panel,
                                        const Row* const* rows, Stretches at, const T* const* residual,
                                        Out* const* out, const char* ahead, int64_t forward) {
    constexpr int64_t TOGETHER = 4 / sizeof(Row);
    constexpr bool WATCHES = sizeof(Row) > 1 && sizeof(Out) == 1;
    Sum<Row> sum[R][N];
#pragma GCC unroll 16
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++)
            if constexpr (sizeof(Row) == 1)
                sum[m][n] = Sum<Row>{};
            else
                sum[m][n] = load<WIDTH>(s.bias + c + n * WIDTH);
    const int64_t runs = s.runs, length = s.length;
    for (int64_t run = 0; run < runs; run++) {
        const Row* a[R];
#pragma GCC unroll 16
        for (int m = 0; m < R; m++) a[m] = rows[m] + first_input + at[run];
        for (int64_t k = 0; k < length; k += TOGETHER, panel += TOGETHER * N * WIDTH) {
            F<WIDTH> b[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) b[n] = load_once<WIDTH>(reinterpret_cast<const float*>(panel) + n * WIDTH);
            add_products(sum, a, k, b);
            __builtin_prefetch(ahead, 0, 2);
            ahead += forward;
        }
    }
    // The sums become values in their registers, one operation after the other.
    F<WIDTH> v[R][N];
    const auto each = [&](const auto& value) INLINE_LAMBDA {
#pragma GCC unroll 4
        for (int n = 0; n < N; n++)
#pragma GCC unroll 16
            for (int m = 0; m < R; m++) v[m][n] = value(m, n, c + n * WIDTH);
    };
    each([&](int m, int n, int64_t channel) INLINE_LAMBDA {
        if constexpr (sizeof(Row) == 1)
            return __builtin_convertvector(sum[m][n], F<WIDTH>) * load<WIDTH>(s.scale + channel) +
                   load<WIDTH>(s.bias + channel);
        else
            return settled<WIDTH>(sum[m][n]);
    });
    if (residual)
        each([&](int m, int n, int64_t channel) INLINE_LAMBDA {
            return join(s, v[m][n], load<WIDTH>(residual[m] + channel));
        });
    Watch watch;
    if constexpr (WATCHES)
        each([&](int m, int n, int64_t) INLINE_LAMBDA { return watch(v[m][n]), v[m][n]; });
    const Activate activate(s.activation);
    if (s.activation.kind > HARD_TANH) {
        alignas(64) float values[R][N * WIDTH];
        each([&](int m, int n, int64_t) INLINE_LAMBDA { return store<WIDTH>(values[m] + n * WIDTH, v[m][n]), v[m][n]; });
        for (int n = 0; n < N; n++) {
            const int64_t channel = c + n * WIDTH;
            const Write<Out> write(s.out_rounding, s.out.channels, channel);
            for (int m = 0; m < R; m++)
                write(out[m] + channel, activate.curve(s.activation, load<WIDTH>(values[m] + n * WIDTH)));
        }
        return !WATCHES || watch.finite();
    }
    if (s.activation.kind >= RELU6)
        each([&](int m, int n, int64_t) INLINE_LAMBDA { return at_most<WIDTH>(v[m][n], activate.high); });
    if (s.activation.kind != NOTHING)
        each([&](int m, int n, int64_t) INLINE_LAMBDA { return at_least<WIDTH>(v[m][n], activate.low); });
    if constexpr (sizeof(Out) == 1) {
        if (!s.rounded_by_scale)
            each([&](int m, int n, int64_t channel) INLINE_LAMBDA {
                return v[m][n] * load<WIDTH>(s.out_rounding + channel) +
                       load<WIDTH>(s.out_rounding + s.out.channels + channel);
            });
#pragma GCC unroll 16
        for (int m = 0; m < R; m++) store_rounded<WIDTH>(out[m] + c, v[m]);
        return !WATCHES || watch.finite();
    }
    constexpr int P = std::is_same_v<Out, bf16> && N % 2 == 0 ? 2 : 1;  // vectors that are written together
#pragma GCC unroll 4
    for (int n = 0; n < N; n += P) {
        const int64_t channel = c + n * WIDTH;
        const Write<Out> write(s.out_rounding, s.out.channels, channel);
#pragma GCC unroll 16
        for (int m = 0; m < R; m++)
            if constexpr (P == 2)
                store_two<WIDTH>(out[m] + channel, v[m][n], v[m][n + 1]);
            else
                write(out[m] + channel, v[m][n]);
    }
    return !WATCHES || watch.finite();
}

// How many rows are multiplied at once: enough sums to keep the multipliers busy.
constexpr int rows_together(int vectors) { return std::min(2 * ROWS, ROWS * VECTORS / vectors); }

// One panel times all rows of a tile. Meanwhile the `next` panel is prefetched into the second-level cache. After the
// last row, `rows` repeats it, so that every group of rows is whole.
template <int N, class Row, class T, class Out>
bool multiply_panel(const Step& s, int64_t c, int64_t first_input, const Row* panel, const Row* next,
                    const Row* const* rows, Stretches at, int64_t pixels, const T* const* residual, Out* const* out) {
    constexpr int TOGETHER = rows_together(N);
    const int64_t groups = (pixels + TOGETHER - 1) / TOGETHER, steps = s.runs * s.length * sizeof(Row) / 4;
    const int64_t forward = 4 * N * WIDTH / groups;
    const char* ahead = reinterpret_cast<const char*>(next);
    bool finite = true;
    for (int64_t first = 0; first < pixels; first += TOGETHER, rows += TOGETHER, out += TOGETHER) {
        if (pixels - first > TOGETHER / 2)
            finite &= multiply<TOGETHER, N>(s, c, first_input, panel, rows, at, residual, out, ahead, forward);
        else
            finite &= multiply<TOGETHER / 2, N>(s, c, first_input, panel, rows, at, residual, out, ahead, forward);
        ahead += steps * forward;
        if (residual) residual += TOGETHER;
    }
    return finite;
}

// A part of a step: a range of pixels and a range of panels of output channels.
struct Tile {
    int64_t begin, end, first_panel, last_panel;
    int64_t pixels() const { return end - begin; }
};

// Calls body(panel, its first output channel, its weights, the next panel's weights) for each panel of a tile.
template <class Row, class Body>
INLINE void each_panel(const Step& s, const Tile& tile, const Body& body) {
    const Row* weights = static_cast<const Row*>(s.weights);
    const Panel* panel = s.panels;
    for (int64_t c = 0, index = 0; c < s.out.channels && index < tile.last_panel; index++, panel++) {
        const Row* next = weights + s.runs * s.length * panel->channels;
        const bool last = c + panel->channels == s.out.channels;
        if (index >= tile.first_panel) body(*panel, c, weights, last ? static_cast<const Row*>(s.weights) : next);
        weights = next;
        c += panel->channels;
    }
}

// Whether these `channels`, from `c` on, are finite in all pixels. Four pixels at a time have sums of their own, which
// do not wait for each other; after the last pixel, `rows` repeats it.
template <class T>
__attribute__((noinline)) bool all_finite(const T* const* rows, int64_t pixels, int64_t c, int64_t channels) {
    Watch watch[4];
    for (int64_t p = 0; p < pixels; p += 4)
        for (int64_t i = c; i < c + channels; i += WIDTH)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) watch[k](load<WIDTH>(rows[p + k] + i));
    return !any_nan<WIDTH>(watch[0].sum + watch[1].sum + (watch[2].sum + watch[3].sum));
}

// One tile: every row times each of its panels. int8 sums are always finite.
template <class Row, class T, class Out>
bool finish_tile(const Step& s, const Tile& tile, const Row* const* rows, Stretches at, const T* const* residual,
                 Out* const* out) {
    const int64_t pixels = tile.pixels();
    bool finite = true;
    each_panel<Row>(s, tile, [&](const Panel& panel, int64_t c, const Row* weights, const Row* ahead) {
        const auto panel_of = [&](auto vectors) {
            return multiply_panel<vectors.value>(s, c, panel.first, weights, ahead, rows, at, pixels, residual, out);
        };
        switch (panel.channels / WIDTH) {
            case 1: finite &= panel_of(Constant<1>{}); break;
            case 2: finite &= panel_of(Constant<2>{}); break;
            case 3: finite &= panel_of(Constant<3>{}); break;
            default: finite &= panel_of(Constant<4>{});
        }
        if constexpr (sizeof(Row) > 1 && sizeof(Out) > 1)
            if (s.watched) finite &= all_finite(out, pixels, c, panel.channels);
    });
    return finite;
}

#ifdef NATIVE_AMX
static_assert(MOST_PIXELS <= MOST_ROWS && MOST_PIXELS % PIXEL_GROUP == 0 && 8 * ROWS % PIXEL_GROUP == 0);

// The same with AMX, for stretches of a multiple of 16 values. `scratch` holds the rows or has room for them.
template <class Row, class T, class Out>
bool finish_on_tiles(const Step& s, const Tile& tile, const Row* const* rows, Stretches at, const T* const* residual,
                     Out* const* out, Row* scratch) {
    const Activate activate(s.activation);
    bool finite = true;
    const auto finish = [&](int64_t first, int64_t count, int64_t c, int vectors, const auto* sums) {
        Watch watch;
        for (int64_t m = 0; m < count; m++)
            for (int n = 0; n < vectors; n++, sums += WIDTH) {
                const int64_t channel = c + n * WIDTH;
                F<WIDTH> v;
                if constexpr (sizeof(Row) == 1) {
                    typename Vec<WIDTH>::I whole;
                    std::memcpy(&whole, sums, sizeof whole);
                    v = __builtin_convertvector(whole, F<WIDTH>) * load<WIDTH>(s.scale + channel);
                } else {
                    v = load<WIDTH>(sums);
                }
                v += load<WIDTH>(s.bias + channel);
                if (residual) v = join(s, v, load<WIDTH>(residual[first + m] + channel));
                if (sizeof(Row) > 1 && s.watched) watch(v);
                if constexpr (sizeof(Out) == 1)
                    if (s.rounded_by_scale) {
                        store_rounded<WIDTH>(out[first + m] + channel, v);
                        continue;
                    }
                Write<Out>(s.out_rounding, s.out.channels, channel)(out[first + m] + channel, activate(s.activation, v));
            }
        finite &= watch.finite();
    };
    {
        TileProduct<Row, decltype(finish)> product(s.runs, s.length, finish);  // its destructor finishes the last block
        int64_t first = -1;
        each_panel<Row>(s, tile, [&](const Panel& panel, int64_t c, const Row* weights, const Row* ahead) {
            if (panel.first != first)
                product.read(rows, first = panel.first, tile.pixels(), at, rows[0] == scratch, scratch);
            product.multiply(weights, c, static_cast<int>(panel.channels / WIDTH), ahead);
        });
    }
    return finite;
}
#endif

}  // namespace NATIVE_ISA
