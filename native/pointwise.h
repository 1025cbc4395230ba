// The products of a pointwise (1x1) convolution in training: its result, and the gradient of its input.
// pointwise_weight.h has that of its weights.
//
// Maps are rows of pixels. All are multiplied in words of 4 bytes: one float32, or two bfloat16 that are next to each
// other along the sum. Weights and their gradient are float32, and so are all sums. How a sum is cut depends on the
// shape alone, never on the threads.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.h"
#include "plan_gemm.h"

namespace NATIVE_ISA {

template <class T>
constexpr int64_t VALUES = 4 / sizeof(T);  // in a word

// Words that begin with a cache line.
class Words {
  public:
    explicit Words(int64_t count) : memory(new float[count + 16]) {}
    float* get() const { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) & ~uintptr_t{63}); }

  private:
    std::unique_ptr<float[]> memory;
};

// Calls body(Constant<N>) for the number of vectors `count`, or for MOST of them.
template <int MOST, class Body>
INLINE void with_vectors(int64_t count, const Body& body) {
    if constexpr (MOST > 1)
        if (count < MOST) return with_vectors<MOST - 1>(count, body);
    body(Constant<MOST>{});
}

constexpr int64_t divided(int64_t count, int64_t size) { return (count + size - 1) / size; }

constexpr int64_t ROWS_BYTES = 256 << 10;  // of rows that stay in the cache while one panel after another multiplies them

// Weights as panels of PANEL columns, each [words of the sum][columns]; the last is as many whole vectors as are needed.
struct Packed {
    const int64_t columns, depth, words;
    const Words memory;
    Packed(int64_t columns, int64_t depth, int64_t words)
        : columns(columns), depth(depth), words(words), memory(divided(columns, WIDTH) * WIDTH * words) {}
    int64_t panels() const { return divided(columns, PANEL); }
    int64_t vectors(int64_t panel) const { return std::min<int64_t>(VECTORS, divided(columns - panel * PANEL, WIDTH)); }
    float* operator[](int64_t panel) const { return memory.get() + panel * PANEL * words; }
};

// A vector of words from the values of two rows, of which the second may be null, or from those of one.
INLINE void words_of(float* words, const float* first, const float*) { store<WIDTH>(words, load<WIDTH>(first)); }
INLINE void words_of(bf16* words, const float* first, const float* second) {
    const auto both = interleaved(load<WIDTH>(first), second ? load<WIDTH>(second) : zero<WIDTH>());
    store_two<WIDTH>(words, both.first, both.second);
}
INLINE void words_of(bf16* words, const bf16* first, const bf16* second) {
    typename Vec<WIDTH>::H low, high = {};
    std::memcpy(&low, first, sizeof low);
    if (second) std::memcpy(&high, second, sizeof high);
    typedef typename Vec<WIDTH>::U U;
    const U both = __builtin_convertvector(low, U) | __builtin_convertvector(high, U) << 16;
    std::memcpy(words, &both, sizeof both);
}

// The same where only `count` values of a row may be read, less than a vector; the others become zeros.
template <class T, class V>
INLINE void some_words_of(T* words, const V* first, const V* second, int64_t count) {
    V rows[2][WIDTH] = {};
    std::memcpy(rows[0], first, count * sizeof(V));
    if (second) std::memcpy(rows[1], second, count * sizeof(V));
    words_of(words, rows[0], rows[1]);
}

// Packs `weight` [depth][columns] for a sum over its rows.
template <class T>
void pack_rows(const float* weight, const Packed& packed, int64_t panel) {
    const int64_t N = packed.vectors(panel);
    for (int64_t word = 0; word < packed.words; word++)
        for (int64_t v = 0; v < N; v++) {
            const int64_t c = panel * PANEL + v * WIDTH, d = word * VALUES<T>;
            T* const words = reinterpret_cast<T*>(packed[panel] + (word * N + v) * WIDTH);
            const float* const first = weight + d * packed.columns + c;
            const float* const second = d + 1 < packed.depth ? first + packed.columns : nullptr;
            if (c + WIDTH <= packed.columns)
                words_of(words, first, second);
            else
                some_words_of(words, first, second, packed.columns - c);
        }
}

// Packs `weight` [columns][depth] for a sum along its rows, in squares that fit into the first-level cache.
template <class T>
void pack_columns(const float* weight, const Packed& packed, int64_t panel) {
    constexpr int64_t SQUARE = 16;
    const int64_t N = packed.vectors(panel), depth = packed.depth;
    T square[SQUARE][SQUARE * VALUES<T>];
    for (int64_t word = 0; word < packed.words; word += SQUARE)
        for (int64_t column = 0; column < N * WIDTH; column += SQUARE) {
            const int64_t width = std::min(SQUARE, N * WIDTH - column), height = std::min(SQUARE, packed.words - word);
            for (int64_t i = 0; i < width; i++) {
                const int64_t c = panel * PANEL + column + i, d = word * VALUES<T>;
                const int64_t left = c < packed.columns ? std::min(depth - d, SQUARE * VALUES<T>) : 0;
                int64_t j = 0;
                for (; j + WIDTH <= left; j += WIDTH) store<WIDTH>(&square[i][j], load<WIDTH>(weight + c * depth + d + j));
                for (; j < left; j++) store<1>(&square[i][j], load<1>(weight + c * depth + d + j));
                for (; j < height * VALUES<T>; j++) store<1>(&square[i][j], zero<1>());
            }
            for (int64_t j = 0; j < height; j++)
                for (int64_t i = 0; i < width; i++)
                    std::memcpy(packed[panel] + (word + j) * N * WIDTH + column + i, &square[i][j * VALUES<T>], 4);
        }
}

