// Depthwise convolution of a channels-last map in training, with the batch norm and the ReLU before it applied as x is
// read.
//
// A band of rows is computed one vector of channels at a time. The last K input rows are staged in a ring buffer in the
// cache: float32, normalised, clamped and padded, so that the inner loop has only multiply-adds. The backward pass stages
// dy, with zeros between its pixels for the stride. One pass over the input then gives both gradients and the two sums
// that the batch norm needs, so x, dy and dx cross memory once each.
#pragma once

#include "batch_norm.h"

namespace NATIVE_ISA {

// Per-channel arrays in the order of lanes, so that the inner loops need not treat the overlapping last vector apart.
template <int W>
class Lanes {
  public:
    Lanes(int64_t channels, int64_t arrays) : size(num_vectors<W>(channels) * W), data(new float[arrays * size]) {}
    float* operator[](int64_t array) const { return &data[array * size]; }
    void fill(int64_t array, const float* values, float otherwise, int64_t channels) const {
        for (int64_t v = 0; v < size / W; v++)
            for (int64_t i = 0; i < W; i++)
                (*this)[array][v * W + i] = values ? values[vector_offset<W>(v, channels) + i] : otherwise;
    }
    const int64_t size;

  private:
    std::unique_ptr<float[]> data;
};

// What x becomes as it is read: relu(scale * x + shift) for one vector of channels, where both parts are optional.
template <int W>
struct Entry {
    F<W> scale, shift, mean, floor, ceiling;
    INLINE F<W> operator()(F<W> x) const { return at_most<W>(at_least<W>(x * scale + shift, floor), ceiling); }
};

template <int W>
class Entries {
  public:
    Entries(const Depthwise& p) : lanes(p.window.channels, 3), floor(floor_of(p.relu)), ceiling(ceiling_of(p.relu)) {
        const int64_t C = p.window.channels;
        lanes.fill(0, p.moments ? p.moments + 2 * C : nullptr, 1, C);
        lanes.fill(1, p.moments ? p.moments + 3 * C : nullptr, 0, C);
        lanes.fill(2, p.moments, 0, C);
    }
    Entry<W> operator[](int64_t v) const {
        return {load<W>(lanes[0] + v * W), load<W>(lanes[1] + v * W), load<W>(lanes[2] + v * W), zero<W>() + floor,
                zero<W>() + ceiling};
    }

  private:
    const Lanes<W> lanes;
    const float floor, ceiling;
};

template <int W>
struct Unchanged {
    INLINE F<W> operator()(F<W> x) const { return x; }
};

constexpr int64_t GROUP = 16;  // vectors computed together: memory is slow to give a few of each pixel's

// The rows that were staged last, for each vector of a group.
template <int W>
class Ring {
  public:
    Ring(int64_t columns, int rows) : columns(columns), rows(rows), data(new float[GROUP * rows * columns * W + 16]()) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(data.get()) + 63;
        aligned = reinterpret_cast<float*>(address & ~uintptr_t{63});
    }
    // The offset of a row of the map (or of the padding before it) in the ring, and the start of a vector's ring.
    int64_t slot(int64_t row) const { return (row + 64 * rows) % rows * columns * W; }
    float* vector(int64_t index) const { return aligned + index * rows * columns * W; }

  private:
    const int64_t columns;
    const int rows;
    std::unique_ptr<float[]> data;
    float* aligned;
};

// Copies a row of `width` pixels to every `step`th column, or zeros where `in` is null. All other columns are zero
// already.
template <int W, class T, class Transform>
INLINE void stage(float* out, const T* in, int64_t width, int64_t C, int64_t step, const Transform& transform) {
    if (!in) {
        for (int64_t w = 0; w < width; w++) store<W>(out + w * step * W, zero<W>());
        return;
    }
    for (int64_t w = 0; w < width; w++) {
        __builtin_prefetch(in + (w + width) * C, 0);  // the next row, too far away for the hardware to prefetch
        store<W>(out + w * step * W, transform(load<W>(in + w * C)));
    }
}

// The weights [channels, K, K] as K * K arrays in the order of lanes, rounded as PyTorch rounds them for a bf16 map.
template <int W>
Lanes<W> taps_of(const Depthwise& p) {
    const int taps = p.window.kernel * p.window.kernel;
    const int64_t C = p.window.channels;
    Lanes<W> lanes(C, taps);
    std::unique_ptr<float[]> tap(new float[C]);
    for (int k = 0; k < taps; k++) {
        for (int64_t c = 0; c < C; c++) tap[c] = p.bf16 ? rounded(p.weight[c * taps + k]) : p.weight[c * taps + k];
        lanes.fill(k, tap.get(), 0, C);
    }
    return lanes;
}

