// Batch norm of a channels-last map in training, fused with the ReLU and the residual sum behind it.
//
// Two passes over memory forwards (statistics; normalise) and two backwards (reductions; gradient). Statistics are
// taken in chunks of rows: float32 sums of x minus the chunk's first row, which no large mean can swamp, merged in
// float64 in the order of the chunks. Chunks depend on the shape alone: the bits are the same for any thread count.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace NATIVE_ISA {

struct Chunks {
    int64_t rows, count;
    Chunks(int64_t num_rows, int64_t channels) {
        rows = std::max<int64_t>(8, std::min<int64_t>(num_rows / 16, 65536 / channels)) & ~int64_t{7};
        count = (num_rows + rows - 1) / rows;
    }
};

constexpr int64_t BLOCK = 4;  // rows worked on together, so a channel's parameters are loaded once for all of them

// Calls body(offset, first_row, num) over a range of rows, with num = BLOCK known to the compiler except at the end.
template <int W, class Body>
INLINE void for_blocks(int64_t begin, int64_t end, int64_t channels, const Body& body) {
    int64_t row = begin;
    for (; row + BLOCK <= end; row += BLOCK)
        for (int64_t v = 0; v < num_vectors<W>(channels); v++) body(v, vector_offset<W>(v, channels), row, BLOCK);
    if (row < end)
        for (int64_t v = 0; v < num_vectors<W>(channels); v++) body(v, vector_offset<W>(v, channels), row, end - row);
}

// Lane layout of the accumulators: W for each vector, and of the last, overlapping vector only the end counts.
template <int W>
INLINE int64_t lane(int64_t channel, int64_t channels) {
    int64_t last = num_vectors<W>(channels) - 1;
    return channel < last * W ? channel : last * W + channel - (channels - W);
}

template <int W, class T>
void bn_statistics(const BatchNormForward& p) {
    const T* x = static_cast<const T*>(p.x);
    const int64_t C = p.channels, N = p.rows, lanes = num_vectors<W>(C) * W;
    const Chunks chunks(N, C);
    std::unique_ptr<float[]> sums(new float[chunks.count * 2 * lanes]);
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        for (int64_t chunk = first; chunk < last; chunk++) {
            const int64_t begin = chunk * chunks.rows, end = std::min(N, begin + chunks.rows);
            float *s1 = &sums[chunk * 2 * lanes], *s2 = s1 + lanes;
            std::fill(s1, s1 + 2 * lanes, 0.0f);
            for_blocks<W>(begin, end, C, [&](int64_t v, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> shift = load<W>(x + begin * C + c);
                F<W> a = load<W>(s1 + v * W), b = load<W>(s2 + v * W);
                for (int64_t i = 0; i < num; i++) {
                    F<W> d = load<W>(x + (row + i) * C + c) - shift;
                    a += d;
                    b += d * d;
                }
                store<W>(s1 + v * W, a);
                store<W>(s2 + v * W, b);
            });
        }
    });
    parallel_for(C * chunks.count > 16384 ? p.num_threads : 1, C, [&](int64_t first, int64_t last) {
        for (int64_t c = first; c < last; c++) {
            const int64_t at = lane<W>(c, C);
            double total = 0, m2 = 0;
            for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
                const int64_t begin = chunk * chunks.rows, n = std::min(N, begin + chunks.rows) - begin;
                total += sums[chunk * 2 * lanes + at] + double(n) * scalar(x[begin * C + c]);
            }
            const double mean = total / N;
            for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
                const int64_t begin = chunk * chunks.rows, n = std::min(N, begin + chunks.rows) - begin;
                const double s1 = sums[chunk * 2 * lanes + at], s2 = sums[chunk * 2 * lanes + lanes + at];
                const double away = scalar(x[begin * C + c]) + s1 / n - mean;
                m2 += s2 - s1 * s1 / n + n * away * away;
            }
            m2 = m2 < 0 ? 0 : m2;
            p.mean[c] = static_cast<float>(mean);
            p.inv_std[c] = static_cast<float>(1 / std::sqrt(m2 / N + p.eps));
            p.running_mean[c] += static_cast<float>(p.momentum * (mean - p.running_mean[c]));
            p.running_var[c] += static_cast<float>(p.momentum * (m2 / (N - 1) - p.running_var[c]));
        }
    });
}

template <int W, class T, bool Relu, bool Residual>
void bn_normalise(const BatchNormForward& p) {
    const T *x = static_cast<const T*>(p.x), *residual = static_cast<const T*>(p.residual);
    T* y = static_cast<T*>(p.y);
    const int64_t C = p.channels;
    std::unique_ptr<float[]> scale(new float[C]);
    for (int64_t c = 0; c < C; c++) scale[c] = p.weight[c] * p.inv_std[c];
    const Chunks chunks(p.rows, C);
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        // Backwards: the rows the statistics read last are the ones still in the cache.
        for (int64_t chunk = last - 1; chunk >= first; chunk--) {
            const int64_t begin = chunk * chunks.rows, end = std::min(p.rows, begin + chunks.rows);
            for_blocks<W>(begin, end, C, [&](int64_t, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> mean = load<W>(p.mean + c), a = load<W>(&scale[c]), b = load<W>(p.bias + c);
                for (int64_t i = 0; i < num; i++) {
                    const int64_t at = (row + i) * C + c;
                    F<W> z = (load<W>(x + at) - mean) * a + b;
                    if (Residual) z += load<W>(residual + at);
                    store<W>(y + at, Relu ? relu<W>(z) : z);
                }
            });
        }
    });
}

