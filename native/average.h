// Averages of a channels-last map in training: over windows (average pooling of stride 1, and its gradient), and over
// whole maps, as squeeze-and-excitation takes them.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace NATIVE_ISA {

// A value of the result is out_rows[h] * out_columns[w] times the sum of rows[i] * columns[j] * x over its window.
template <int W, class T>
void box_as(const Box& p) {
    const int64_t C = p.channels, edge = p.kernel / 2;
    parallel_for(p.num_threads, p.batch * p.height, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const int64_t h = row % p.height, top = std::max<int64_t>(0, h - edge), bottom = std::min(p.height, h + edge + 1);
            const T* const image = static_cast<const T*>(p.x) + (row - h) * p.width * C;
            T* const out = static_cast<T*>(p.y) + row * p.width * C;
            for (int64_t w = 0; w < p.width; w++) {
                const int64_t left = std::max<int64_t>(0, w - edge), right = std::min(p.width, w + edge + 1);
                const float factor = p.out_rows[h] * p.out_columns[w];
                for (int64_t v = 0; v < num_vectors<W>(C); v++) {
                    const int64_t c = vector_offset<W>(v, C);
                    F<W> sum = zero<W>();
                    for (int64_t i = top; i < bottom; i++) {
                        F<W> line = zero<W>();
                        for (int64_t j = left; j < right; j++) line += load<W>(image + (i * p.width + j) * C + c) * p.columns[j];
                        sum += line * p.rows[i];
                    }
                    store<W>(out + w * C + c, sum * factor);
                }
            }
        }
    });
}

constexpr int64_t GATED = 4;  // vectors of a unit of work, two cache lines of bfloat16
constexpr int64_t PART = 64;  // pixels that are added up before they are added to others, for the sake of precision

template <int W, class T>
void channel_sums_as(const Gate& p) {
    const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
    const int64_t C = p.channels, vectors = num_vectors<W>(C), units = (vectors + GATED - 1) / GATED;
    parallel_for(p.num_threads, p.batch * units, [&](int64_t first, int64_t last) {
        for (int64_t unit = first; unit < last; unit++) {
            const int64_t image = unit / units, from = unit % units * GATED, count = std::min(GATED, vectors - from);
            F<W> total[GATED] = {};
            for (int64_t pixel = 0; pixel < p.pixels; pixel += PART) {
                F<W> sum[GATED] = {};
                for (int64_t i = pixel; i < std::min(p.pixels, pixel + PART); i++)
                    for (int64_t v = 0; v < count; v++) {
                        const int64_t at = (image * p.pixels + i) * C + vector_offset<W>(from + v, C);
                        sum[v] += dy ? load<W>(x + at) * load<W>(dy + at) : load<W>(x + at);
                    }
                for (int64_t v = 0; v < count; v++) total[v] += sum[v];
            }
            for (int64_t v = 0; v < count; v++) store<W>(p.sums + image * C + vector_offset<W>(from + v, C), total[v]);
        }
    });
}

// y = x * gate + summand, one gate and one summand for each image and channel.
template <int W, class T>
void channel_scale_as(const Gate& p) {
    const T* x = static_cast<const T*>(p.x);
    T* y = static_cast<T*>(p.y);
    const int64_t C = p.channels;
    parallel_for(p.num_threads, p.batch * p.pixels, [&](int64_t first, int64_t last) {
        for (int64_t pixel = first; pixel < last; pixel++)
            for (int64_t v = 0; v < num_vectors<W>(C); v++) {
                const int64_t c = vector_offset<W>(v, C), channel = pixel / p.pixels * C + c;
                const F<W> summand = p.summand ? load<W>(p.summand + channel) : zero<W>();
                store<W>(y + pixel * C + c, load<W>(x + pixel * C + c) * load<W>(p.gate + channel) + summand);
            }
    });
}

}  // namespace NATIVE_ISA