// The units of work: bands of rows of a few images. They depend on the shape alone, not on the threads.
struct Bands {
    int64_t batch, rows, height, images, per_image, count;
    Bands(int64_t batch, int64_t rows) : batch(batch), rows(rows) {
        per_image = (rows - 1) / std::max<int64_t>(8, rows * batch / 32) + 1;
        height = (rows - 1) / per_image + 1;
        images = (batch - 1) / 32 + 1;
        count = ((batch - 1) / images + 1) * per_image;
    }
    // Calls body(image, row, whether it is the band's first, first vector, last vector + 1), row by row for each group.
    template <class Body>
    void each(int64_t band, int64_t vectors, const Body& body) const {
        const int64_t first = band / per_image * images, top = band % per_image * height;
        const int64_t bottom = std::min(rows, top + height);
        for (int64_t n = first; n < std::min(batch, first + images); n++)
            for (int64_t v = 0; v < vectors; v += GROUP)
                for (int64_t row = top; row < bottom; row++) body(n, row, row == top, v, std::min(vectors, v + GROUP));
    }
};

// The side of the kernel: known to the compiler, or, if K is 0, that of the window.
constexpr int MAX_KERNEL = 7;
template <int K>
INLINE int side(const Window& window) {
    return K ? K : window.kernel;
}
template <int K>
constexpr int max_taps = K ? K * K : MAX_KERNEL * MAX_KERNEL;

// P neighbouring output pixels. At stride 1 they share most of their window: every staged vector is loaded once.
template <int W, class T, int K, int S, int P>
INLINE void convolve(const Window& s, const float* const* rows, const F<W>* weight, F<W> bias, T* y) {
    const int size = side<K>(s), stride = S ? S : s.stride;
    F<W> sum[P];
    for (int i = 0; i < P; i++) sum[i] = bias;
    for (int r = 0; r < size; r++)
        if (S == 1 && K)
            for (int column = 0; column < P + K - 1; column++) {
                const F<W> x = load_once<W>(rows[r] + column * W);
                for (int i = 0; i < P; i++)
                    if (column - i >= 0 && column - i < K) sum[i] += x * weight[r * K + column - i];
            }
        else
            for (int k = 0; k < size; k++)
                for (int i = 0; i < P; i++) sum[i] += weight[r * size + k] * load<W>(rows[r] + (i * stride + k) * W);
    for (int i = 0; i < P; i++) {
        __builtin_prefetch(y + (i + s.out_width) * s.channels, 1);
        store<W>(y + i * s.channels, sum[i]);
    }
}

template <int W, class T, int K, int S>
void dw_forward(const Depthwise& p) {
    const Window& s = p.window;
    const int size = side<K>(s);
    const int64_t C = s.channels;
    const Entries<W> entries(p);
    const Lanes<W> weights = taps_of<W>(p), biases(C, 1);
    biases.fill(0, p.bias, 0, C);
    const Bands bands(s.batch, s.out_height);
    parallel_for(p.num_threads, bands.count, [&](int64_t first, int64_t last) {
        const Ring<W> ring(std::max(s.left + s.width, (s.out_width - 1) * s.stride + size), size);
        const auto walk = [&](int64_t n, int64_t h, bool first_row, int64_t v0, int64_t v1) {
            const int size = side<K>(s), taps = size * size;  // known again to the compiler
            const int64_t begin = h * s.stride - s.top;
            int64_t slot[MAX_KERNEL];
            for (int r = 0; r < size; r++) slot[r] = ring.slot(begin + r);
            for (int64_t v = v0; v < v1; v++) {
                const int64_t c = vector_offset<W>(v, C);
                const T* x = static_cast<const T*>(p.x) + n * s.height * s.width * C + c;
                const Entry<W> entry = entries[v];
                for (int r = first_row ? 0 : std::max(0, size - s.stride); r < size; r++) {
                    const int64_t i = begin + r;
                    const T* row = i >= 0 && i < s.height ? x + i * s.width * C : nullptr;
                    stage<W>(ring.vector(v - v0) + slot[r] + s.left * W, row, s.width, C, 1, entry);
                }
                T* y = static_cast<T*>(p.y) + (n * s.out_height + h) * s.out_width * C + c;
                const F<W> bias = load<W>(biases[0] + v * W);
                F<W> weight[max_taps<K>];
                for (int k = 0; k < taps; k++) weight[k] = load<W>(weights[k] + v * W);
                // Four pixels at a time, the last four ending at the row's end, or single ones in a narrower map.
                const int64_t block = s.out_width < 4 ? 1 : 4;
                for (int64_t w = 0; w < s.out_width; w += block) {
                    const int64_t at = std::min(w, s.out_width - block);
                    const float* rows[MAX_KERNEL];
                    for (int r = 0; r < size; r++) rows[r] = ring.vector(v - v0) + slot[r] + at * s.stride * W;
                    if (block == 4)
                        convolve<W, T, K, S, 4>(s, rows, weight, bias, y + at * C);
                    else
                        convolve<W, T, K, S, 1>(s, rows, weight, bias, y + at * C);
                }
            }
        };
        for (int64_t band = first; band < last; band++) bands.each(band, num_vectors<W>(C), walk);
    });
}

