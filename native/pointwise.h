// The products of a pointwise (1x1) convolution in training: its result, and the gradients of its input and its weights.
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

// ---- The result, and the gradient of the input: rows times packed weights

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
    for (int64_t word = 0; word < words; word++, panel += N * WIDTH) {
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

// ---- The gradient of the weights: a sum over pixels

constexpr int SIDE = WIDTH / 2;               // output channels that are multiplied together
constexpr int BREADTH = WIDTH == 16 ? 3 : 2;  // vectors of input channels, their slab
constexpr int64_t SLAB = BREADTH * WIDTH;
constexpr int64_t BLOCK_WORDS = 128;          // of pixels: so long stays a slab in the first-level cache
constexpr int64_t SUMS_BYTES = 5 << 20;       // of the sums of all chunks
constexpr int64_t CHUNK_ROWS = 1024, MOST_CHUNKS = 32;

#ifdef NATIVE_AVX512
// Two vectors of words, each of the values of two rows, in half the instructions.
INLINE void two_words_of(float* low, float* high, const bf16* first, const bf16* second) {
    alignas(64) static constexpr auto ORDER = [] {
        struct { uint16_t low[32], high[32]; } order{};
        for (int i = 0; i < 32; i++) order.low[i] = i / 2 + i % 2 * 32, order.high[i] = order.low[i] + 16;
        return order;
    }();
    const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
    _mm512_storeu_si512(low, _mm512_permutex2var_epi16(a, _mm512_load_si512(ORDER.low), b));
    _mm512_storeu_si512(high, _mm512_permutex2var_epi16(a, _mm512_load_si512(ORDER.high), b));
}
#endif

// The words of `count` channels from `x` on, which is a block of rows, in vectors: put(step, vector) says where they go.
// The last vector has words of further channels, too, as long as the map has not come to its `end`.
template <class T, class Put>
INLINE void pack_pixels(const T* x, int64_t stride, int64_t rows, int64_t count, const T* end, const Put& put) {
    for (int64_t step = 0; step < divided(rows, VALUES<T>); step++) {
        const T* const row = x + step * VALUES<T> * stride;
        const bool both = step * VALUES<T> + 1 < rows;
        for (int64_t c = 0; c < count; c += WIDTH) {
            const T *const first = row + c, *const second = both ? first + stride : nullptr, *const last = both ? second : first;
#ifdef NATIVE_AVX512
            if constexpr (sizeof(T) == 2)
                if (both && c + WIDTH < count && last + 2 * WIDTH <= end) {
                    two_words_of(put(step, c / WIDTH), put(step, c / WIDTH + 1), first, second);
                    c += WIDTH;
                    continue;
                }
#endif
            T* const words = reinterpret_cast<T*>(put(step, c / WIDTH));
            if (last + WIDTH <= end)
                words_of(words, first, second);
            else
                some_words_of(words, first, second, std::min<int64_t>(WIDTH, count - c));
        }
    }
}

// sums [SIDE][N * WIDTH] += a [steps][WIDTH], of which SIDE are read, times b [steps][N * WIDTH]. The `next` sums and, a
// line a step, what comes `then` are brought into the cache.
template <class T, int N>
__attribute__((noinline)) void add_outer(const float* a, const float* b, int64_t steps, float* sums, const float* next,
                                         const void* then) {
    F<WIDTH> sum[SIDE][N];
#pragma GCC unroll 16
    for (int m = 0; m < SIDE; m++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) __builtin_prefetch(next + (m * N + n) * WIDTH, 1);
#pragma GCC unroll 16
    for (int m = 0; m < SIDE; m++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[m][n] = load<WIDTH>(sums + (m * N + n) * WIDTH);
    const char* ahead = static_cast<const char*>(then);
    int64_t left = steps;
    do {
        const T* values[SIDE];
        F<WIDTH> vectors[N];
#pragma GCC unroll 16
        for (int m = 0; m < SIDE; m++) values[m] = reinterpret_cast<const T*>(a + m);
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) vectors[n] = load_once<WIDTH>(b + n * WIDTH);
        add_products(sum, values, 0, vectors);
        __builtin_prefetch(ahead, 0, 2);
        ahead += 64, a += WIDTH, b += N * WIDTH;
    } while (--left);
#pragma GCC unroll 16
    for (int m = 0; m < SIDE; m++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) store<WIDTH>(sums + (m * N + n) * WIDTH, sum[m][n]);
}

// How the sum is cut: chunks of pixels, each with sums of its own, for groups of SIDE output channels.
struct Cut {
    const int64_t groups, width;  // width: input channels in whole vectors
    int64_t rows, chunks;         // rows: of a chunk
    explicit Cut(const Pointwise& p) : groups(divided(p.out_channels, SIDE)), width(divided(p.channels, WIDTH) * WIDTH) {
        const int64_t most = std::min({MOST_CHUNKS, SUMS_BYTES / (4 * size()), p.rows / CHUNK_ROWS});
        for (chunks = 1; 2 * chunks <= most;) chunks *= 2;  // so that 2, 4, ... threads have whole chunks
        rows = divided(divided(p.rows, chunks), 2) * 2;
        chunks = divided(p.rows, rows);
    }
    int64_t size() const { return groups * SIDE * width; }  // sums of a chunk: [groups][slabs][SIDE][channels of a slab]
};

// The memory of the rows that come next, of x and then of dy, handed out by numbers of cache lines in the last of so
// many `calls`: sooner, it would have left the cache again.
class Ahead {
  public:
    template <class T>
    Ahead(const T* x, int64_t x_channels, const T* dy, int64_t dy_channels, int64_t rows, int64_t calls)
        : at(reinterpret_cast<const char*>(x)), left(divided(rows * x_channels * static_cast<int64_t>(sizeof(T)), 64)),
          then(reinterpret_cast<const char*>(dy)),
          then_left(divided(rows * dy_channels * static_cast<int64_t>(sizeof(T)), 64)), calls(calls) {}
    // So many lines, or `otherwise` while it is too soon.
    const void* take(int64_t lines, const void* otherwise) {
        if (calls-- * lines > left + then_left + 2 * lines) return otherwise;
        if (left <= 0) at = then, left = then_left, then_left = 0;
        const void* const start = at;
        at += 64 * lines, left -= lines;
        return start;
    }

  private:
    const char* at;
    int64_t left;
    const char* then;
    int64_t then_left, calls;
};

// Adds to the `sums` of a chunk, those of the groups from `first` on, what the pixels from `begin` to `end` come to.
template <class T>
void add_pixels(const Pointwise& p, const Cut& cut, int64_t begin, int64_t end, int64_t first, int64_t last, float* sums) {
    const int64_t K = p.out_channels, M = p.channels, channel = first * SIDE;
    const T *const x = static_cast<const T*>(p.x), *const dy = static_cast<const T*>(p.dy);
    const int64_t count = std::min(K, last * SIDE) - channel, vectors = divided(count, WIDTH);
    const int64_t block = std::min(BLOCK_WORDS * VALUES<T>, end - begin);
    const Words gradients(divided(block, VALUES<T>) * vectors * WIDTH), pixels(divided(block, VALUES<T>) * SLAB);
    for (int64_t row = begin; row < end; row += block) {
        const int64_t rows = std::min(block, end - row), steps = divided(rows, VALUES<T>);
        Ahead ahead(x + (row + block) * M, M, dy + (row + block) * K, count == K ? K : 0, std::min(block, end - row - block),
                    divided(cut.width, SLAB) * (last - first));
        pack_pixels(dy + row * K + channel, K, rows, count, dy + p.rows * K,
                    [&](int64_t step, int64_t v) INLINE_LAMBDA { return gradients.get() + (v * steps + step) * WIDTH; });
        for (int64_t c = 0; c < M; c += SLAB)
            with_vectors<BREADTH>((cut.width - c) / WIDTH, [&](auto known) INLINE_LAMBDA {
                constexpr int N = decltype(known)::value;
                pack_pixels(x + row * M + c, M, rows, std::min<int64_t>(N * WIDTH, M - c), x + p.rows * M,
                            [&](int64_t step, int64_t v) INLINE_LAMBDA { return pixels.get() + (step * N + v) * WIDTH; });
                for (int64_t group = first; group < last; group++) {
                    const int64_t at = (group - first) * SIDE;
                    float* const to = sums + group * SIDE * cut.width + c * SIDE;
                    const float* const a = gradients.get() + at / WIDTH * steps * WIDTH + at % WIDTH;
                    add_outer<T, N>(a, pixels.get(), steps, to, to + SIDE * cut.width, ahead.take(steps, a));
                }
            });
    }
}

template <class T>
void pointwise_weight_as(const Pointwise& p) {
    const Cut cut(p);
    const Words sums(cut.chunks * cut.size());
    parallel_for(p.num_threads, cut.chunks * cut.groups, [&](int64_t begin, int64_t end) {
        std::fill(sums.get() + begin * SIDE * cut.width, sums.get() + end * SIDE * cut.width, 0.0f);
        for (int64_t unit = begin; unit < end;) {
            const int64_t chunk = unit / cut.groups, group = unit % cut.groups;
            const int64_t last = std::min(cut.groups, group + end - unit), row = chunk * cut.rows;
            add_pixels<T>(p, cut, row, std::min(p.rows, row + cut.rows), group, last, sums.get() + chunk * cut.size());
            unit += last - group;
        }
    });
    parallel_for(p.num_threads, p.out_channels, [&](int64_t first, int64_t last) {
        for (int64_t k = first; k < last; k++)
            for (int64_t c = 0; c < p.channels; c += SLAB) {
                const int64_t breadth = std::min(SLAB, cut.width - c);
                const float* from = sums.get() + k / SIDE * SIDE * cut.width + c * SIDE + k % SIDE * breadth;
                float* const to = p.dweight + k * p.channels + c;
                for (int64_t i = 0; i < std::min(SLAB, p.channels - c); i++) {
                    float sum = 0;
                    for (int64_t chunk = 0; chunk < cut.chunks; chunk++) sum += from[chunk * cut.size() + i];
                    to[i] = sum;
                }
            }
    });
}

}  // namespace NATIVE_ISA
