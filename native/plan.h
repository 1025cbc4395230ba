// Runs a plan: a whole network as a list of steps over one arena, for inference.
//
// Maps lie channels-last with their channels filled up to whole vectors, and a border of zeros where the step that
// reads them pads. A convolution is a matrix product whose rows are addressed in the map itself, one run of memory a
// kernel row, or one a tap where groups leave channels out; a separable convolution writes its depthwise part for one
// tile of pixels into the thread's own cache and multiplies it from there. Threads claim tiles, and wait for each other
// between two steps only.
//
// T is what maps hold, Row what a product reads: the same, or bytes whose weights are int8. Out is what a step writes:
// T, bytes for such a product, or the float of the result.
//
// What is not finite is told rather than computed with as PyTorch does, for an infinity times the zeros that fill up
// channels and groups is NaN. No step loses a NaN, and an infinity is clamped where PyTorch clamps it, else it stays or
// becomes NaN; so it is enough to watch the image, the result, the windows of max pooling and what becomes bytes. The
// functions for a part of a step say whether all that they watched was finite.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>

#include "fence.h"
#include "kernels.h"
#include "parallel.h"
#include "room.h"
#include "rows.h"
#include "simd.h"
#include "values.h"
#ifdef NATIVE_AMX
#include "amx.h"
#endif

namespace NATIVE_ISA {

// Pixels that are multiplied together, and the vectors of a panel of output channels: their sums fill the registers.
constexpr int ROWS = WIDTH >= 8 ? 6 : 2;
constexpr int VECTORS = WIDTH == 8 ? 2 : 4;
constexpr int64_t PANEL = VECTORS * WIDTH;
constexpr int PARTS = WIDTH == 16 ? 2 : 1;         // vectors of bfloat16 that depthwise convolutions take at once
constexpr int64_t MOST_PIXELS = 384;               // in a tile, up to a group of rows
#ifdef NATIVE_AMX
constexpr int64_t PIXEL_GROUP = TILE_ROWS;         // no tile but the last has a part of one
#else
constexpr int64_t PIXEL_GROUP = 1;
#endif
constexpr int64_t TILE_BYTES = 288 << 10;          // of rows to multiply: they stay in the second-level cache

template <int N>
using Constant = std::integral_constant<int, N>;

template <class Row>
using Sum = std::conditional_t<sizeof(Row) == 1, typename Vec<WIDTH>::I, F<WIDTH>>;

// sum += what 4 bytes of each row times 4 bytes' rows of a panel are: one value of float32, two of bfloat16, four bytes.
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

// Bytes times int8, exact.
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

// R rows times the panel of N vectors of output channels from `c` on, [runs * length / (4 bytes)][N * WIDTH][4 bytes];
// bias, residual and activation come on the way out. Rows are read from their value `first_input` on; `ahead` is memory
// to bring near, `forward` bytes a step. Watches what becomes bytes and was none. A function by itself, for then its sums
// stay in registers.
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
    // The sums become values in their registers, one thing after the other.
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
            const Write<Out> write(s.out_bytes, s.out.channels, channel);
            for (int m = 0; m < R; m++)
                write(out[m] + channel, activate.curve(s.activation, load<WIDTH>(values[m] + n * WIDTH)));
        }
        return !WATCHES || watch.finite();
    }
    if (s.activation.kind >= RELU6)
        each([&](int m, int n, int64_t) INLINE_LAMBDA { return at_most<WIDTH>(v[m][n], activate.high); });
    if (s.activation.kind != NOTHING)
        each([&](int m, int n, int64_t) INLINE_LAMBDA { return at_least<WIDTH>(v[m][n], activate.low); });
    constexpr int P = std::is_same_v<Out, bf16> && N % 2 == 0 ? 2 : 1;  // vectors that are written at once