// R rows of x, `stride` values apart, times a panel of N vectors, of which `columns` are written.
template <int R, int N, class T>
__attribute__((noinline)) void multiply_rows(const T* x, int64_t stride, int64_t words, const float* panel, T* y,
                                             int64_t out_stride, int64_t columns) {
    F<WIDTH> sum[R][N] = {};
    const T* a[R];
#pragma GCC unroll 16
    for (int m = 0; m < R; m++) a[m] = x + m * stride;
    const char* ahead = reinterpret_cast<const char*>(x + R * stride);  // the rows that come next
    for (int64_t word = 0; word < words; word++, panel += N * WIDTH) {
        __builtin_prefetch(ahead);
        ahead += 4 * R;
        F<WIDTH> b[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) b[n] = load_once<WIDTH>(panel + n * WIDTH);
        add_products(sum, a, word * VALUES<T>, b);
    }
#pragma GCC unroll 16
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[m][n] = settled<WIDTH>(sum[m][n]);
#pragma GCC unroll 16
    for (int m = 0; m < R; m++) {
        T some[WIDTH];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            const int64_t left = columns - n * WIDTH;
            T* const out = y + m * out_stride + n * WIDTH;
            if (left >= WIDTH) {
                store<WIDTH>(out, sum[m][n]);
            } else if (left > 0) {
                store<WIDTH>(some, sum[m][n]);
                std::memcpy(out, some, left * sizeof(T));
            }
        }
    }
}

template <int N, class T>
void multiply_tile(const T* x, int64_t rows, const Packed& packed, int64_t panel, T* y) {
    const int64_t in = packed.depth, out = packed.columns, columns = std::min(PANEL, out - panel * PANEL);
    y += panel * PANEL;
    // The last rows are multiplied together with some before them, once more: ROWS take as long as two alone.
    for (int64_t row = 0; rows >= ROWS && row < rows; row += ROWS) {
        const int64_t at = std::min(row, rows - ROWS);
        multiply_rows<ROWS, N>(x + at * in, in, packed.words, packed[panel], y + at * out, out, columns);
    }
    for (int64_t row = 0; rows < ROWS && row < rows; row++)
        multiply_rows<1, N>(x + row * in, in, packed.words, packed[panel], y + row * out, out, columns);
}

// y = x times the packed weights, for `rows` rows. The depth is a number of whole words.
template <class T>
void multiply_map(const T* x, int64_t rows, const Packed& packed, T* y, int num_threads) {
    const int64_t fitting = ROWS_BYTES / (packed.depth * static_cast<int64_t>(sizeof(T)));
    const int64_t height = std::max<int64_t>(1, fitting / ROWS) * ROWS;
    parallel_for(num_threads, divided(rows, ROWS), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin * ROWS, last = std::min(rows, end * ROWS); row < last; row += height)
            for (int64_t panel = 0; panel < packed.panels(); panel++) {
                const int64_t count = std::min(height, last - row);
                const T* const from = x + row * packed.depth;
                T* const to = y + row * packed.columns;
                with_vectors<VECTORS>(packed.vectors(panel), [&](auto known) INLINE_LAMBDA {
                    multiply_tile<decltype(known)::value>(from, count, packed, panel, to);
                });
            }
    });
}

// y [rows][columns] = x [rows][depth] times the weights, which `pack` packs a panel at a time.
template <class T>
void multiply_packed(const Pointwise& p, const void* x, int64_t depth, void* y, int64_t columns,
                     void (*pack)(const float*, const Packed&, int64_t)) {
    const Packed packed(columns, depth, divided(depth, VALUES<T>));
    parallel_for(p.num_threads, packed.panels(), [&](int64_t first, int64_t last) {
        for (int64_t panel = first; panel < last; panel++) pack(p.weight, packed, panel);
    });
    multiply_map(static_cast<const T*>(x), p.rows, packed, static_cast<T*>(y), p.num_threads);
}

template <class T>
void pointwise_forward_as(const Pointwise& p) {
    multiply_packed<T>(p, p.x, p.channels, p.y, p.out_channels, pack_columns<T>);
}

template <class T>
void pointwise_backward_as(const Pointwise& p) {
    multiply_packed<T>(p, p.dy, p.out_channels, p.dx, p.channels, pack_rows<T>);
}

}  // namespace NATIVE_ISA
