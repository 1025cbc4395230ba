// Compares what a run of a plan needs with what its caller has allocated, before anything is read or written. The
// kernels know their own tiles, so the size of scratch is computed here and nowhere else. Of all other buffers the
// caller passes the sizes, which are compared with those that follow from the maps' shapes.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "plan_depthwise_bytes.h"

namespace NATIVE_ISA {

// Whether a product's rows are made in scratch: by a depthwise convolution, or by rounding to uint8.
inline bool makes_rows(const Step& s) { return s.depthwise || s.between_rounding; }

// Whether the depthwise part of a separable convolution in int8 reads a uint8 map.
inline bool reads_bytes(const Step& s) { return s.depthwise && s.between_scale && s.scale; }

// The bytes of one value of `map`, a map of step `s`, in a plan whose values usually have `usual` bytes.
inline int64_t value_bytes(const Step& s, const Map& map, int64_t usual) {
    if (&map == &s.out) return s.out_rounding ? 1 : s.float_out ? static_cast<int64_t>(sizeof(float)) : usual;
    return &map == &s.in && s.scale && (reads_bytes(s) || !makes_rows(s)) ? 1 : usual;
}

inline int64_t map_bytes(const Run& run, const Step& s, const Map& map, int64_t usual) {
    return run.batch * (map.height + 2 * map.border) * (map.width + 2 * map.border) * map.pixel *
           value_bytes(s, map, usual);
}

// Compares step by step, and reports the first thing that is lacking. `usual`: the bytes of a value; `vector`: the
// channels of a vector.
class Room {
  public:
    Room(const Run& run, int64_t usual, int64_t vector, Fault& fault)
        : run(run), usual(usual), vector(vector), fault(fault) {}

    bool enough(int64_t number) {
        const Step& s = run.steps[number];
        fault.step = number;
        return maps(s) && windows(s) && numbers(s);
    }

    // Whether `given` is enough for `needed`; if not, `fault` says so.
    bool within(Lack lack, int64_t needed, int64_t given) {
        if (0 <= needed && needed <= given) return true;
        fault.lack = lack, fault.needed = needed, fault.given = given;
        return false;
    }

  private:
    bool map(const Step& s, const Map& map) {
        return map.offset < 0 || (within(MAP, map_bytes(run, s, map, usual), map.bytes) &&
                                  within(ARENA, map.offset + map.bytes, run.arena_bytes) &&
                                  within(MAP, map.first + map.channels, map.pixel));
    }

    bool maps(const Step& s) { return map(s, s.in) && map(s, s.out) && map(s, s.residual) && map(s, s.gate); }

    // Whether `from` has the pixels and the channels of the step's result.
    bool covers(const Step& s, const Map& from) {
        return from.offset < 0 || (within(WINDOW, s.out.height, from.height) && within(WINDOW, s.out.width, from.width) &&
                                   within(NUMBERS, s.out.channels, from.channels));
    }

    bool windows(const Step& s) {
        if (s.kind == POOL || s.kind == AVERAGE || s.kind == MEAN) return within(NUMBERS, s.in.channels, s.out.channels);
        if (s.kind == INPUT) return true;
        if (s.kind == COPY)
            return within(WINDOW, s.out.height, s.in.height) && within(WINDOW, s.out.width, s.in.width) &&
                   within(NUMBERS, s.length, std::min(s.in.channels, s.out.channels));
        if (!covers(s, s.residual) || (s.gate.offset >= 0 && !within(NUMBERS, s.out.channels, s.gate.channels))) return false;
        if (s.kind == SUM) return covers(s, s.in);
        return within(WINDOW, s.pad_top, s.in.border) && within(WINDOW, s.pad_left, s.in.border) &&
               within(WINDOW, (s.out.height - 1) * s.stride_y - s.pad_top + s.kernel_height, s.in.height + s.in.border) &&
               within(WINDOW, (s.out.width - 1) * s.stride_x - s.pad_left + s.kernel_width, s.in.width + s.in.border);
    }

    // Whether the arrays are as long as the step reads them.
    bool numbers(const Step& s) {
        const int64_t in = s.in.channels, out = s.out.channels, value = sizeof(float);
        const struct {
            const void* at;
            int64_t bytes;
        } needed[ARRAYS] = {{s.depthwise, s.kernel_height * s.kernel_width * in * value},
                            {s.between_scale, in * value},
                            {s.between_bias, in * value},
                            {s.four_rows, FOUR_ROWS_COLUMNS * whole_blocks(in) * 4},
                            {s.four_rows_rounding, 2 * whole_blocks(in) * value},
                            {s.weights, s.runs * s.length * out * (s.scale ? 1 : usual)},
                            {s.panels, sizeof(Panel)},
                            {s.bias, out * value},
                            {s.scale, out * value},
                            {s.between_rounding, 2 * in * value},
                            {s.out_rounding, 2 * out * value},
                            {s.row_spans, s.out.height * static_cast<int64_t>(sizeof(Span))},
                            {s.column_spans, s.out.width * static_cast<int64_t>(sizeof(Span))}};
        for (int i = 0; i < ARRAYS; i++)
            if (needed[i].at && !within(NUMBERS, needed[i].bytes, s.given[i])) return false;
        if (s.kind == POOL || s.kind == AVERAGE)
            return spans(s.row_spans, s.out.height, s.in.height) && spans(s.column_spans, s.out.width, s.in.width) &&
                   within(WINDOW, 1, std::min(s.dilation_y, s.dilation_x));
        if (s.kind != CONVOLUTION) return true;
        if (reads_bytes(s) && !within(NUMBERS, 1, s.between_bias && s.between_rounding)) return false;
        return s.weights ? s.bias && s.panels && panels(s) : within(NUMBERS, out, in);
    }

    // Whether `count` windows stay within a side.
    bool spans(const Span* all, int64_t count, int64_t side) {
        if (!within(NUMBERS, 1, all != nullptr)) return false;
        for (int64_t i = 0; i < count; i++)
            if (!within(WINDOW, all[i].begin, all[i].end) || !within(WINDOW, all[i].end, side)) return false;
        return true;
    }

    // Whether each row of the product stays within its pixel or window, and the panels have all output channels.
    bool panels(const Step& s) {
        const int64_t pixels = s.taps == 1 && !makes_rows(s) ? s.kernel_width : 1;
        const int64_t rows = makes_rows(s) ? 1 : s.kernel_height, columns = pixels == 1 ? s.kernel_width : 1;
        if (!within(WINDOW, s.taps, columns) || !within(WINDOW, s.runs, rows * s.taps)) return false;
        const int64_t count = s.given[PANELS] / static_cast<int64_t>(sizeof(Panel));
        int64_t channels = 0;
        for (int64_t i = 0; i < count && channels < s.out.channels; i++) {
            const Panel& panel = s.panels[i];
            if (panel.first < 0 || !within(NUMBERS, panel.first + s.length, pixels * s.in.channels)) return false;
            if (!within(NUMBERS, vector, panel.channels) || !within(NUMBERS, panel.channels % vector, 0)) return false;
            channels += panel.channels;
        }
        return within(NUMBERS, s.out.channels, channels) && within(NUMBERS, channels, s.out.channels);
    }

    const Run& run;
    const int64_t usual, vector;
    Fault& fault;
};

}  // namespace NATIVE_ISA
