// Runs a plan: a whole network as a list of steps over one arena, for inference.
//
// Maps lie channels-last with their channels filled up to whole vectors, and a border of zeros where the step that reads
// them pads. A convolution is a matrix product whose rows are addressed in the map itself, one run of memory a kernel
// row; a separable convolution writes its depthwise part for one tile of pixels into the thread's own cache and
// multiplies it from there. Threads claim tiles, and wait for each other between two steps only.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace NATIVE_ISA {

constexpr int ROWS = WIDTH >= 8 ? 6 : 2;           // pixels that are multiplied together
constexpr int VECTORS = WIDTH == 8 ? 2 : 4;        // vectors of output channels: a panel
constexpr int64_t PANEL = VECTORS * WIDTH;
constexpr int64_t MOST_PIXELS = 384;               // in a tile, up to a group of rows
constexpr int64_t TILE_BYTES = 256 << 10;          // of rows to multiply: they stay in the second-level cache

template <class T>
struct Place {
    T* origin;  // of pixel (0, 0) of the first image
    int64_t image, row, pixel;
    Place(char* arena, const Map& map)
        : image((map.height + 2 * map.border) * (map.width + 2 * map.border) * map.pixel),
          row((map.width + 2 * map.border) * map.pixel),
          pixel(map.pixel) {
        origin = reinterpret_cast<T*>(arena + map.offset) + map.border * (row + pixel) + map.first;
    }
    T* at(int64_t n, int64_t y, int64_t x) const { return origin + n * image + y * row + x * pixel; }
};

INLINE F<WIDTH> activate(F<WIDTH> v, int activation) {
    switch (activation) {
        case RELU: return relu<WIDTH>(v);
        case RELU6: {
            const F<WIDTH> six = zero<WIDTH>() + 6.0f;
            v = relu<WIDTH>(v);
            return select<WIDTH>(v > six, six, v);
        }
        case ELU:
            for (int i = 0; i < WIDTH; i++) v[i] = v[i] > 0 ? v[i] : std::expm1(v[i]);
            return v;
        default: return v;
    }
}

// sums[ROWS][N] = rows times panel: `runs` stretches of `length` values of each row, `step` apart, and the panel's
// [runs * length][N * WIDTH].
template <int N>
INLINE void multiply(const float* const* rows, int64_t runs, int64_t step, int64_t length, const float* panel,
                     F<WIDTH> (*sums)[VECTORS]) {
    F<WIDTH> sum[ROWS][N];
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < N; n++) sum[m][n] = zero<WIDTH>();
    for (int64_t run = 0; run < runs; run++) {
        const float* a[ROWS];
        for (int m = 0; m < ROWS; m++) a[m] = rows[m] + run * step;
        for (int64_t k = 0; k < length; k++, panel += N * WIDTH) {
            F<WIDTH> b[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) b[n] = load_once<WIDTH>(panel + n * WIDTH);
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; m++) {
                const F<WIDTH> value = zero<WIDTH>() + a[m][k];
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) sum[m][n] += value * b[n];
            }
        }
    }
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < N; n++) sums[m][n] = sum[m][n];
}

// The same in bfloat16, two values of a row at a time: the panel is [runs * length / 2][N * WIDTH][2].
template <int N>
INLINE void multiply(const bf16* const* rows, int64_t runs, int64_t step, int64_t length, const bf16* panel,
                     F<WIDTH> (*sums)[VECTORS]) {
    F<WIDTH> sum[ROWS][N];
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < N; n++) sum[m][n] = zero<WIDTH>();
    for (int64_t run = 0; run < runs; run++) {
        const bf16* a[ROWS];
        for (int m = 0; m < ROWS; m++) a[m] = rows[m] + run * step;
        for (int64_t k = 0; k < length; k += 2, panel += 2 * N * WIDTH) {
            F<WIDTH> b[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) b[n] = load_once<WIDTH>(reinterpret_cast<const float*>(panel) + n * WIDTH);
#ifdef NATIVE_AVX512BF16
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; m++) {
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
            for (int n = 0; n < N; n++) {
                even[n] = (F<WIDTH>)((U)b[n] << 16);
                odd[n] = (F<WIDTH>)((U)b[n] & 0xffff0000u);
            }
            for (int m = 0; m < ROWS; m++) {
                const F<WIDTH> first = zero<WIDTH>() + load<1>(a[m] + k)[0];
                const F<WIDTH> second = zero<WIDTH>() + load<1>(a[m] + k + 1)[0];
                for (int n = 0; n < N; n++) sum[m][n] += first * even[n] + second * odd[n];
            }
#endif
        }
    }
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < N; n++) sums[m][n] = sum[m][n];
}

