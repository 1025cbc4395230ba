// The gradient of a pointwise convolution's weights in training: a sum over pixels of outer products.
//
// A block of pixels is packed into words, both sides of the product. A slab of input channels then stays in the
// first-level cache while all output channels take their products with it.
#pragma once

#include "pointwise.h"

namespace NATIVE_ISA {

constexpr int SIDE = WIDTH / 2;               // output channels that are multiplied together
constexpr int BREADTH = WIDTH == 16 ? 3 : 2;  // vectors of input channels, their slab, or fewer in the last ones
constexpr int64_t SLAB = BREADTH * WIDTH;
constexpr int64_t BLOCK_WORDS = 128;          // of pixels: so long stays a slab in the first-level cache
constexpr int64_t SUMS_BYTES = 5 << 20;       // of the sums of all chunks
constexpr int64_t CHUNK_ROWS = 1024, MOST_CHUNKS = 32;
constexpr int64_t STEPS_AHEAD = 16;           // steps until what is fetched ahead is read

#ifdef NATIVE_AVX512
// Two vectors of words, each of the values of two rows, in half the instructions.
INLINE Pair<WIDTH> two_words_of(const bf16* first, const bf16* second) {
    alignas(64) static constexpr auto ORDER = [] {
        struct { uint16_t low[32], high[32]; } order{};
        for (int i = 0; i < 32; i++) order.low[i] = i / 2 + i % 2 * 32, order.high[i] = order.low[i] + 16;
        return order;
    }();
    const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
    return {(F<WIDTH>)_mm512_permutex2var_epi16(a, _mm512_load_si512(ORDER.low), b),
            (F<WIDTH>)_mm512_permutex2var_epi16(a, _mm512_load_si512(ORDER.high), b)};
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
                    const Pair<WIDTH> words = two_words_of(first, second);
                    store<WIDTH>(put(step, c / WIDTH), words.first), store<WIDTH>(put(step, c / WIDTH + 1), words.second);
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

// A slab of pixels, [steps][N * WIDTH] words, step by step.
template <int N>
struct Slab {
    const float* words;
    INLINE void operator()(F<WIDTH> (&b)[N]) {
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) b[n] = load_once<WIDTH>(words + n * WIDTH);
        words += N * WIDTH;
    }
};

// The same from rows, of which each step takes as many as a word has values; the words are kept. Between products
// packing takes no time of its own.
template <class T, int N>
struct Rows {
    const T* row;
    const int64_t stride;
    float* words;
    INLINE void operator()(F<WIDTH> (&b)[N]) {
        const T* const second = row + stride;
        int n = 0;
#ifdef NATIVE_AVX512
        if constexpr (sizeof(T) == 2)
            for (; n + 2 <= N; n += 2) {
                const Pair<WIDTH> both = two_words_of(row + n * WIDTH, second + n * WIDTH);
                store<WIDTH>(words + n * WIDTH, b[n] = both.first), store<WIDTH>(words + (n + 1) * WIDTH, b[n + 1] = both.second);
            }
#endif
        for (; n < N; n++) {
            words_of(reinterpret_cast<T*>(words + n * WIDTH), row + n * WIDTH, second + n * WIDTH);
            b[n] = load_once<WIDTH>(words + n * WIDTH);
        }
        row += VALUES<T> * stride, words += N * WIDTH;
    }
};

// sums [SIDE][N * WIDTH] += a [steps][WIDTH], of which SIDE are read, times what `slab` gives a step. The `next` sums and,
// a line a step, what comes `then` are brought into the cache.
template <class T, int N, class Source>
__attribute__((noinline)) void add_outer(const float* a, Source slab, int64_t steps, float* sums, const float* next,
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
        slab(vectors);
        add_products(sum, values, 0, vectors);
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(a + STEPS_AHEAD * WIDTH);
        ahead += 64, a += WIDTH;
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

// The vectors of the next slab, if so many are left: no slab of one, whose sums would wait for each other.
constexpr int64_t in_slab(int64_t left) { return left == BREADTH + 1 ? (left + 1) / 2 : std::min<int64_t>(left, BREADTH); }

// Adds to the `sums` of a chunk, those of the groups from `first` on, what the pixels from `begin` to `end` come to.
template <class T>
void add_pixels(const Pointwise& p, const Cut& cut, int64_t begin, int64_t end, int64_t first, int64_t last, float* sums) {
    const int64_t K = p.out_channels, M = p.channels, channel = first * SIDE;
    const T *const x = static_cast<const T*>(p.x), *const dy = static_cast<const T*>(p.dy);
    const int64_t count = std::min(K, last * SIDE) - channel, vectors = divided(count, WIDTH);
    const int64_t block = std::min(BLOCK_WORDS * VALUES<T>, end - begin);
    const Words gradients((divided(block, VALUES<T>) + 1) * vectors * WIDTH), pixels(divided(block, VALUES<T>) * SLAB);
    for (int64_t row = begin; row < end; row += block) {
        const int64_t rows = std::min(block, end - row), steps = divided(rows, VALUES<T>);
        const int64_t height = (steps + 1) * WIDTH;  // one more, or the vectors of a step would share a set of the cache
        Ahead ahead(x + (row + block) * M, M, dy + (row + block) * K, count == K ? K : 0, std::min(block, end - row - block),
                    divided(cut.width, SLAB) * (last - first));
        pack_pixels(dy + row * K + channel, K, rows, count, dy + p.rows * K,
                    [&](int64_t step, int64_t v) INLINE_LAMBDA { return gradients.get() + v * height + step * WIDTH; });
        for (int64_t c = 0, breadth; c < M; c += breadth * WIDTH) {
            breadth = in_slab((cut.width - c) / WIDTH);
            with_vectors<BREADTH>(breadth, [&](auto known) INLINE_LAMBDA {
                constexpr int N = decltype(known)::value;
                const bool whole = rows % VALUES<T> == 0 && c + N * WIDTH <= M;
                if (!whole)
                    pack_pixels(x + row * M + c, M, rows, std::min<int64_t>(N * WIDTH, M - c), x + p.rows * M,
                                [&](int64_t step, int64_t v) INLINE_LAMBDA { return pixels.get() + (step * N + v) * WIDTH; });
                for (int64_t group = first; group < last; group++) {
                    const int64_t at = (group - first) * SIDE;
                    float *const to = sums + group * SIDE * cut.width + c * SIDE, *const next = to + SIDE * cut.width;
                    const float* const a = gradients.get() + at / WIDTH * height + at % WIDTH;
                    const void* const then = ahead.take(steps, a);
                    if (whole && group == first)
                        add_outer<T, N>(a, Rows<T, N>{x + row * M + c, M, pixels.get()}, steps, to, next, then);
                    else
                        add_outer<T, N>(a, Slab<N>{pixels.get()}, steps, to, next, then);
                }
            });
        }
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
            for (int64_t c = 0, breadth; c < p.channels; c += breadth) {
                breadth = in_slab((cut.width - c) / WIDTH) * WIDTH;
                const float* from = sums.get() + k / SIDE * SIDE * cut.width + c * SIDE + k % SIDE * breadth;
                float* const to = p.dweight + k * p.channels + c;
                for (int64_t i = 0; i < std::min(breadth, p.channels - c); i++) {
                    float sum = 0;
                    for (int64_t chunk = 0; chunk < cut.chunks; chunk++) sum += from[chunk * cut.size() + i];
                    to[i] = sum;
                }
            }
    });
}

}  // namespace NATIVE_ISA
