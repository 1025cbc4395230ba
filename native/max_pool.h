// Max pooling of a channels-last map, with the batch norm before it applied as x is read.
//
// For each output a uint8 says which pixel of its window was the largest. In the backward pass every input pixel
// gathers from the windows that cover it. Nothing is scattered, so threads do not race and sums have one order. With
// batch norm the chosen values of x are kept too, and the norm's two sums are taken over the outputs rather than over
// the whole map.
#pragma once

#include <vector>

#include "batch_norm.h"

namespace NATIVE_ISA {

enum class Norm { no, yes };

constexpr int MAX_KERNEL_SIDE = 15;  // a window's pixels are numbered by a uint8

// A pixel of a window: its offset in elements, and its number in the window.
struct Tap {
    int64_t offset;
    int32_t number;
};

// One output pixel, all channels, from its `count` taps in order. Of equal values the first wins; a NaN always wins.
// The pixels at the offsets `soon` are fetched ahead.
template <int W, class T, Norm norm, int Count>
INLINE void choose(const Pool& p, const T* image, const Tap* taps, int count, int64_t out, const int64_t (&soon)[4]) {
    const int64_t C = p.window.channels;
    const float *scale = p.moments + 2 * C, *shift = scale + C;
    for (int64_t v = 0; v < num_vectors<W>(C); v++) {
        const int64_t c = vector_offset<W>(v, C);
        F<W> a = zero<W>(), b = zero<W>();
        if (norm == Norm::yes) a = load<W>(scale + c), b = load<W>(shift + c);
        F<W> chosen = load<W>(image + taps[0].offset + c), best = norm == Norm::yes ? chosen * a + b : chosen;
        typename Vec<W>::I number = (typename Vec<W>::I){} + taps[0].number;
        for (int64_t offset : soon) __builtin_prefetch(image + offset + c);
        for (int k = 1; k < (Count ? Count : count); k++) {
            const F<W> in = load<W>(image + taps[k].offset + c), y = norm == Norm::yes ? in * a + b : in;
            const typename Vec<W>::I better = (y > best) | (y != y);
            best = select<W>(better, y, best);
            if (norm == Norm::yes) chosen = select<W>(better, in, chosen);
            number = better ? (typename Vec<W>::I){} + taps[k].number : number;
        }
        store<W>(static_cast<T*>(p.y) + out + c, best);
        if (norm == Norm::yes) store<W>(static_cast<T*>(p.chosen) + out + c, chosen);
        store_bytes<W>(p.index + out + c, number);
    }
}

template <int W, class T, Norm norm>
void pool_forward_with(const Pool& p) {
    const Window& s = p.window;
    const int64_t C = s.channels;
    std::vector<Tap> inside;  // the taps of a window that lies wholly in the map, from its first pixel on
    for (int32_t k = 0; k < s.kernel * s.kernel; k++)
        inside.push_back({(k / s.kernel * s.width + k % s.kernel) * C, k});
    const int64_t row = s.width * C, below = s.kernel * row;  // what the window one lower begins to need, at stride 2
    const int64_t soon[] = {below + C, below + 2 * C, below + row + C, below + row + 2 * C};
    parallel_for(p.num_threads, s.batch * s.out_height, [&](int64_t first, int64_t last) {
        std::vector<Tap> taps;
        for (int64_t row = first; row < last; row++) {
            const T* image = static_cast<const T*>(p.x) + row / s.out_height * s.height * s.width * C;
            const int64_t above = row % s.out_height * s.stride - s.top;
            for (int64_t w = 0; w < s.out_width; w++) {
                const int64_t before = w * s.stride - s.left, out = (row * s.out_width + w) * C;
                const T* start = image + (above * s.width + before) * C;
                if (std::min(above, before) >= 0 && above + s.kernel <= s.height && before + s.kernel <= s.width) {
                    s.kernel == 3 ? choose<W, T, norm, 9>(p, start, inside.data(), 9, out, soon)
                                  : choose<W, T, norm, 0>(p, start, inside.data(), int(inside.size()), out, soon);
                    continue;
                }
                taps.clear();
                for (const Tap& tap : inside) {
                    const int64_t i = above + tap.number / s.kernel, j = before + tap.number % s.kernel;
                    if (i >= 0 && i < s.height && j >= 0 && j < s.width) taps.push_back(tap);
                }
                choose<W, T, norm, 0>(p, start, taps.data(), int(taps.size()), out, soon);
            }
        }
    });
}

// The gradient of one input pixel, all channels, from the `count` windows that cover it; a tap is an output here, and
// its number says which pixel of that window this one is.
template <int W, class T, Norm norm, int Count>
INLINE void gather(const Pool& p, const NormSlope* by, const Tap* taps, int count, int64_t at) {
    const int64_t C = p.window.channels;
    const T *x = static_cast<const T*>(p.x) + at, *dy = static_cast<const T*>(p.dy);
    const float *means = p.moments, *scale = means + 2 * C;
    for (int64_t v = 0; v < num_vectors<W>(C); v++) {
        const int64_t c = vector_offset<W>(v, C);
        F<W> g = zero<W>();
        for (int k = 0; k < (Count ? Count : count); k++) {
            const typename Vec<W>::I chosen = load_bytes<W>(p.index + taps[k].offset + c) == taps[k].number;
            g += select<W>(chosen, load<W>(dy + taps[k].offset + c), zero<W>());
        }
        if (norm == Norm::yes) {
            const F<W> centred = load<W>(x + c) - load<W>(means + c);
            g = g * load<W>(scale + c) + (centred * load<W>(&by->slope[c]) + load<W>(&by->constant[c]));
        }
        store<W>(static_cast<T*>(p.dx) + at + c, g);
    }
}

template <int W, class T, Norm norm>
void pool_backward_with(const Pool& p) {
    const Window& s = p.window;
    const int64_t C = s.channels;
    std::unique_ptr<NormSlope> by(norm == Norm::yes ? new NormSlope(p.moments, p.sums, s.batch * s.height * s.width, C) : nullptr);
    parallel_for(p.num_threads, s.batch * s.height, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const int64_t image = row / s.height * s.out_height, h = row % s.height + s.top;
            const int64_t top = h < s.kernel ? 0 : (h - s.kernel) / s.stride + 1;
            const int64_t bottom = std::min(s.out_height, h / s.stride + 1);
            for (int64_t pixel = 0; pixel < s.width; pixel++) {
                const int64_t w = pixel + s.left, at = (row * s.width + pixel) * C;
                const int64_t end = std::min(s.out_width, w / s.stride + 1);
                Tap taps[MAX_KERNEL_SIDE * MAX_KERNEL_SIDE];
                int count = 0;
                for (int64_t i = top; i < bottom; i++)
                    for (int64_t j = w < s.kernel ? 0 : (w - s.kernel) / s.stride + 1; j < end; j++)
                        taps[count++] = {((image + i) * s.out_width + j) * C,
                                         int32_t((h - i * s.stride) * s.kernel + w - j * s.stride)};
                if (count == 1)
                    gather<W, T, norm, 1>(p, by.get(), taps, count, at);
                else if (count == 2)
                    gather<W, T, norm, 2>(p, by.get(), taps, count, at);
                else
                    gather<W, T, norm, 0>(p, by.get(), taps, count, at);
            }
        }
    });
}

template <int W, class T>
void pool_forward_as(const Pool& p) {
    p.moments ? pool_forward_with<W, T, Norm::yes>(p) : pool_forward_with<W, T, Norm::no>(p);
}

template <int W, class T>
void pool_backward_as(const Pool& p) {
    p.moments ? pool_backward_with<W, T, Norm::yes>(p) : pool_backward_with<W, T, Norm::no>(p);
}

}  // namespace NATIVE_ISA