template <class T>
void multiply_by_width(int64_t vectors, const T* const* rows, int64_t runs, int64_t step, int64_t length, const T* panel,
                       F<WIDTH> (*sums)[VECTORS]) {
    switch (vectors) {
        case 1: return multiply<1>(rows, runs, step, length, panel, sums);
        case 2: return multiply<2>(rows, runs, step, length, panel, sums);
#if WIDTH != 8
        case 3: return multiply<3>(rows, runs, step, length, panel, sums);
        default: return multiply<4>(rows, runs, step, length, panel, sums);
#endif
    }
}

// One tile of `pixels` pixels: every panel times every row, with bias, residual and activation on the way out.
template <class T, class Out>
void finish_tile(const Step& s, const T* const* rows, int64_t step, const T* const* residual, Out* const* out,
                 int64_t pixels) {
    const T* panel = static_cast<const T*>(s.weights);
    const int64_t depth = s.runs * s.length;
    for (int64_t c = 0; c < s.out.channels; c += PANEL) {
        const int64_t vectors = std::min(PANEL, s.out.channels - c) / WIDTH;
        for (int64_t first = 0; first < pixels; first += ROWS) {
            const int64_t count = std::min<int64_t>(ROWS, pixels - first);
            const T* group[ROWS];
            for (int m = 0; m < ROWS; m++) group[m] = rows[first + std::min<int64_t>(m, count - 1)];
            F<WIDTH> sums[ROWS][VECTORS];
            multiply_by_width(vectors, group, s.runs, step, s.length, panel, sums);
            for (int64_t m = 0; m < count; m++)
                for (int64_t n = 0; n < vectors; n++) {
                    F<WIDTH> v = sums[m][n] + load<WIDTH>(s.bias + c + n * WIDTH);
                    if (residual) v += load<WIDTH>(residual[first + m] + c + n * WIDTH);
                    store<WIDTH>(out[first + m] + c + n * WIDTH, activate(v, s.activation));
                }
        }
        panel += depth * vectors * WIDTH;
    }
}

// `X` pixels side by side of the depthwise convolution, all channels, with the ReLU before and the activation behind.
template <class T, int K, int X>
INLINE void depthwise_pixels(const Step& s, const T* in, int64_t row, int stride, int kernel, T* out) {
    const int size = K ? K : kernel;
    const int64_t C = s.in.channels, pixel = s.in.pixel;
    const F<WIDTH> floor = zero<WIDTH>() + (s.relu_first ? 0.0f : -HUGE_VALF);
    for (int64_t c = 0; c < C; c += WIDTH) {
        F<WIDTH> sum[X];
        for (int x = 0; x < X; x++) sum[x] = s.between_bias ? load<WIDTH>(s.between_bias + c) : zero<WIDTH>();
        for (int i = 0; i < size; i++) {
            const T* line = in + i * row + c;
            const float* taps = s.depthwise + i * size * C + c;
            if constexpr (K > 0 && X > 1) {
                F<WIDTH> column[2 * (X - 1) + K];
#pragma GCC unroll 16
                for (int j = 0; j < 2 * (X - 1) + K; j++) {
                    if (stride == 1 && j >= X - 1 + K) break;
                    const F<WIDTH> v = load<WIDTH>(line + j * pixel);
                    column[j] = select<WIDTH>(v < floor, floor, v);
                }
#pragma GCC unroll 8
                for (int j = 0; j < K; j++) {
                    const F<WIDTH> tap = load_once<WIDTH>(taps + j * C);
#pragma GCC unroll 8
                    for (int x = 0; x < X; x++) sum[x] += tap * column[x * stride + j];
                }
            } else {
                for (int j = 0; j < size; j++) {
                    const F<WIDTH> tap = load<WIDTH>(taps + j * C);
                    for (int x = 0; x < X; x++) {
                        const F<WIDTH> v = load<WIDTH>(line + (x * stride + j) * pixel);
                        sum[x] += tap * select<WIDTH>(v < floor, floor, v);
                    }
                }
            }
        }
        for (int x = 0; x < X; x++) store<WIDTH>(out + x * C + c, activate(sum[x], s.between));
    }
}