#pragma GCC unroll 4
    for (int n = 0; n < N; n += P) {
        const int64_t channel = c + n * WIDTH;
        const Write<Out> write(s.out_bytes, s.out.channels, channel);
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

// One panel times all rows of a tile; the `next` panel comes into the second-level cache meanwhile. Behind the last row
// it stands again, so that groups are whole.
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

// A part of a step: some pixels and some panels of output channels, by their numbers.
struct Tile {
    int64_t begin, end, first_panel, last_panel;
    int64_t pixels() const { return end - begin; }
};

// Calls body(panel, its first output channel, its weights, those of the panel behind it) for the panels of a tile.
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

// Whether these channels of all pixels are finite; sums that wait for nobody take four at a time, as many as there are
// behind the last pixel, too.
template <class T>
__attribute__((noinline)) bool all_finite(const T* const* rows, int64_t pixels, int64_t c, int64_t channels) {
    Watch watch[4];
    for (int64_t p = 0; p < pixels; p += 4)
        for (int64_t i = c; i < c + channels; i += WIDTH)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) watch[k](load<WIDTH>(rows[p + k] + i));
    return !any_nan<WIDTH>(watch[0].sum + watch[1].sum + (watch[2].sum + watch[3].sum));
}

// One tile: its panels times every row. Sums of bytes are always finite.
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