// One row of the input: its gradient, and its part of the weights' gradient and of the batch norm's two sums.
template <int W, class T, int K>
INLINE void sweep(const Window& s, const Entry<W>& entry, const float* const* rows, const F<W>* weight, F<W>* sums,
                  const T* x, T* dx) {
    const int size = side<K>(s), taps = size * size;
    for (int64_t w = 0; w < s.width; w++) {
        __builtin_prefetch(x + (w + s.width) * s.channels, 0);
        __builtin_prefetch(dx + (w + s.width) * s.channels, 1);
        const F<W> in = load<W>(x + w * s.channels), y = entry(in);
        F<W> g = zero<W>();
        for (int r = 0; r < size; r++)
            for (int k = 0; k < size; k++) {
                const F<W> dy = load_once<W>(rows[r] + (w + size - 1 - k) * W);
                g += dy * weight[r * size + k];
                sums[r * size + k] += dy * y;
            }
        g = select<W>((y <= entry.floor) | (y >= entry.ceiling), zero<W>(), g);
        sums[taps] += g;
        sums[taps + 1] += g * (in - entry.mean);
        store<W>(dx + w * s.channels, g);
    }
}

template <int W, class T, int K>
void dw_backward(const Depthwise& p) {
    const Window& s = p.window;
    const int size = side<K>(s), taps = size * size, arrays = taps + 2;
    const int64_t C = s.channels, lanes = num_vectors<W>(C) * W;
    const Entries<W> entries(p);
    const Lanes<W> weights = taps_of<W>(p);
    const Bands bands(s.batch, s.height);
    std::unique_ptr<float[]> totals(new float[bands.count * arrays * lanes]);
    parallel_for(p.num_threads, bands.count, [&](int64_t first, int64_t last) {
        const Ring<W> ring(s.width + size - 1 + s.stride, size);
        for (int64_t band = first; band < last; band++) {
            std::fill_n(&totals[band * arrays * lanes], arrays * lanes, 0.0f);
            bands.each(band, lanes / W, [&](int64_t n, int64_t h, bool first_row, int64_t v0, int64_t v1) {
                const int size = side<K>(s), taps = size * size, arrays = taps + 2;  // known again to the compiler
                int64_t slot[MAX_KERNEL], source[MAX_KERNEL];
                for (int r = 0; r < size; r++) {
                    const int64_t i = h + s.top - r;
                    const bool inside = i >= 0 && i % s.stride == 0 && i / s.stride < s.out_height;
                    slot[r] = ring.slot(i);
                    source[r] = inside ? (n * s.out_height + i / s.stride) * s.out_width * C : -1;
                }
                for (int64_t v = v0; v < v1; v++) {
                    const int64_t c = vector_offset<W>(v, C), at = (n * s.height + h) * s.width * C + c;
                    const float* rows[MAX_KERNEL];
                    for (int r = 0; r < size; r++) {
                        rows[r] = ring.vector(v - v0) + slot[r];
                        const T* dy = source[r] < 0 ? nullptr : static_cast<const T*>(p.dy) + source[r] + c;
                        if (r == 0 || first_row)
                            stage<W>(ring.vector(v - v0) + slot[r] + (size - 1 - s.left) * W, dy, s.out_width, C, s.stride,
                                     Unchanged<W>());
                    }
                    float* total = &totals[band * arrays * lanes] + v * W;
                    F<W> weight[max_taps<K>], sums[max_taps<K> + 2];
                    for (int k = 0; k < taps; k++) weight[k] = load<W>(weights[k] + v * W);
                    for (int k = 0; k < arrays; k++) sums[k] = load<W>(total + k * lanes);
                    sweep<W, T, K>(s, entries[v], rows, weight, sums, static_cast<const T*>(p.x) + at,
                                   static_cast<T*>(p.dx) + at);
                    for (int k = 0; k < arrays; k++) store<W>(total + k * lanes, sums[k]);
                }
            });
        }
    });
    parallel_for(p.num_threads, lanes / W, [&](int64_t first, int64_t last) {
        for (int64_t v = first; v < last; v++)
            for (int64_t k = 0; k < arrays; k++) {
                D<W> sum = {};
                for (int64_t band = 0; band < bands.count; band++)
                    sum += wide<W>(&totals[(band * arrays + k) * lanes + v * W]);
                for (int64_t i = 0; i < W; i++) {
                    const int64_t c = vector_offset<W>(v, C) + i;
                    if (c < v * W) continue;  // the vector before writes it
                    if (k < taps)
                        p.dweight[c * taps + k] = static_cast<float>(sum[i]);
                    else if (p.sums)
                        p.sums[(k - taps) * C + c] = sum[i];
                }
            }
    });
}

template <int W, class T>
void depthwise_forward_as(const Depthwise& p) {
    const bool usual = p.window.kernel == 3 && p.window.stride == 1;
    usual ? dw_forward<W, T, 3, 1>(p) : dw_forward<W, T, 0, 0>(p);
}

template <int W, class T>
void depthwise_backward_as(const Depthwise& p) {
    p.window.kernel == 3 ? dw_backward<W, T, 3>(p) : dw_backward<W, T, 0>(p);
}

}  // namespace NATIVE_ISA
