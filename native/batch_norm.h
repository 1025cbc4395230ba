// Batch norm of a channels-last map in training, fused with the residual sum and the ReLU after it.
//
// It takes two passes over memory forwards (statistics; normalise) and two backwards (sums; gradient). Statistics are
// taken in chunks of rows: float32 sums of x minus the mean of the chunk's first rows, so that a large mean costs no
// precision. The chunks are merged in float64, in their order. Chunks depend on the shape alone, so the result is the
// same bits for any number of threads.
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
    int64_t size(int64_t chunk, int64_t num_rows) const { return std::min(rows, num_rows - chunk * rows); }
};

constexpr int64_t BLOCK = 4;  // rows that are computed together, so that a channel's parameters are loaded once for all
constexpr int64_t SOON = 8;   // rows until what is prefetched is read: the hardware does not follow BLOCK rows at once

// Calls body(vector, its first channel, first row, number of rows) for all of a range of rows. The number is BLOCK,
// which the compiler knows, except at the end.
template <int W, class Body>
INLINE void for_blocks(int64_t begin, int64_t end, int64_t channels, const Body& body) {
    int64_t row = begin;
    for (; row + BLOCK <= end; row += BLOCK)
        for (int64_t v = 0; v < num_vectors<W>(channels); v++) body(v, vector_offset<W>(v, channels), row, BLOCK);
    if (row < end)
        for (int64_t v = 0; v < num_vectors<W>(channels); v++) body(v, vector_offset<W>(v, channels), row, end - row);
}

// Accumulators have `lanes` columns, W for each vector. The last vector may repeat channels of the one before. Its sums
// for them are the same, so it does not matter which of the two is written last.
template <int W>
INLINE D<W> wide(const float* p) {
    return __builtin_convertvector(load<W>(p), D<W>);
}

template <int W, class T>
void statistics_as(const Statistics& p) {
    const T* x = static_cast<const T*>(p.x);
    const int64_t C = p.channels, N = p.rows, lanes = num_vectors<W>(C) * W;
    const Chunks chunks(N, C);
    std::unique_ptr<float[]> sums(new float[chunks.count * 3 * lanes]());
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        for (int64_t chunk = first; chunk < last; chunk++) {
            const int64_t begin = chunk * chunks.rows, end = begin + chunks.size(chunk, N), few = std::min(begin + 8, end);
            float *shifts = &sums[chunk * 3 * lanes], *s1 = shifts + lanes, *s2 = s1 + lanes;
            for (int64_t v = 0; v < lanes / W; v++) {
                F<W> sum = zero<W>();
                for (int64_t row = begin; row < few; row++) sum += load<W>(x + row * C + vector_offset<W>(v, C));
                store<W>(shifts + v * W, sum / float(few - begin));
            }
            for_blocks<W>(begin, end, C, [&](int64_t v, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> shift = load<W>(shifts + v * W);
                F<W> a = load<W>(s1 + v * W), b = load<W>(s2 + v * W);
                for (int64_t i = 0; i < num; i++) {
                    const int64_t at = (row + i) * C + c;
                    __builtin_prefetch(x + at + SOON * C);
                    const F<W> d = load<W>(x + at) - shift;
                    a += d;
                    b += d * d;
                }
                store<W>(s1 + v * W, a);
                store<W>(s2 + v * W, b);
            });
        }
    });
    float *means = p.moments, *inv_std = means + C, *scale = inv_std + C, *shift = scale + C;
    parallel_for(p.num_threads, lanes / W, [&](int64_t first, int64_t last) {
        for (int64_t v = first; v < last; v++) {
            D<W> total = {}, squares = {};
            for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
                const float* sum = &sums[chunk * 3 * lanes + v * W];
                total += wide<W>(sum) * double(chunks.size(chunk, N)) + wide<W>(sum + lanes);
            }
            const D<W> mean = total / double(N);
            for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
                const float* sum = &sums[chunk * 3 * lanes + v * W];
                const double n = chunks.size(chunk, N);
                const D<W> s1 = wide<W>(sum + lanes), away = wide<W>(sum) + s1 / n - mean;
                squares += wide<W>(sum + 2 * lanes) - s1 * s1 / n + away * away * n;
            }
            for (int64_t i = 0; i < W; i++) {
                const int64_t c = vector_offset<W>(v, C) + i;
                if (c < v * W) continue;  // the running statistics must move once only
                const double square = squares[i] < 0 ? 0 : squares[i], m = p.momentum;
                const double inverse = 1 / std::sqrt(square / N + p.eps);
                means[c] = static_cast<float>(mean[i]);
                inv_std[c] = static_cast<float>(inverse);
                scale[c] = static_cast<float>(p.weight[c] * inverse);
                shift[c] = static_cast<float>(p.bias[c] - mean[i] * p.weight[c] * inverse);
                p.running_mean[c] = static_cast<float>(m * mean[i] + (1 - m) * p.running_mean[c]);
                p.running_var[c] = static_cast<float>(m * square / (N - 1) + (1 - m) * p.running_var[c]);
            }
        }
    });
}