// The same on tiles, if stretches are of whole groups of 16 values. `scratch` has the rows or room for them.
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
                Write<Out>(s.out_bytes, s.out.channels, channel)(out[first + m] + channel, activate(s.activation, v));
            }
        finite &= watch.finite();
    };
    {
        TileProduct<Row, decltype(finish)> product(s.runs, s.length, finish);  // which finishes at its end
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

// Pixels side by side: their sums and the columns under them fill the registers.
constexpr int side_by_side(int64_t kernel, int64_t stride) {
    return stride == 1 ? (WIDTH == 16 ? 8 : 4) : (kernel == 3 || WIDTH == 16 ? 4 : 2);
}

INLINE bool fast_depthwise(const Step& s) {
    return (s.kernel_height == 3 || s.kernel_height == 5) && s.kernel_width == s.kernel_height && s.stride_x <= 2 &&
           s.between.kind <= HARD_TANH;
}

// `P` vectors of channels' values. Two of bfloat16 are those at even and those at odd places: to part them takes two
// operations, to widen one half after the other four.
template <int P, class T>
INLINE void load_parts(const T* from, F<WIDTH> (&part)[P]) {
    if constexpr (P == 1) {
        part[0] = load<WIDTH>(from);
    } else {
        typename Vec<WIDTH>::U both;
        std::memcpy(&both, from, sizeof both);
        part[0] = (F<WIDTH>)(both << 16), part[1] = (F<WIDTH>)(both & 0xffff0000u);
    }
}

// `X` pixels side by side of the depthwise convolution, P vectors of channels from `c` on, with the ReLU before and the
// activation behind. K and S are kernel and stride, if they are known and no curve follows; else X is 1 and K is 0.
// BEFORE and AFTER: whether there may be such a ReLU or a clamp.
template <class T, class Row, int K, int S, int X, bool BEFORE, bool AFTER, int P>
INLINE void depthwise_block(const Step& s, const T* in, int64_t row, int64_t pixel, int64_t c, Row* out) {
    const int height = K ? K : static_cast<int>(s.kernel_height), width = K ? K : static_cast<int>(s.kernel_width);
    const int64_t C = s.in.channels;
    const F<WIDTH> floor = zero<WIDTH>() + (s.relu_first ? 0.0f : -HUGE_VALF);
    F<WIDTH> sum[X][P], column[P];
#pragma GCC unroll 2
    for (int part = 0; part < P; part++) {
        const F<WIDTH> start = s.between_bias ? load<WIDTH>(s.between_bias + c + part * WIDTH) : zero<WIDTH>();
#pragma GCC unroll 8
        for (int x = 0; x < X; x++) sum[x][part] = start;
    }
#pragma GCC unroll 5
    for (int i = 0; i < height; i++) {
        const T* line = in + i * row + c;
        const float* taps = s.depthwise + i * width * C + c;
        if constexpr (K > 0) {
            F<WIDTH> tap[K][P];
#pragma GCC unroll 5
            for (int j = 0; j < K; j++)
#pragma GCC unroll 2
                for (int part = 0; part < P; part++) tap[j][part] = load_once<WIDTH>(taps + j * C + part * WIDTH);
#pragma GCC unroll 16
            for (int j = 0; j < S * (X - 1) + K; j++) {
                load_parts<P>(line + j * pixel, column);
#pragma GCC unroll 2
                for (int part = 0; part < P; part++) {
                    if (BEFORE) column[part] = at_least<WIDTH>(column[part], floor);
#pragma GCC unroll 8
                    for (int x = 0; x < X; x++)
                        if (0 <= j - x * S && j - x * S < K) sum[x][part] += tap[j - x * S][part] * column[part];
                }
            }
        } else {
            for (int j = 0; j < width; j++) {
                load_parts<P>(line + j * pixel, column);
                for (int part = 0; part < P; part++)
                    sum[0][part] += load<WIDTH>(taps + j * C + part * WIDTH) * at_least<WIDTH>(column[part], floor);
            }
        }
    }
    const Activate activate(s.between);
    const auto last = [&](F<WIDTH> v) INLINE_LAMBDA { return !K ? activate(s.between, v) : AFTER ? activate.clamp(v) : v; };
    if constexpr (P == 2 && std::is_same_v<Row, bf16>) {
#pragma GCC unroll 8
        for (int x = 0; x < X; x++) store_two<WIDTH>(out + x * C + c, last(sum[x][0]), last(sum[x][1]));
    } else {
#pragma GCC unroll 2
        for (int part = 0; part < P; part++) {
            const Write<Row> write(s.between_bytes, C, c + part * WIDTH);
#pragma GCC unroll 8
            for (int x = 0; x < X; x++) write(out + x * C + c + part * WIDTH, last(sum[x][part]));
        }
    }
}

// All channels of `X` pixels. In bfloat16 a product takes them in an order of its own: the even ones of two vectors
// before the odd ones (infer/pack.py has the numbers that belong to them in the same order).
template <class T, class Row, int K, int S, int X, bool BEFORE, bool AFTER, bool PRODUCT>
void depthwise_pixels(const Step& s, const T* in, int64_t row, Row* out) {
    constexpr int P = PRODUCT && std::is_same_v<T, bf16> ? PARTS : 1;
    const int64_t C = s.in.channels;
    int64_t pixel = s.in.pixel, c = 0;
    if constexpr (P > 1)
        for (; c + P * WIDTH <= s.length; c += P * WIDTH) {
            unknown(pixel), unknown(row);  // else all addresses are computed beforehand, for every call
            depthwise_block<T, Row, K, S, X, BEFORE, AFTER, P>(s, in, row, pixel, c, out);
        }
    for (; c < C; c += WIDTH) {
        unknown(pixel), unknown(row);
        depthwise_block<T, Row, K, S, X, BEFORE, AFTER, 1>(s, in, row, pixel, c, out);
    }
}

// `count` pixels of a row of the result.
template <int K, int S, bool BEFORE, bool AFTER, bool PRODUCT, class T, class Row>
void depthwise_row(const Step& s, const T* in, int64_t row, int64_t count, Row* out) {
    constexpr int most = K ? side_by_side(K, S) : 1, half = S == 1 ? most / 2 : most;
    const auto pixels = [&](auto some, int64_t first) {
        constexpr int X = some.value;
        depthwise_pixels<T, Row, K, S, X, BEFORE || X == 1, AFTER || X == 1, PRODUCT>(
            s, in + first * s.stride_x * s.in.pixel, row, out + first * s.in.channels);
    };
    int64_t done = 0;
    for (; count - done >= most; done += most) pixels(Constant<most>{}, done);
    if (done == count) return;
    // A whole block that begins with pixels done already takes less time than single pixels.
    if (count >= most) return pixels(Constant<most>{}, count - most);
    if (half > 1 && count >= half) {
        pixels(Constant<half>{}, 0);
        if (count > half) pixels(Constant<half>{}, count - half);
        return;
    }
    for (; done < count; done++) pixels(Constant<1>{}, done);
}

template <class T, class Row>
using DepthwiseRow = void (*)(const Step&, const T*, int64_t, int64_t, Row*);

template <class T, class Row, bool PRODUCT, int S>
DepthwiseRow<T, Row> depthwise_row_by_stride(const Step& s) {
    if (s.kernel_height == 5) return depthwise_row<5, S, true, true, PRODUCT, T, Row>;
    if constexpr (PRODUCT) {
        if (!s.relu_first && !s.between.kind) return depthwise_row<3, S, false, false, true, T, Row>;
        if (!s.relu_first) return depthwise_row<3, S, false, true, true, T, Row>;
        if (!s.between.kind) return depthwise_row<3, S, true, false, true, T, Row>;
    }
    return depthwise_row<3, S, true, true, PRODUCT, T, Row>;
}

template <class T, class Row, bool PRODUCT>
DepthwiseRow<T, Row> depthwise_row_of(const Step& s) {
    if (!fast_depthwise(s)) return depthwise_row<0, 1, true, true, PRODUCT, T, Row>;
    return s.stride_x == 2 ? depthwise_row_by_stride<T, Row, PRODUCT, 2>(s) : depthwise_row_by_stride<T, Row, PRODUCT, 1>(s);
}

template <class T, class Row>
void depthwise_tile(const Step& s, const Place<T>& in, int64_t begin, int64_t end, Row* out) {
    const int64_t height = s.out.height, width = s.out.width;
    DepthwiseRow<T, Row> take_row = depthwise_row_of<T, Row, PARTS == 2>(s);
    if constexpr (PARTS == 2 && std::is_same_v<T, Row>)
        if (!s.weights) take_row = depthwise_row_of<T, Row, false>(s);
    for (int64_t p = begin; p < end;) {
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        const int64_t count = std::min(width - x, end - p);
        take_row(s, in.at(n, y * s.stride_y - s.pad_top, x * s.stride_x - s.pad_left), in.row, count,
                 out + (p - begin) * s.in.channels);
        p += count;
    }
}

// The pixels that a convolution of single pixels reads, as bytes.
template <class T>
void round_tile(const Step& s, const Place<T>& in, int64_t begin, int64_t end, uint8_t* out) {
    const int64_t height = s.out.height, width = s.out.width, C = s.in.channels;
    for (int64_t p = begin; p < end;) {
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        const T* from = in.at(n, y * s.stride_y - s.pad_top, x * s.stride_x - s.pad_left);
        for (const int64_t stop = std::min(end, p + width - x); p < stop; p++, from += s.stride_x * in.pixel, out += C)
            for (int64_t c = 0; c < C; c += WIDTH)
                Write<uint8_t>(s.between_bytes, C, c)(out + c, load<WIDTH>(from + c));
    }
}

// A convolution, or a separable one whose depthwise part goes into `scratch` first.
template <class T, class Row, class Out>
bool convolve_tile(const Step& s, const Tile& tile, char* arena, char* scratch) {
    const int64_t begin = tile.begin, end = tile.end;
    const Place<T> residual(arena, s.residual);
    const Place<Row> in(arena, s.in);
    const Place<Out> out(arena, s.out);
    const Row* rows[MOST_PIXELS + rows_together(1)];
    const T* added[MOST_PIXELS + rows_together(1)];
    Out* to[MOST_PIXELS + rows_together(1)];
    const int64_t height = s.out.height, width = s.out.width;
    Row* between = reinterpret_cast<Row*>(scratch);
    if (s.depthwise)
        depthwise_tile(s, Place<T>(arena, s.in), begin, end, between);
    else if constexpr (sizeof(Row) == 1)
        if (s.between_bytes) round_tile(s, Place<T>(arena, s.in), begin, end, between);
    for (int64_t p = begin; p < end;) {  // a row of the map, or what of it lies in the tile
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        const Row* from = makes_rows(s) ? between + (p - begin) * s.in.channels
                                        : in.at(n, y * s.stride_y - s.pad_top, x * s.stride_x - s.pad_left);
        const int64_t step = makes_rows(s) ? s.in.channels : s.stride_x * in.pixel;
        const T* add = residual.at(n, y, x);
        Out* target = out.at(n, y, x);
        for (const int64_t stop = std::min(end, p + width - x); p < stop; p++) {
            rows[p - begin] = from, from += step;
            added[p - begin] = add, add += residual.pixel;
            to[p - begin] = target, target += out.pixel;
        }
    }
    for (int64_t p = end - begin; p < end - begin + rows_together(1); p++)
        rows[p] = rows[p - 1], added[p] = added[p - 1], to[p] = to[p - 1];
    const bool plus = s.residual.offset >= 0;
    if (s.weights) {
        const Stretches at{s.taps, in.row, in.pixel};
        const T* const* residuals = plus ? added : nullptr;
#ifdef NATIVE_AMX
        if (s.length % REST == 0) return finish_on_tiles(s, tile, rows, at, residuals, to, between);
#endif
        return finish_tile(s, tile, rows, at, residuals, to);
    }
    Watch watch;
    if constexpr (std::is_same_v<Row, T>) {
        const Activate activate(s.activation);
        for (int64_t p = 0; p < end - begin; p++)
            for (int64_t c = 0; c < s.out.channels; c += WIDTH) {
                F<WIDTH> v = load<WIDTH>(rows[p] + c);
                if (plus) v = join(s, v, load<WIDTH>(added[p] + c));
                watch(v);
                const Write<Out> write(s.out_bytes, s.out.channels, c);
                write(to[p] + c, activate(s.activation, v));
            }
    }
    return watch.finite();
}

// WIDTH pixels of four channels next to each other.
INLINE void store_pixels(float* to, const F<WIDTH> (&v)[4]) {
    const auto [even0, even1] = interleaved(v[0], v[2]);
    const auto [odd0, odd1] = interleaved(v[1], v[3]);
    const auto [first, second] = interleaved(even0, odd0);
    const auto [third, fourth] = interleaved(even1, odd1);
    store<WIDTH>(to, first), store<WIDTH>(to + WIDTH, second);
    store<WIDTH>(to + 2 * WIDTH, third), store<WIDTH>(to + 3 * WIDTH, fourth);
}
INLINE void store_pixels(bf16* to, const F<WIDTH> (&v)[4]) {
    bf16 halves[4][WIDTH];
    typename Vec<WIDTH>::U channel[4];
    for (int c = 0; c < 4; c++) {
        store<WIDTH>(halves[c], v[c]);
        channel[c] = (typename Vec<WIDTH>::U)load<WIDTH>(halves[c]);  // in the upper half of 32 bits
    }
    const auto [first, second] = interleaved((F<WIDTH>)(channel[1] | channel[0] >> 16),
                                             (F<WIDTH>)(channel[3] | channel[2] >> 16));
    float* pairs = reinterpret_cast<float*>(to);
    store<WIDTH>(pairs, first), store<WIDTH>(pairs + WIDTH, second);
}

// A row of the image, [N, C, H, W] by its strides, into the plan's own layout; three or four channels WIDTH pixels at a
// time. Values beyond 1e19, whose squares are not finite, are told as well: what is made of them may be infinite where
// nobody watches, in the rows of a product in bytes.
template <class T>
bool read_row(const Run& run, const Step& s, char* arena, int64_t n, int64_t y) {
    const Place<T> out(arena, s.out);
    const int64_t channels = s.in.channels, width = s.out.width, *strides = run.strides;
    const float* in = run.image + n * strides[0] + y * strides[2];
    T* to = out.at(n, y, 0);
    Watch watch;
    if (out.pixel == 4 && strides[3] == 1 && width >= WIDTH) {
        for (int64_t done = 0; done < width; done += WIDTH) {
            const int64_t x = std::min(done, width - WIDTH);  // the last are read again rather than one by one
            F<WIDTH> v[4];
            for (int c = 0; c < 4; c++) v[c] = c < channels ? load<WIDTH>(in + c * strides[1] + x) : zero<WIDTH>();
            watch(v[0] * v[0] + v[1] * v[1] + (v[2] * v[2] + v[3] * v[3]));
            store_pixels(to + x * 4, v);
        }
        return watch.finite();
    }
    float seen = 0;
    for (int64_t x = 0; x < width; x++, to += out.pixel, in += strides[3])
        for (int64_t c = 0; c < s.out.channels; c++) {
            const F<1> v = c < channels ? load<1>(in + c * strides[1]) : F<1>{};
            seen += v[0] * v[0] * 0.0f;
            store<1>(to + c, v);
        }
    return seen == 0;
}

// A map of bytes has one zero point if it has a border.
template <class T>
void clear_border(Map map, char* arena, int64_t batch, int value) {
    map.first = 0;  // of the whole concatenation, if it is part of one
    const Place<T> place(arena, map);
    const int64_t b = map.border;
    for (int64_t n = 0; n < batch; n++)
        for (int64_t y = -b; y < map.height + b; y++) {
            const bool inside = y >= 0 && y < map.height;
            std::memset(place.at(n, y, -b), value, sizeof(T) * place.pixel * (inside ? b : map.width + 2 * b));
            if (inside) std::memset(place.at(n, y, map.width), value, sizeof(T) * place.pixel * b);
        }
}

// Of one value of a product's rows, where maps have values of `usual` bytes.
INLINE int64_t row_value(const Step& s, int64_t usual) { return s.scale ? 1 : usual; }

// Bytes of a row of a product: rows that are made have all channels that the map has, though the product may read fewer.
INLINE int64_t row_bytes(const Step& s, int64_t usual) {
    return (makes_rows(s) ? s.in.channels : s.runs * s.length) * row_value(s, usual);
}

// Whether threads share the panels of a step rather than its pixels, of which there are too few for that.
INLINE bool shares_panels(const Step& s, int64_t batch) {
    return s.kind == CONVOLUTION && s.weights && !makes_rows(s) && batch * s.out.height * s.out.width <= ROWS;
}

// How many pixels (or panels, or rows, or vectors) one claim takes, and how many of them there are.
struct Tiles {
    int64_t size, total;
    template <class T>
    static Tiles of(const Step& s, int64_t batch, int threads, T) {
        switch (s.kind) {
            case CONVOLUTION: {
                if (shares_panels(s, batch)) {
                    int64_t panels = 0;
                    for (int64_t c = 0; c < s.out.channels; panels++) c += s.panels[panels].channels;
                    return {1, panels};
                }
                const int64_t pixels = batch * s.out.height * s.out.width;
                const int64_t fit = TILE_BYTES / row_bytes(s, sizeof(T));
                const int64_t most = std::min(MOST_PIXELS, std::max<int64_t>(8 * ROWS, fit / PIXEL_GROUP * PIXEL_GROUP));
                // As many claims as make equal shares of all threads.
                const int64_t claims = (pixels + most * threads - 1) / (most * threads) * threads;
                return {((pixels + claims - 1) / claims + PIXEL_GROUP - 1) / PIXEL_GROUP * PIXEL_GROUP, pixels};
            }
            case MEAN: return {1, batch * s.in.channels / WIDTH};
            default: return {1, batch * s.out.height};
        }
    }
};

// The scratch that a tile of a step takes. Tiles (AMX) read and copy whole groups of rows.
template <class T>
int64_t tile_bytes(const Run& run, const Step& s) {
    constexpr bool copies = PIXEL_GROUP > 1;
    if (s.kind != CONVOLUTION || !(makes_rows(s) || (copies && s.weights))) return 0;
    const int64_t pixels = shares_panels(s, run.batch) ? run.batch * s.out.height * s.out.width
                                                       : Tiles::of(s, run.batch, run.threads, T{}).size;
    return (pixels + PIXEL_GROUP - 1) / PIXEL_GROUP * PIXEL_GROUP * row_bytes(s, sizeof(T));
}

template <class T>
bool run_tile(const Run& run, const Step& s, int64_t begin, int64_t end, char* scratch) {
    const int64_t height = s.out.height;
    constexpr bool with_bytes = std::is_same_v<T, bf16>;
    switch (s.kind) {
        case CONVOLUTION: {
            const Tile tile = shares_panels(s, run.batch) ? Tile{0, run.batch * height * s.out.width, begin, end}
                                                          : Tile{begin, end, 0, s.out.channels};
            if constexpr (with_bytes) {
                if (s.scale)
                    return s.out_bytes ? convolve_tile<T, uint8_t, uint8_t>(s, tile, run.arena, scratch)
                                       : convolve_tile<T, uint8_t, T>(s, tile, run.arena, scratch);
                if (s.out_bytes) return convolve_tile<T, T, uint8_t>(s, tile, run.arena, scratch);
            }
            return s.float_out ? convolve_tile<T, T, float>(s, tile, run.arena, scratch)
                               : convolve_tile<T, T, T>(s, tile, run.arena, scratch);
        }
        case POOL: return pool_row<true, T>(s, run.arena, begin / height, begin % height);
        case AVERAGE: return pool_row<false, T>(s, run.arena, begin / height, begin % height);
        case SUM:
            if constexpr (with_bytes)
                if (s.out_bytes) return sum_row<T, uint8_t>(s, run.arena, begin / height, begin % height);
            return sum_row<T, T>(s, run.arena, begin / height, begin % height);
        case COPY: return copy_row<T>(s, run.arena, begin / height, begin % height), true;
        case MEAN: {
            const int64_t vectors = s.in.channels / WIDTH;
            return mean_of<T>(s, run.arena, begin / vectors, begin % vectors * WIDTH);
        }
        default: return read_row<T>(run, s, run.arena, begin / height, begin % height);
    }
}

template <class T>
bool run_share(const Run& run, Team& team, int index, int threads) {
    char* scratch = run.arena + run.scratch + index * run.scratch_bytes;
    const int64_t own_bytes = run.scratch_bytes - MEMBER_BYTES;
    bool finite = true;
#ifdef NATIVE_AMX
    Configuration configuration;
#endif
    for (int64_t i = 0; i < run.count; i++) {
        const Step& s = run.steps[i];
        const Tiles tiles = Tiles::of(s, run.batch, run.threads, T{});
        const int64_t work = FENCED ? 2 * i + 1 : i;
#ifdef NATIVE_AMX
        if (s.kind == CONVOLUTION) configuration.use(row_value(s, sizeof(T)));
#endif
        if (FENCED) {
            if (index == 0) allow_maps<T>(run, s, true);
            allow(false, scratch, own_bytes);
            allow(true, scratch, tile_bytes<T>(run, s));
            team.wait(work - 1, index, threads);
        }
        if (index == threads - 1 && s.out.border) {
            if (s.out_bytes)
                clear_border<uint8_t>(s.out, run.arena, run.batch, static_cast<int>(s.out_bytes[s.out.channels]));
            else
                clear_border<T>(s.out, run.arena, run.batch, 0);
        }
        const int64_t parts = (tiles.total + tiles.size - 1) / tiles.size;
        for (int64_t part; (part = team.claim(work, parts, index, threads)) < parts;)
            finite &= run_tile<T>(run, s, part * tiles.size, std::min((part + 1) * tiles.size, tiles.total), scratch);
        team.wait(work, index, threads);
        if (FENCED && index == 0) allow_maps<T>(run, s, false);
    }
    allow(true, scratch, own_bytes);
    return finite;
}

constexpr int64_t LINE = 64;

template <class T>
int64_t scratch_bytes_as(const Run& run) {
    int64_t most = 0;
    for (int64_t i = 0; i < run.count; i++) most = std::max(most, tile_bytes<T>(run, run.steps[i]));
    return (most + LINE - 1) / LINE * LINE + MEMBER_BYTES;
}

template <class T>
bool has_room_as(const Run& run, Fault& fault) {
    Room room(run, sizeof(T), WIDTH, fault);
    for (int64_t i = 0; i < run.count; i++)
        if (!room.enough(i)) return false;
    return room.within(SCRATCH, scratch_bytes_as<T>(run), run.scratch_bytes) &&
           room.within(ARENA, run.scratch + run.threads * run.scratch_bytes, run.arena_bytes);
}

int64_t scratch_bytes(const Run& run) {
#ifndef NATIVE_AMX  // whose plans all hold bfloat16
    if (!run.bf16) return scratch_bytes_as<float>(run);
#endif
    return scratch_bytes_as<bf16>(run);
}

bool has_room(const Run& run, Fault& fault) {
#ifndef NATIVE_AMX
    if (!run.bf16) return has_room_as<float>(run, fault);
#endif
    return has_room_as<bf16>(run, fault);
}

bool run_plan(const Run& run) {
    std::atomic<bool> finite{true};
    Team team(run.arena + run.scratch + run.scratch_bytes - MEMBER_BYTES, run.scratch_bytes, run.threads);
    allow_arena(run, false);
    const auto share = [&](int index, int threads) {
#ifndef NATIVE_AMX
        if (!run.bf16) return run_share<float>(run, team, index, threads);
#endif
        return run_share<bf16>(run, team, index, threads);
    };
    on_all_threads(run.threads, [&](int index, int threads) {
        if (!share(index, threads)) finite.store(false, std::memory_order_relaxed);
    });
    allow_arena(run, true);
    return finite;
}

}  // namespace NATIVE_ISA
