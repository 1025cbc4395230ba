// The first step of a plan: the caller's image becomes a map.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "simd.h"
#include "values.h"

namespace NATIVE_ISA {

// WIDTH pixels, each of four channels, from a vector for each channel.
INLINE void store_pixels(float* to, const F<WIDTH> (&v)[4]) {
    const auto [even0, even1] = interleaved(v[0], v[2]);
    const auto [odd0, odd1] = interleaved(v[1], v[3]);
    const auto [first, second] = interleaved(even0, odd0);
    const auto [third, fourth] = interleaved(even1, odd1);
    store<WIDTH>(to, first), store<WIDTH>(to + WIDTH, second);
    store<WIDTH>(to + 2 * WIDTH, third), store<WIDTH>(to + 3 * WIDTH, fourth);
}
INLINE void store_pixels(bf16* to, const F<WIDTH> (&v)[4]) {
    bf16 halves[4][WIDTH];
    typename Vec<WIDTH>::U channel[4];
    for (int c = 0; c < 4; c++) {
        store<WIDTH>(halves[c], v[c]);
        channel[c] = (typename Vec<WIDTH>::U)load<WIDTH>(halves[c]);  // in the upper half of 32 bits
    }
    const auto [first, second] = interleaved((F<WIDTH>)(channel[1] | channel[0] >> 16),
                                             (F<WIDTH>)(channel[3] | channel[2] >> 16));
    float* pairs = reinterpret_cast<float*>(to);
    store<WIDTH>(pairs, first), store<WIDTH>(pairs + WIDTH, second);
}

// A row of the image, [N, C, H, W] by its strides, into the plan's own layout. Three or four channels are read WIDTH
// pixels at a time. Values beyond 1e19, whose squares are not finite, count as not finite: what is computed from them
// may become infinite in the rows of an int8 product, which are not watched.
template <class T>
bool read_row(const Run& run, const Step& s, char* arena, int64_t n, int64_t y) {
    const Place<T> out(arena, s.out);
    const int64_t channels = s.in.channels, width = s.out.width, *strides = run.strides;
    const float* in = run.image + n * strides[0] + y * strides[2];
    T* to = out.at(n, y, 0);
    Watch watch;
    if (out.pixel == 4 && strides[3] == 1 && width >= WIDTH) {
        for (int64_t done = 0; done < width; done += WIDTH) {
            const int64_t x = std::min(done, width - WIDTH);  // the last vector overlaps the one before
            F<WIDTH> v[4];
            for (int c = 0; c < 4; c++) v[c] = c < channels ? load<WIDTH>(in + c * strides[1] + x) : zero<WIDTH>();
            watch(v[0] * v[0] + v[1] * v[1] + (v[2] * v[2] + v[3] * v[3]));
            store_pixels(to + x * 4, v);
        }
        return watch.finite();
    }
    float seen = 0;
    for (int64_t x = 0; x < width; x++, to += out.pixel, in += strides[3])
        for (int64_t c = 0; c < s.out.channels; c++) {
            const F<1> v = c < channels ? load<1>(in + c * strides[1]) : F<1>{};
            seen += v[0] * v[0] * 0.0f;
            store<1>(to + c, v);
        }
    return seen == 0;
}

}  // namespace NATIVE_ISA