enum class Relu { no, yes };
enum class Residual { no, yes };

template <int W, class T, Relu has_relu, Residual has_residual>
void normalise_with(const Normalise& p) {
    const T *x = static_cast<const T*>(p.x), *residual = static_cast<const T*>(p.residual);
    T* y = static_cast<T*>(p.y);
    const int64_t C = p.channels;
    const float *scale = p.moments + 2 * C, *shift = scale + C;
    const Chunks chunks(p.rows, C);
    const F<W> ceiling = zero<W>() + ceiling_of(p.relu);
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        // From the end: the rows that the statistics read last are still in the cache.
        for (int64_t chunk = last - 1; chunk >= first; chunk--) {
            const int64_t begin = chunk * chunks.rows, end = begin + chunks.size(chunk, p.rows);
            for_blocks<W>(begin, end, C, [&](int64_t, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> a = load<W>(scale + c), b = load<W>(shift + c);
                for (int64_t i = 0; i < num; i++) {
                    const int64_t at = (row + i) * C + c;
                    __builtin_prefetch(x + at + SOON * C);
                    F<W> z = load<W>(x + at) * a + b;
                    if (has_residual == Residual::yes) {
                        __builtin_prefetch(residual + at + SOON * C);
                        z += load<W>(residual + at);
                    }
                    store<W>(y + at, has_relu == Relu::yes ? at_most<W>(relu<W>(z), ceiling) : z);
                }
            });
        }
    });
}

template <int W, class T>
void normalise_as(const Normalise& p) {
    if (p.relu && p.residual) return normalise_with<W, T, Relu::yes, Residual::yes>(p);
    if (p.relu) return normalise_with<W, T, Relu::yes, Residual::no>(p);
    if (p.residual) return normalise_with<W, T, Relu::no, Residual::yes>(p);
    normalise_with<W, T, Relu::no, Residual::no>(p);
}

// Where the ReLU's mask comes from: nowhere, from x through the affine map, or from the stored output.
enum class Mask { none, input, output };

template <int W, class T, Mask mask>
struct MaskedGradient {
    const T *const dy, *const y;
    const F<W> ceiling;
    template <class Params>
    explicit MaskedGradient(const Params& p)
        : dy(static_cast<const T*>(p.dy)), y(static_cast<const T*>(p.y)), ceiling(zero<W>() + ceiling_of(p.relu)) {}
    INLINE F<W> operator()(int64_t at, F<W> x, F<W> scale, F<W> shift) const {
        const F<W> g = load<W>(dy + at);
        if (mask == Mask::input) return relu_gradient<W>(x * scale + shift, ceiling, g);
        if (mask == Mask::output) return relu_gradient<W>(load<W>(y + at), ceiling, g);
        return g;
    }
};

