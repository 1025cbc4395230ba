// The kernels for x86-64 with AVX2 and FMA. Standard headers come first: their inline functions are
// shared with code that must run anywhere, and must not be compiled for this instruction set.
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
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi2")
#endif
#define NATIVE_ISA avx2
#define NATIVE_AVX2
#define WIDTH 8
#include "table.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
