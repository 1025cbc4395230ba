// The peak rates of this machine on one path: the limits of every kernel's speed.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace NATIVE_ISA {

// Independent sums: enough for two multiply-adds per cycle, few enough for 16 registers.
constexpr int SUMS = 12;

// One instruction on `SUMS` registers and nothing else. Each sum has another start value and is an operand of its own
// `multiply_add`, so the compiler can neither merge equal sums nor move anything out of the loop.
#define SATURATE(Vector, start, multiply_add)                                  \
    Vector sum[SUMS];                                                          \
    _Pragma("GCC unroll 12") for (int i = 0; i < SUMS; i++) sum[i] = start;    \
    for (int64_t k = 0; k < repetitions; k++)                                  \
        _Pragma("GCC unroll 12") for (int i = 0; i < SUMS; i++) sum[i] = multiply_add; \
    _Pragma("GCC unroll 12") for (int i = 1; i < SUMS; i++) sum[0] += sum[i];

__attribute__((noinline)) F<WIDTH> saturate_fp32(int64_t repetitions, float operand) {
    const F<WIDTH> factor = zero<WIDTH>() + operand;
    SATURATE(F<WIDTH>, factor + static_cast<float>(i), sum[i] * factor + factor)
    return sum[0];
}

#ifdef NATIVE_AVX512BF16
__attribute__((noinline)) F<WIDTH> saturate_bf16(int64_t repetitions, float operand) {
    const __m512bh factors = (__m512bh)_mm512_set1_ps(operand);
    SATURATE(__m512, _mm512_set1_ps(static_cast<float>(i)), _mm512_dpbf16_ps(sum[i], factors, factors))
    return (F<WIDTH>)sum[0];
}
#endif

// uint8 times int8: four products per instruction with VNNI, else two and another instruction to add them.
#ifdef NATIVE_AVX512BF16
constexpr int BYTES = 4;
#define MULTIPLY_BYTES(sum, factors) (I)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)factors, (__m512i)factors)
#define BYTES_TARGET __attribute__((noinline, target("avx512vnni")))
#elif defined(NATIVE_AVX512)
constexpr int BYTES = 2;
#define MULTIPLY_BYTES(sum, factors) (sum) + (I)_mm512_madd_epi16((__m512i)(sum), (__m512i)factors)
#define BYTES_TARGET __attribute__((noinline))
#elif WIDTH == 8
constexpr int BYTES = 2;
#define MULTIPLY_BYTES(sum, factors) (sum) + (I)_mm256_madd_epi16((__m256i)(sum), (__m256i)factors)
#define BYTES_TARGET __attribute__((noinline))
#endif

#ifdef MULTIPLY_BYTES
BYTES_TARGET F<WIDTH> saturate_int8(int64_t repetitions, int operand) {
    typedef typename Vec<WIDTH>::I I;
    const I factors = I{} + operand;
    SATURATE(I, I{} + i, MULTIPLY_BYTES(sum[i], factors))
    return __builtin_convertvector(sum[0], F<WIDTH>);
}
#endif

// Repeats the kernels' instruction for `precision` (0: fp32, 1: bf16, 2: int8) on all threads, and returns the number
// of multiply-adds. A path without such an instruction repeats that of fp32.
int64_t peak(int precision, int64_t repetitions, int num_threads) {
    std::atomic<int64_t> done{0};
    on_all_threads(num_threads, [&](int, int) {
        volatile float sum;  // keeps the compiler from dropping the loop
        int depth = 1;
#ifdef NATIVE_AVX512BF16
        if (precision == 1) {
            depth = 2;
            sum = saturate_bf16(repetitions, 0.5f)[0];
        }
#endif
#ifdef MULTIPLY_BYTES
        if (precision == 2) {
            depth = BYTES;
            sum = saturate_int8(repetitions, 1)[0];
        }
#endif
        if (depth == 1) sum = saturate_fp32(repetitions, 0.5f)[0];
        (void)sum;
        done += repetitions * SUMS * WIDTH * depth;
    });
    return done;
}

// Adds up `count` floats into `sums` [num_threads], each thread its share, as fast as memory can be read.
void read_memory(const float* values, int64_t count, int num_threads, float* sums) {
    on_all_threads(num_threads, [&](int index, int threads) {
        constexpr int64_t BLOCK = 8 * WIDTH;
        const int64_t end = (index + 1) * count / threads;
        int64_t i = index * count / threads;
        F<WIDTH> sum[8] = {};
        for (; i + BLOCK <= end; i += BLOCK)
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) sum[j] += load<WIDTH>(values + i + j * WIDTH);
        float total = 0;
        for (; i < end; i++) total += values[i];
        for (int j = 0; j < 8; j++)
            for (int lane = 0; lane < WIDTH; lane++) total += sum[j][lane];
        sums[index] = total;
    });
}

}  // namespace NATIVE_ISA