template <int W, class T, Mask mask>
void reduce_with(const Reduce& p) {
    const T* x = static_cast<const T*>(p.x);
    const int64_t C = p.channels, N = p.rows, lanes = num_vectors<W>(C) * W;
    const float *means = p.moments, *scale = means + 2 * C, *shift = scale + C;
    const Chunks chunks(N, C);
    const MaskedGradient<W, T, mask> masked(p);
    std::unique_ptr<float[]> sums(new float[chunks.count * 2 * lanes]);
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        for (int64_t chunk = first; chunk < last; chunk++) {
            const int64_t begin = chunk * chunks.rows, end = begin + chunks.size(chunk, N);
            float *s1 = &sums[chunk * 2 * lanes], *s2 = s1 + lanes;
            std::fill(s1, s1 + 2 * lanes, 0.0f);
            for_blocks<W>(begin, end, C, [&](int64_t v, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> mean = load<W>(means + c), a = load<W>(scale + c), b = load<W>(shift + c);
                F<W> sum = load<W>(s1 + v * W), dot = load<W>(s2 + v * W);
                for (int64_t i = 0; i < num; i++) {
                    const int64_t at = (row + i) * C + c;
                    __builtin_prefetch(x + at + SOON * C), __builtin_prefetch(masked.dy + at + SOON * C);
                    const F<W> in = load<W>(x + at), g = masked(at, in, a, b);
                    sum += g;
                    dot += g * (in - mean);
                }
                store<W>(s1 + v * W, sum);
                store<W>(s2 + v * W, dot);
            });
        }
    });
    for (int64_t v = 0; v < lanes / W; v++)
        for (int64_t k = 0; k < 2; k++) {
            D<W> total = {};
            for (int64_t chunk = 0; chunk < chunks.count; chunk++) total += wide<W>(&sums[(chunk * 2 + k) * lanes + v * W]);
            std::memcpy(p.sums + k * C + vector_offset<W>(v, C), &total, sizeof total);
        }
}

// The gradient at x is g * scale + (x - mean) * slope + constant, with a slope and a constant for each channel.
struct NormSlope {
    std::unique_ptr<float[]> slope, constant;
    NormSlope(const float* moments, const double* sums, int64_t rows, int64_t C)
        : slope(new float[C]), constant(new float[C]) {
        for (int64_t c = 0; c < C; c++) {
            const double inv_std = moments[C + c], scale = moments[2 * C + c];
            slope[c] = static_cast<float>(-sums[C + c] / rows * inv_std * inv_std * scale);
            constant[c] = static_cast<float>(-sums[c] / rows * scale);
        }
    }
};

template <int W, class T, Mask mask>
void norm_gradient_with(const NormGradient& p) {
    const T* x = static_cast<const T*>(p.x);
    T *dx = static_cast<T*>(p.dx), *dresidual = static_cast<T*>(p.dresidual);
    const int64_t C = p.channels;
    const float *means = p.moments, *scale = means + 2 * C, *shift = scale + C;
    for (int64_t c = 0; c < C; c++) {
        p.dbias[c] = static_cast<float>(p.sums[c]);
        p.dweight[c] = static_cast<float>(p.sums[C + c] * p.moments[C + c]);
    }
    const NormSlope by(p.moments, p.sums, p.rows, C);
    const MaskedGradient<W, T, mask> masked(p);
    const Chunks chunks(p.rows, C);
    parallel_for(p.num_threads, chunks.count, [&](int64_t first, int64_t last) {
        for (int64_t chunk = last - 1; chunk >= first; chunk--) {
            const int64_t begin = chunk * chunks.rows, end = begin + chunks.size(chunk, p.rows);
            for_blocks<W>(begin, end, C, [&](int64_t v, int64_t c, int64_t row, int64_t num) INLINE_LAMBDA {
                const F<W> mean = load<W>(means + c), a = load<W>(scale + c), b = load<W>(shift + c);
                const F<W> slope = load<W>(&by.slope[c]), constant = load<W>(&by.constant[c]);
                // In place, the channels that the vector before has in common with this one are done.
                const typename Vec<W>::I done = first_lanes<W>(p.dx == p.dy ? v * W - c : 0);
                for (int64_t i = 0; i < num; i++) {
                    const int64_t at = (row + i) * C + c;
                    __builtin_prefetch(x + at + SOON * C), __builtin_prefetch(masked.dy + at + SOON * C);
                    const F<W> in = load<W>(x + at), g = masked(at, in, a, b);
                    if (dresidual) store<W>(dresidual + at, g);
                    store<W>(dx + at, select<W>(done, load<W>(dx + at), g * a + ((in - mean) * slope + constant)));
                }
            });
        }
    });
}

template <int W, class T>
void reduce_as(const Reduce& p) {
    if (p.relu && p.y) return reduce_with<W, T, Mask::output>(p);
    if (p.relu) return reduce_with<W, T, Mask::input>(p);
    reduce_with<W, T, Mask::none>(p);
}

template <int W, class T>
void norm_gradient_as(const NormGradient& p) {
    if (p.relu && p.y) return norm_gradient_with<W, T, Mask::output>(p);
    if (p.relu) return norm_gradient_with<W, T, Mask::input>(p);
    norm_gradient_with<W, T, Mask::none>(p);
}

}  // namespace NATIVE_ISA