template <class T>
void depthwise_tile(const Step& s, const Place<T>& in, int64_t begin, int64_t end, T* out) {
    constexpr int X = 4;
    const int64_t height = s.out.height, width = s.out.width, C = s.in.channels;
    for (int64_t p = begin; p < end;) {
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        const T* from = in.at(n, y * s.stride - s.pad_top, x * s.stride - s.pad_left);
        const int64_t left = std::min(width - x, end - p);
        int64_t done = 1;
        if (left >= X && s.kernel_height == 3 && s.stride <= 2) {
            done = X;
            if (s.stride == 1)
                depthwise_pixels<T, 3, X>(s, from, in.row, 1, 3, out);
            else
                depthwise_pixels<T, 3, X>(s, from, in.row, 2, 3, out);
        } else {
            depthwise_pixels<T, 0, 1>(s, from, in.row, s.stride, s.kernel_height, out);
        }
        p += done;
        out += done * C;
    }
}

// A convolution, or a separable one whose depthwise part goes into `scratch` first.
template <class T, class Out>
void convolve_tile(const Step& s, char* arena, int64_t begin, int64_t end, T* scratch) {
    const Place<T> in(arena, s.in), residual(arena, s.residual);
    const Place<Out> out(arena, s.out);
    const T *rows[MOST_PIXELS + ROWS], *added[MOST_PIXELS + ROWS];
    Out* to[MOST_PIXELS + ROWS];
    const int64_t height = s.out.height, width = s.out.width;
    if (s.depthwise) depthwise_tile(s, in, begin, end, scratch);
    for (int64_t p = begin; p < end; p++) {
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        rows[p - begin] = s.depthwise ? scratch + (p - begin) * s.in.channels
                                      : in.at(n, y * s.stride - s.pad_top, x * s.stride - s.pad_left);
        to[p - begin] = out.at(n, y, x);
        added[p - begin] = residual.at(n, y, x);
    }
    if (!s.weights) {
        for (int64_t p = 0; p < end - begin; p++)
            for (int64_t c = 0; c < s.out.channels; c += WIDTH) {
                const F<WIDTH> v = load<WIDTH>(rows[p] + c);
                store<WIDTH>(to[p] + c, activate(s.residual.offset < 0 ? v : v + load<WIDTH>(added[p] + c), s.activation));
            }
        return;
    }
    finish_tile(s, rows, in.row, s.residual.offset < 0 ? nullptr : added, to, end - begin);
}

// A row of windows' largest values, or of their means.
template <class T>
void pool_row(const Step& s, char* arena, int64_t n, int64_t y) {
    const bool largest = s.kind == POOL;
    const Place<T> in(arena, s.in), out(arena, s.out);
    const int64_t top = std::max<int64_t>(0, y * s.stride - s.pad_top);
    const int64_t bottom = std::min(s.in.height, y * s.stride - s.pad_top + s.kernel_height);
    for (int64_t x = 0; x < s.out.width; x++) {
        const int64_t left = std::max<int64_t>(0, x * s.stride - s.pad_left);
        const int64_t right = std::min(s.in.width, x * s.stride - s.pad_left + s.kernel_width);
        for (int64_t c = 0; c < s.in.channels; c += WIDTH) {
            F<WIDTH> result = largest ? zero<WIDTH>() - HUGE_VALF : zero<WIDTH>();
            for (int64_t i = top; i < bottom; i++)
                for (int64_t j = left; j < right; j++) {
                    const F<WIDTH> v = load<WIDTH>(in.at(n, i, j) + c);
                    result = largest ? select<WIDTH>(v > result, v, result) : result + v;
                }
            if (!largest) result /= static_cast<float>(s.count_padding ? s.kernel_height * s.kernel_width
                                                                       : (bottom - top) * (right - left));
            store<WIDTH>(out.at(n, y, x) + c, result);
        }
    }
}

// activation(in + residual), a row of the map.
template <class T>
void sum_row(const Step& s, char* arena, int64_t n, int64_t y) {
    const Place<T> in(arena, s.in), residual(arena, s.residual), out(arena, s.out);
    for (int64_t x = 0; x < s.out.width; x++)
        for (int64_t c = 0; c < s.out.channels; c += WIDTH) {
            F<WIDTH> v = load<WIDTH>(in.at(n, y, x) + c);
            if (s.residual.offset >= 0) v += load<WIDTH>(residual.at(n, y, x) + c);
            store<WIDTH>(out.at(n, y, x) + c, activate(v, s.activation));
        }
}

