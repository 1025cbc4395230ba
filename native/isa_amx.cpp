// Plans with AMX, for processors that also have AVX-512 with bfloat16, whose kernels do everything else. Standard
// headers come first: their inline functions are shared with code that must run anywhere, and must not be compiled for
// this instruction set.
#ifdef __x86_64__
#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "parallel.h"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx512vnni,fma,bmi2,amx-tile,amx-bf16,amx-int8"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx512vnni,fma,bmi2,amx-tile,amx-bf16,amx-int8")
#endif
#define NATIVE_ISA amx
#define NATIVE_AVX512
#define NATIVE_AVX512BF16
#define NATIVE_AMX
#define WIDTH 16
#include "plan.h"

bool run_plan_amx(const Run& run) {
    return run.bf16 ? amx::run_plan(run) : kernels_avx512bf16.run_plan(run);
}

int64_t scratch_bytes_amx(const Run& run) {
    return run.bf16 ? amx::scratch_bytes(run) : kernels_avx512bf16.scratch_bytes(run);
}

bool has_room_amx(const Run& run, Fault& fault) {
    return run.bf16 ? amx::has_room(run, fault) : kernels_avx512bf16.has_room(run, fault);
}

bool amx_works() { return amx::tiles_multiply<amx::bf16>() && amx::tiles_multiply<uint8_t>(); }
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
