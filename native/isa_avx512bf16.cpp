// The kernels for x86-64 with AVX-512 and its products of bfloat16 and int8. Standard headers come first: their inline
// functions are shared with code that must run anywhere, and must not be compiled for this instruction set.
#ifdef __x86_64__
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx512vnni,fma,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx512vnni,fma,bmi2")
#endif
#define NATIVE_ISA avx512bf16
#define NATIVE_AVX512
#define NATIVE_AVX512BF16
#define WIDTH 16
#include "table.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