// Where the ReLU's mask comes from: nowhere, from x through the affine map, or from the stored output.
enum class Mask { none, input, output };

template <int W, class T, Mask mask>
INLINE F<W> masked_gradient(const BatchNormBackward& p, int64_t at, F<W> centred, F<W> a, F<W> b) {
    const F<W> g = load<W>(static_cast<const T*>(p.dy) + at);
    if (mask == Mask::input) return relu_gradient<W>(centred * a + b, g);
    if (mask == Mask::output) return relu_gradient<W>(load<W>(static_cast<const T*>(p.y) + at), g);
    return g;
}

template <int W, class T, Mask mask>
void bn_backward(const BatchNormBackward& p) {
    const T* x = static_cast<const T*>(p.x);
    T *dx = static_cast<T*>(p.dx), *dresidual = static_cast<T*>(p.dresidual);
    const int64_t C = p.channels, N = p.rows, lanes = num_vectors<W>(C) * W;
    const Chunks chunks(N, C);
    std::unique_ptr<float[]> sums(new float[chunks.count * 2 * lanes]), scale(new float[3 * C]);
    float *slope = &scale[C], *constant = &scale[2 * C];
    for (int64_t c = 0; c < C; c++) scale[c] = p.weight[c] * p.inv_std[c];
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        for (int64_t chunk = first; chunk < last; chunk++) {
            const int64_t begin = chunk * chunks.rows, end = std::min(N, begin + chunks.rows);
            float *s1 = &sums[chunk * 2 * lanes], *s2 = s1 + lanes;
            std::fill(s1, s1 + 2 * lanes, 0.0f);
            for_blocks<W>(begin, end, C, [&](int64_t v, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> mean = load<W>(p.mean + c), a = load<W>(&scale[c]), b = load<W>(p.bias + c);
                F<W> sum = load<W>(s1 + v * W), dot = load<W>(s2 + v * W);
                for (int64_t i = 0; i < num; i++) {
                    const int64_t at = (row + i) * C + c;
                    const F<W> centred = load<W>(x + at) - mean;
                    const F<W> g = masked_gradient<W, T, mask>(p, at, centred, a, b);
                    sum += g;
                    dot += g * centred;
                }
                store<W>(s1 + v * W, sum);
                store<W>(s2 + v * W, dot);
            });
        }
    });
    for (int64_t c = 0; c < C; c++) {
        const int64_t at = lane<W>(c, C);
        double sum = 0, dot = 0;
        for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
            sum += sums[chunk * 2 * lanes + at];
            dot += sums[chunk * 2 * lanes + lanes + at];
        }
        const double inv_std = p.inv_std[c];
        p.dweight[c] = static_cast<float>(dot * inv_std);
        p.dbias[c] = static_cast<float>(sum);
        slope[c] = static_cast<float>(-dot / N * inv_std * inv_std * scale[c]);
        constant[c] = static_cast<float>(-sum / N * scale[c]);
    }
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        for (int64_t chunk = last - 1; chunk >= first; chunk--) {
            const int64_t begin = chunk * chunks.rows, end = std::min(N, begin + chunks.rows);
            for_blocks<W>(begin, end, C, [&](int64_t, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> mean = load<W>(p.mean + c), a = load<W>(&scale[c]), b = load<W>(p.bias + c);
                const F<W> k = load<W>(slope + c), d = load<W>(constant + c);
                for (int64_t i = 0; i < num; i++) {
                    const int64_t at = (row + i) * C + c;
                    const F<W> centred = load<W>(x + at) - mean;
                    const F<W> g = masked_gradient<W, T, mask>(p, at, centred, a, b);
                    if (mask == Mask::output && dresidual) store<W>(dresidual + at, g);
                    store<W>(dx + at, g * a + (centred * k + d));
                }
            });
        }
    });
}

template <int W, class T>
void bn_forward_as(const BatchNormForward& p) {
    bn_statistics<W, T>(p);
    if (p.relu && p.residual) return bn_normalise<W, T, true, true>(p);
    if (p.relu) return bn_normalise<W, T, true, false>(p);
    if (p.residual) return bn_normalise<W, T, false, true>(p);
    bn_normalise<W, T, false, false>(p);
}

template <int W, class T>
void bn_backward_as(const BatchNormBackward& p) {
    if (p.relu && p.y) return bn_backward<W, T, Mask::output>(p);
    if (p.relu) return bn_backward<W, T, Mask::input>(p);
    bn_backward<W, T, Mask::none>(p);
}

// The widest vector that fits into a row; narrow maps would otherwise overlap more than they advance.
#define BY_WIDTH_AND_TYPE(function, p)                                              \
    if (p.channels >= WIDTH) return p.bf16 ? function<WIDTH, bf16>(p) : function<WIDTH, float>(p); \
    if (p.channels >= 4) return p.bf16 ? function<4, bf16>(p) : function<4, float>(p);             \
    return p.bf16 ? function<1, bf16>(p) : function<1, float>(p);

void batch_norm_forward(const BatchNormForward& p) { BY_WIDTH_AND_TYPE(bn_forward_as, p) }
void batch_norm_backward(const BatchNormBackward& p) { BY_WIDTH_AND_TYPE(bn_backward_as, p) }

}  // namespace NATIVE_ISA
