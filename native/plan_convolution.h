// The convolutions of a plan, tile by tile.
//
// A convolution is a matrix product whose rows are addressed in the map itself: one stretch of memory for each kernel
// row, or one for each tap where groups leave channels out. A separable convolution writes its depthwise part for one
// tile of pixels into the thread's own cache and multiplies it from there.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels.h"
#include "plan_depthwise.h"
#include "plan_gemm.h"
#include "room.h"
#include "simd.h"
#include "values.h"

namespace NATIVE_ISA {

// The pixels that a 1x1 convolution reads, rounded to uint8.
template <class T>
void round_tile(const Step& s, const Place<T>& in, int64_t begin, int64_t end, uint8_t* out) {
    const int64_t height = s.out.height, width = s.out.width, C = s.in.channels;
    for (int64_t p = begin; p < end;) {
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        const T* from = in.at(n, y * s.stride_y - s.pad_top, x * s.stride_x - s.pad_left);
        for (const int64_t stop = std::min(end, p + width - x); p < stop; p++, from += s.stride_x * in.pixel, out += C)
            for (int64_t c = 0; c < C; c += WIDTH)
                Write<uint8_t>(s.between_rounding, C, c)(out + c, load<WIDTH>(from + c));
    }
}

// A tile of a convolution, or of a separable one, whose depthwise part goes into `scratch` first.
template <class T, class Row, class Out>
bool convolve_tile(const Step& s, const Tile& tile, char* arena, char* scratch) {
    const int64_t begin = tile.begin, end = tile.end;
    const Place<T> residual(arena, s.residual);
    const Place<Row> in(arena, s.in);
    const Place<Out> out(arena, s.out);
    const Row* rows[MOST_PIXELS + rows_together(1)];
    const T* added[MOST_PIXELS + rows_together(1)];
    Out* to[MOST_PIXELS + rows_together(1)];
    const int64_t height = s.out.height, width = s.out.width;
    Row* between = reinterpret_cast<Row*>(scratch);
    if constexpr (sizeof(Row) == 1) {
        if (reads_bytes(s))
            depthwise_tile(s, Place<uint8_t>(arena, s.in), begin, end, between);
        else if (s.depthwise)
            depthwise_tile(s, Place<T>(arena, s.in), begin, end, between);
        else if (s.between_rounding)
            round_tile(s, Place<T>(arena, s.in), begin, end, between);
    } else if (s.depthwise) {
        depthwise_tile(s, Place<T>(arena, s.in), begin, end, between);
    }
    for (int64_t p = begin; p < end;) {  // a row of the map, or what of it lies in the tile
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        const Row* from = makes_rows(s) ? between + (p - begin) * s.in.channels
                                        : in.at(n, y * s.stride_y - s.pad_top, x * s.stride_x - s.pad_left);
        const int64_t step = makes_rows(s) ? s.in.channels : s.stride_x * in.pixel;
        const T* add = residual.at(n, y, x);
        Out* target = out.at(n, y, x);
        for (const int64_t stop = std::min(end, p + width - x); p < stop; p++) {
            rows[p - begin] = from, from += step;
            added[p - begin] = add, add += residual.pixel;
            to[p - begin] = target, target += out.pixel;
        }
    }
    for (int64_t p = end - begin; p < end - begin + rows_together(1); p++)
        rows[p] = rows[p - 1], added[p] = added[p - 1], to[p] = to[p - 1];
    const bool plus = s.residual.offset >= 0;
    if (s.weights) {
        const Stretches at{s.taps, in.row, in.pixel};
        const T* const* residuals = plus ? added : nullptr;
#ifdef NATIVE_AMX
        if (s.length % REST == 0) return finish_on_tiles(s, tile, rows, at, residuals, to, between);
#endif
        return finish_tile(s, tile, rows, at, residuals, to);
    }
    Watch watch;
    if constexpr (std::is_same_v<Row, T>) {
        const Activate activate(s.activation);
        for (int64_t p = 0; p < end - begin; p++)
            for (int64_t c = 0; c < s.out.channels; c += WIDTH) {
                F<WIDTH> v = load<WIDTH>(rows[p] + c);
                if (plus) v = join(s, v, load<WIDTH>(added[p] + c));
                watch(v);
                const Write<Out> write(s.out_rounding, s.out.channels, c);
                write(to[p] + c, activate(s.activation, v));
            }
    }
    return watch.finite();
}

}  // namespace NATIVE_ISA
