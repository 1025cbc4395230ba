// Runs a plan: a whole network as a list of steps over one arena, for inference.
//
// Maps are channels-last. Their channels are padded to whole vectors, and they have a border of zeros where a
// convolution that reads them is padded. Threads claim tiles of a step, and wait for each other only between two steps.
// Each kind of step has a header: plan_image.h, plan_convolution.h (on plan_gemm.h and plan_depthwise.h), plan_rows.h.
//
// Values that are not finite are reported; they are not computed with as PyTorch does, because infinity times the zeros
// that pad channels and groups is NaN. No step loses a NaN. An infinity is clamped where PyTorch clamps it, and
// otherwise stays or becomes NaN. So it is enough to watch the image, the result, the windows of max pooling and what
// becomes uint8. The functions for a part of a step return whether everything that they watched was finite.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>

#include "fence.h"
#include "kernels.h"
#include "parallel.h"
#include "plan_convolution.h"
#include "plan_gemm.h"
#include "plan_image.h"
#include "plan_rows.h"
#include "room.h"
#include "simd.h"
#include "values.h"
#ifdef NATIVE_AMX
#include "amx.h"
#endif

namespace NATIVE_ISA {

constexpr int64_t TILE_BYTES = 288 << 10;  // of a tile's rows: they stay in the second-level cache

// Fills the border of a map with `value`: zero, or the zero point of a uint8 map, which is one number if it has a
// border.
template <class T>
void clear_border(Map map, char* arena, int64_t batch, int value) {
    map.first = 0;  // the border is that of the whole concatenation, if the map is part of one
    const Place<T> place(arena, map);
    const int64_t b = map.border;
    for (int64_t n = 0; n < batch; n++)
        for (int64_t y = -b; y < map.height + b; y++) {
            const bool inside = y >= 0 && y < map.height;
            std::memset(place.at(n, y, -b), value, sizeof(T) * place.pixel * (inside ? b : map.width + 2 * b));
            if (inside) std::memset(place.at(n, y, map.width), value, sizeof(T) * place.pixel * b);
        }
}

// The bytes of one value of a product's rows, where maps have values of `usual` bytes.
INLINE int64_t row_value(const Step& s, int64_t usual) { return s.scale ? 1 : usual; }

// The bytes of a row of a product. Rows that are made have all channels of the map, though the product may read fewer.
INLINE int64_t row_bytes(const Step& s, int64_t usual) {
    return (makes_rows(s) ? s.in.channels : s.runs * s.length) * row_value(s, usual);
}

// Whether threads share the panels of a step, because it has too few pixels to share.
INLINE bool shares_panels(const Step& s, int64_t batch) {
    return s.kind == CONVOLUTION && s.weights && !makes_rows(s) && batch * s.out.height * s.out.width <= ROWS;
}

// How many pixels (or panels, rows, vectors: it depends on the step) one claim takes, and how many there are.
struct Tiles {
    int64_t size, total;
    template <class T>
    static Tiles of(const Step& s, int64_t batch, int threads, T) {
        switch (s.kind) {
            case CONVOLUTION: {
                if (shares_panels(s, batch)) {
                    int64_t panels = 0;
                    for (int64_t c = 0; c < s.out.channels; panels++) c += s.panels[panels].channels;
                    return {1, panels};
                }
                const int64_t pixels = batch * s.out.height * s.out.width;
                const int64_t fit = TILE_BYTES / row_bytes(s, sizeof(T));
                const int64_t most = std::min(MOST_PIXELS, std::max<int64_t>(8 * ROWS, fit / PIXEL_GROUP * PIXEL_GROUP));
                // A number of claims that gives all threads equal shares.
                const int64_t claims = (pixels + most * threads - 1) / (most * threads) * threads;
                return {((pixels + claims - 1) / claims + PIXEL_GROUP - 1) / PIXEL_GROUP * PIXEL_GROUP, pixels};
            }
            case MEAN: return {1, batch * s.in.channels / WIDTH};
            default: return {1, batch * s.out.height};
        }
    }
};

// The bytes of scratch that a tile of a step takes. AMX reads and copies whole groups of rows.
template <class T>
int64_t tile_bytes(const Run& run, const Step& s) {
    constexpr bool copies = PIXEL_GROUP > 1;
    if (s.kind != CONVOLUTION || !(makes_rows(s) || (copies && s.weights))) return 0;
    const int64_t pixels = shares_panels(s, run.batch) ? run.batch * s.out.height * s.out.width
                                                       : Tiles::of(s, run.batch, run.threads, T{}).size;
    return (pixels + PIXEL_GROUP - 1) / PIXEL_GROUP * PIXEL_GROUP * row_bytes(s, sizeof(T));
}

template <class T>
bool run_tile(const Run& run, const Step& s, int64_t begin, int64_t end, char* scratch) {
    const int64_t height = s.out.height;
    constexpr bool has_int8 = std::is_same_v<T, bf16>;
    switch (s.kind) {
        case CONVOLUTION: {
            const Tile tile = shares_panels(s, run.batch) ? Tile{0, run.batch * height * s.out.width, begin, end}
                                                          : Tile{begin, end, 0, s.out.channels};
            if constexpr (has_int8) {
                if (s.scale)
                    return s.out_rounding ? convolve_tile<T, uint8_t, uint8_t>(s, tile, run.arena, scratch)
                                       : convolve_tile<T, uint8_t, T>(s, tile, run.arena, scratch);
                if (s.out_rounding) return convolve_tile<T, T, uint8_t>(s, tile, run.arena, scratch);
            }
            return s.float_out ? convolve_tile<T, T, float>(s, tile, run.arena, scratch)
                               : convolve_tile<T, T, T>(s, tile, run.arena, scratch);
        }
        case POOL: return pool_row<Pooling::largest, T>(s, run.arena, begin / height, begin % height);
        case AVERAGE: return pool_row<Pooling::mean, T>(s, run.arena, begin / height, begin % height);
        case SUM:
            if constexpr (has_int8)
                if (s.out_rounding) return sum_row<T, uint8_t>(s, run.arena, begin / height, begin % height);
            return sum_row<T, T>(s, run.arena, begin / height, begin % height);
        case COPY: return copy_row<T>(s, run.arena, begin / height, begin % height), true;
        case MEAN: {
            const int64_t vectors = s.in.channels / WIDTH;
            return mean_of<T>(s, run.arena, begin / vectors, begin % vectors * WIDTH);
        }
        default: return read_row<T>(run, s, run.arena, begin / height, begin % height);
    }
}

template <class T>
bool run_share(const Run& run, Team& team, int index, int threads) {
    char* scratch = run.arena + run.scratch + index * run.scratch_bytes;
    const int64_t own_bytes = run.scratch_bytes - MEMBER_BYTES;
    bool finite = true;
#ifdef NATIVE_AMX
    Configuration configuration;
#endif
    for (int64_t i = 0; i < run.count; i++) {
        const Step& s = run.steps[i];
        const Tiles tiles = Tiles::of(s, run.batch, run.threads, T{});
        const int64_t work = FENCED ? 2 * i + 1 : i;
#ifdef NATIVE_AMX
        if (s.kind == CONVOLUTION) configuration.use(row_value(s, sizeof(T)));
#endif
        if (FENCED) {
            if (index == 0) allow_maps<T>(run, s, true);
            allow(false, scratch, own_bytes);
            allow(true, scratch, tile_bytes<T>(run, s));
            team.wait(work - 1, index, threads);
        }
        if (index == threads - 1 && s.out.border) {
            if (s.out_rounding)
                clear_border<uint8_t>(s.out, run.arena, run.batch, static_cast<int>(s.out_rounding[s.out.channels]));
            else
                clear_border<T>(s.out, run.arena, run.batch, 0);
        }
        const int64_t parts = (tiles.total + tiles.size - 1) / tiles.size;
        for (int64_t part; (part = team.claim(work, parts, index, threads)) < parts;)
            finite &= run_tile<T>(run, s, part * tiles.size, std::min((part + 1) * tiles.size, tiles.total), scratch);
        team.wait(work, index, threads);
        if (FENCED && index == 0) allow_maps<T>(run, s, false);
    }
    allow(true, scratch, own_bytes);
    return finite;
}

constexpr int64_t LINE = 64;

template <class T>
int64_t scratch_bytes_as(const Run& run) {
    int64_t most = 0;
    for (int64_t i = 0; i < run.count; i++) most = std::max(most, tile_bytes<T>(run, run.steps[i]));
    return (most + LINE - 1) / LINE * LINE + MEMBER_BYTES;
}

template <class T>
bool has_room_as(const Run& run, Fault& fault) {
    Room room(run, sizeof(T), WIDTH, fault);
    for (int64_t i = 0; i < run.count; i++)
        if (!room.enough(i)) return false;
    return room.within(SCRATCH, scratch_bytes_as<T>(run), run.scratch_bytes) &&
           room.within(ARENA, run.scratch + run.threads * run.scratch_bytes, run.arena_bytes);
}

int64_t scratch_bytes(const Run& run) {
#ifndef NATIVE_AMX  // the AMX path only runs plans in bfloat16
    if (!run.bf16) return scratch_bytes_as<float>(run);
#endif
    return scratch_bytes_as<bf16>(run);
}

bool has_room(const Run& run, Fault& fault) {
#ifndef NATIVE_AMX
    if (!run.bf16) return has_room_as<float>(run, fault);
#endif
    return has_room_as<bf16>(run, fault);
}

bool run_plan(const Run& run) {
    std::atomic<bool> finite{true};
    Team team(run.arena + run.scratch + run.scratch_bytes - MEMBER_BYTES, run.scratch_bytes, run.threads);
    allow_arena(run, false);
    const auto share = [&](int index, int threads) {
#ifndef NATIVE_AMX
        if (!run.bf16) return run_share<float>(run, team, index, threads);
#endif
        return run_share<bf16>(run, team, index, threads);
    };
    on_all_threads(run.threads, [&](int index, int threads) {
        if (!share(index, threads)) finite.store(false, std::memory_order_relaxed);
    });
    allow_arena(run, true);
    return finite;
}

}  // namespace NATIVE_ISA
