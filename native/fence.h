// All maps of a plan share one arena, and the address sanitizer knows only the arena's ends. In a build with the
// sanitizer, a step may touch only its own maps, so an access that strays from one map into another is found. In other
// builds these functions do nothing.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "kernels.h"
#include "room.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace NATIVE_ISA {

#ifdef __SANITIZE_ADDRESS__
constexpr bool FENCED = true;

inline void allow(bool allowed, const void* begin, int64_t bytes) {
    (allowed ? __asan_unpoison_memory_region : __asan_poison_memory_region)(begin, static_cast<size_t>(bytes));
}
#else
constexpr bool FENCED = false;

inline void allow(bool, const void*, int64_t) {}
#endif

// The maps of a single step are tensors, which may lie anywhere.
inline bool fenced(const Run& run) { return FENCED && run.count > 1; }

inline void allow_arena(const Run& run, bool allowed) {
    if (fenced(run)) allow(allowed, run.arena, run.scratch);
}

// Allows or forbids the maps of `s`, with values of type T. The result must not overlap a map that the step reads.
template <class T>
void allow_maps(const Run& run, const Step& s, bool allowed) {
    if (!fenced(run)) return;
    const auto bytes = [&](const Map& map) { return map_bytes(run, s, map, sizeof(T)); };
    for (const Map* map : {&s.in, &s.out, &s.residual, &s.gate}) {
        if (map->offset < 0) continue;
        if (map->offset != s.out.offset && map->offset < s.out.offset + bytes(s.out) &&
            s.out.offset < map->offset + bytes(*map)) {
            std::fprintf(stderr, "ERROR: a step's result lies on a map that it reads\n");
            std::abort();
        }
        allow(allowed, run.arena + map->offset, bytes(*map));
    }
}

}  // namespace NATIVE_ISA
