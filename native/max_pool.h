// Max pooling of a channels-last map, with the batch norm before it done on the way in.
//
// A byte an output remembers which pixel of its window was chosen. Backwards every input pixel gathers from the windows
// that saw it: nothing is scattered, so there is no race and no order to lose. With batch norm x itself is kept where it
// was chosen, and the norm's two sums are taken over the few outputs instead of the whole map.
#pragma once

#include "batch_norm.h"

namespace NATIVE_ISA {

template <int W, class T, bool Norm>
void pool_forward_with(const Pool& p) {
    const Window& s = p.window;
    const int64_t C = s.channels;
    const float *scale = p.moments + 2 * C, *shift = scale + C;
    parallel_for(p.num_threads, s.batch * s.out_height, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const T* image = static_cast<const T*>(p.x) + row / s.out_height * s.height * s.width * C;
            const int64_t above = row % s.out_height * s.stride - s.top;
            const int64_t top = std::max<int64_t>(above, 0), bottom = std::min<int64_t>(above + s.kernel, s.height);
            for (int64_t w = 0; w < s.out_width; w++) {
                const int64_t before = w * s.stride - s.left;
                const int64_t begin = std::max<int64_t>(before, 0), end = std::min<int64_t>(before + s.kernel, s.width);
                for (int64_t v = 0; v < num_vectors<W>(C); v++) {
                    const int64_t c = vector_offset<W>(v, C), at = (row * s.out_width + w) * C + c;
                    F<W> a = zero<W>(), b = zero<W>(), best = zero<W>(), chosen = zero<W>();
                    typename Vec<W>::I index = {};
                    if (Norm) a = load<W>(scale + c), b = load<W>(shift + c);
                    bool empty = true;
                    for (int64_t i = top; i < bottom; i++)
                        for (int64_t j = begin; j < end; j++) {
                            const F<W> in = load<W>(image + (i * s.width + j) * C + c), y = Norm ? in * a + b : in;
                            typename Vec<W>::I better = (y > best) | (y != y);
                            if (empty) better = (typename Vec<W>::I){} - 1;
                            empty = false;
                            best = better ? y : best;
                            if (Norm) chosen = better ? in : chosen;
                            index = better ? (typename Vec<W>::I){} + int32_t((i - above) * s.kernel + j - before) : index;
                        }
                    store<W>(static_cast<T*>(p.y) + at, best);
                    if (Norm) store<W>(static_cast<T*>(p.chosen) + at, chosen);
                    const typename Vec<W>::B bytes = __builtin_convertvector(index, typename Vec<W>::B);
                    std::memcpy(p.index + at, &bytes, sizeof bytes);
                }
            }
        }
    });
}

template <int W, class T, bool Norm>
void pool_backward_with(const Pool& p) {
    const Window& s = p.window;
    const int64_t C = s.channels;
    const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
    const float *means = p.moments, *scale = means + 2 * C;
    std::unique_ptr<NormSlope> by(Norm ? new NormSlope(means, p.sums, s.batch * s.height * s.width, C) : nullptr);
    parallel_for(p.num_threads, s.batch * s.height, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const int64_t image = row / s.height * s.out_height, h = row % s.height + s.top;
            const int64_t top = h < s.kernel ? 0 : (h - s.kernel) / s.stride + 1;
            const int64_t bottom = std::min(s.out_height, h / s.stride + 1);
            for (int64_t pixel = 0; pixel < s.width; pixel++) {
                const int64_t w = pixel + s.left, begin = w < s.kernel ? 0 : (w - s.kernel) / s.stride + 1;
                const int64_t end = std::min(s.out_width, w / s.stride + 1);
                for (int64_t v = 0; v < num_vectors<W>(C); v++) {
                    const int64_t c = vector_offset<W>(v, C), at = (row * s.width + pixel) * C + c;
                    F<W> g = zero<W>();
                    for (int64_t i = top; i < bottom; i++)
                        for (int64_t j = begin; j < end; j++) {
                            const int64_t out = ((image + i) * s.out_width + j) * C + c;
                            const int32_t here = int32_t((h - i * s.stride) * s.kernel + w - j * s.stride);
                            typename Vec<W>::B index;
                            std::memcpy(&index, p.index + out, sizeof index);
                            const typename Vec<W>::I chosen = __builtin_convertvector(index, typename Vec<W>::I) == here;
                            g += select<W>(chosen, load<W>(dy + out), zero<W>());
                        }
                    if (Norm)
                        g = g * load<W>(scale + c) + ((load<W>(x + at) - load<W>(means + c)) * load<W>(&by->slope[c]) +
                                                      load<W>(&by->constant[c]));
                    store<W>(static_cast<T*>(p.dx) + at, g);
                }
            }
        }
    });
}

template <int W, class T>
void pool_forward_as(const Pool& p) {
    p.moments ? pool_forward_with<W, T, true>(p) : pool_forward_with<W, T, false>(p);
}

template <int W, class T>
void pool_backward_as(const Pool& p) {
    p.moments ? pool_backward_with<W, T, true>(p) : pool_backward_with<W, T, false>(p);
}

}  // namespace NATIVE_ISA