template <class T>
void mean_of(const Step& s, char* arena, int64_t n, int64_t c) {
    const Place<T> in(arena, s.in), out(arena, s.out);
    F<WIDTH> sum = zero<WIDTH>();
    for (int64_t y = 0; y < s.in.height; y++)
        for (int64_t x = 0; x < s.in.width; x++) sum += load<WIDTH>(in.at(n, y, x) + c);
    store<WIDTH>(out.at(n, 0, 0) + c, sum / static_cast<float>(s.in.height * s.in.width));
}

// The image, [N, C, H, W] by its strides, into the plan's own layout.
template <class T>
void read_row(const Run& run, const Step& s, char* arena, int64_t n, int64_t y) {
    const Place<T> out(arena, s.out);
    for (int64_t x = 0; x < s.out.width; x++)
        for (int64_t c = 0; c < s.out.channels; c++) {
            const float v = c < s.in.channels
                                ? run.image[n * run.strides[0] + c * run.strides[1] + y * run.strides[2] + x * run.strides[3]]
                                : 0.0f;
            store<1>(out.at(n, y, x) + c, F<1>{v});
        }
}

template <class T>
void clear_border(Map map, char* arena, int64_t batch) {
    map.first = 0;  // of the whole concatenation, if it is part of one
    const Place<T> place(arena, map);
    const int64_t b = map.border;
    for (int64_t n = 0; n < batch; n++)
        for (int64_t y = -b; y < map.height + b; y++) {
            const bool inside = y >= 0 && y < map.height;
            std::memset(place.at(n, y, -b), 0, sizeof(T) * place.pixel * (inside ? b : map.width + 2 * b));
            if (inside) std::memset(place.at(n, y, map.width), 0, sizeof(T) * place.pixel * b);
        }
}

// How many pixels (or rows, or vectors) one claim takes, and how many claims there are.
struct Tiles {
    int64_t size, total;
    template <class T>
    static Tiles of(const Step& s, int64_t batch, int threads, T) {
        switch (s.kind) {
            case CONVOLUTION: {
                const int64_t pixels = batch * s.out.height * s.out.width;
                const int64_t fit = TILE_BYTES / static_cast<int64_t>(sizeof(T) * s.runs * s.length);
                const int64_t most = std::min(MOST_PIXELS, std::max<int64_t>(8 * ROWS, fit));
                // As many claims as make equal shares of all threads, each a whole number of row groups.
                const int64_t claims = (pixels + most * threads - 1) / (most * threads) * threads;
                const int64_t groups = (pixels + ROWS - 1) / ROWS;
                return {(groups + claims - 1) / claims * ROWS, pixels};
            }
            case MEAN: return {1, batch * s.in.channels / WIDTH};
            default: return {1, batch * s.out.height};
        }
    }
};

template <class T>
void run_tile(const Run& run, const Step& s, int64_t begin, int64_t end, T* scratch) {
    const int64_t height = s.out.height;
    switch (s.kind) {
        case CONVOLUTION:
            return s.float_out ? convolve_tile<T, float>(s, run.arena, begin, end, scratch)
                               : convolve_tile<T, T>(s, run.arena, begin, end, scratch);
        case POOL:
        case AVERAGE: return pool_row<T>(s, run.arena, begin / height, begin % height);
        case SUM: return sum_row<T>(s, run.arena, begin / height, begin % height);
        case MEAN: {
            const int64_t vectors = s.in.channels / WIDTH;
            return mean_of<T>(s, run.arena, begin / vectors, begin % vectors * WIDTH);
        }
        default: return read_row<T>(run, s, run.arena, begin / height, begin % height);
    }
}

template <class T>
void run_share(const Run& run, Team& team, int index, int threads) {
    T* scratch = reinterpret_cast<T*>(run.arena + run.scratch + index * run.scratch_bytes);
    for (int64_t i = 0; i < run.count; i++) {
        const Step& s = run.steps[i];
        const Tiles tiles = Tiles::of(s, run.batch, run.threads, T{});
        if (index == threads - 1 && s.out.border) clear_border<T>(s.out, run.arena, run.batch);
        for (;;) {
            const int64_t begin = team.claim(i) * tiles.size;
            if (begin >= tiles.total) break;
            run_tile<T>(run, s, begin, std::min(begin + tiles.size, tiles.total), scratch);
        }
        team.wait(threads);
    }
}

void run_plan(const Run& run) {
    Team team(run.claims, run.count);
    on_all_threads(run.threads, [&](int index, int threads) {
        run.bf16 ? run_share<bf16>(run, team, index, threads) : run_share<float>(run, team, index, threads);
    });
}

}  // namespace NATIVE_ISA
