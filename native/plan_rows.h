// The steps of a plan that take a map row by row, or channel by channel: sums, copies, poolings and means.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"
#include "simd.h"
#include "values.h"

namespace NATIVE_ISA {

enum class Pooling { largest, mean };

// A row of windows' largest values, or of their means.
template <Pooling of, class T>
bool pool_row(const Step& s, char* arena, int64_t n, int64_t y) {
    constexpr bool LARGEST = of == Pooling::largest;
    const Place<T> in(arena, s.in), out(arena, s.out);
    const Span rows = s.row_spans[y];
    const int64_t down = s.dilation_y * in.row, across = s.dilation_x * in.pixel;
    Watch watch;
    for (int64_t x = 0; x < s.out.width; x++) {
        const Span columns = s.column_spans[x];
        const float counted = static_cast<float>(rows.counted * columns.counted);
        const T* corner = in.at(n, rows.begin, columns.begin);
        T* to = out.at(n, y, x);
        for (int64_t c = 0; c < s.in.channels; c += WIDTH) {
            F<WIDTH> result = zero<WIDTH>() - (LARGEST ? HUGE_VALF : 0.0f);
            Watch window;  // of its own, so that no window waits for the one before
            const T* line = corner + c;
            for (int64_t i = rows.begin; i < rows.end; i += s.dilation_y, line += down) {
                const T* pixel = line;
                for (int64_t j = columns.begin; j < columns.end; j += s.dilation_x, pixel += across) {
                    const F<WIDTH> v = load<WIDTH>(pixel);
                    window(v);
                    result = LARGEST ? at_least<WIDTH>(result, v) : result + v;
                }
            }
            watch(window.sum);
            store<WIDTH>(to + c, LARGEST ? result : result / counted);
        }
    }
    return watch.finite();
}

// A row of a map into its channels of a concatenation. They need not begin or end with a vector, so exactly these
// channels are written: another thread may write the rest of the pixel.
template <class T>
void copy_row(const Step& s, char* arena, int64_t n, int64_t y) {
    const Place<T> in(arena, s.in), out(arena, s.out);
    for (int64_t x = 0; x < s.out.width; x++) {
        T* to = out.at(n, y, x);
        std::memcpy(to, in.at(n, y, x), sizeof(T) * s.length);
        std::memset(to + s.length, 0, sizeof(T) * (s.out.channels - s.length));
    }
}

// A row of activation(in * gate + residual); the gate is one number per channel.
template <class T, class Out>
bool sum_row(const Step& s, char* arena, int64_t n, int64_t y) {
    const Place<T> in(arena, s.in), residual(arena, s.residual), gate(arena, s.gate);
    const Place<Out> out(arena, s.out);
    const Activate activate(s.activation);
    Watch watch;
    for (int64_t x = 0; x < s.out.width; x++)
        for (int64_t c = 0; c < s.out.channels; c += WIDTH) {
            F<WIDTH> v = load<WIDTH>(in.at(n, y, x) + c);
            if (s.gate.offset >= 0) v *= load<WIDTH>(gate.at(n, 0, 0) + c);
            if (s.residual.offset >= 0) v = join(s, v, load<WIDTH>(residual.at(n, y, x) + c));
            watch(v);
            Write<Out>(s.out_rounding, s.out.channels, c)(out.at(n, y, x) + c, activate(s.activation, v));
        }
    return watch.finite();
}

template <class T>
bool mean_of(const Step& s, char* arena, int64_t n, int64_t c) {
    const Place<T> in(arena, s.in), out(arena, s.out);
    F<WIDTH> sum = zero<WIDTH>();
    for (int64_t y = 0; y < s.in.height; y++)
        for (int64_t x = 0; x < s.in.width; x++) sum += load<WIDTH>(in.at(n, y, x) + c);
    store<WIDTH>(out.at(n, 0, 0) + c, sum / static_cast<float>(s.in.height * s.in.width));
    Watch watch;
    watch(sum);
    return watch.finite();
}

}  // namespace NATIVE_ISA
