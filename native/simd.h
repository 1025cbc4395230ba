// Vectors of W floats over float32 or bfloat16 memory, by the compiler's vector extension: the same source becomes
// AVX-512, AVX2, SSE2 or NEON code. Included once an instruction set, inside that set's namespace.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace NATIVE_ISA {

struct bf16 {
    uint16_t bits;
};

template <int W>
struct Vec {
    typedef double D __attribute__((vector_size(8 * W)));
    typedef float F __attribute__((vector_size(4 * W)));
    typedef int32_t I __attribute__((vector_size(4 * W)));
    typedef uint32_t U __attribute__((vector_size(4 * W)));
    typedef uint16_t H __attribute__((vector_size(2 * W)));
    typedef int16_t S __attribute__((vector_size(4 * W)));
    typedef uint8_t B __attribute__((vector_size(W)));
};
template <int W>
using F = typename Vec<W>::F;
template <int W>
using D = typename Vec<W>::D;

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

template <int W>
INLINE F<W> load(const float* p) {
    F<W> v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <int W>
INLINE F<W> load(const bf16* p) {
#ifdef NATIVE_AVX512
    // What GCC makes of the general form splits the vector in halves.
    if constexpr (W == 16) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return (F<W>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
    }
#endif
    typename Vec<W>::H half;
    std::memcpy(&half, p, sizeof half);
    typename Vec<W>::U wide = __builtin_convertvector(half, typename Vec<W>::U) << 16;
    return (F<W>)wide;
}

// A load that the compiler may not repeat for every use: beside two multiply-adds per cycle there is no time for more
// loads.
template <int W>
INLINE F<W> load_once(const float* p) {
    F<W> v = load<W>(p);
#if defined(__x86_64__) && !defined(__clang__)
    if constexpr (W >= 4) asm("" : "+v"(v));
#endif
    return v;
}

// Keeps GCC from spilling a vector to memory before it is used.
template <int W>
INLINE F<W> settled(F<W> v) {
#if defined(__x86_64__) && !defined(__clang__)
    if constexpr (W >= 4) asm("" : "+v"(v));
#endif
    return v;
}

// From here on the compiler does not know the number.
INLINE void unknown(int64_t& number) { asm("" : "+r"(number)); }

template <int W>
INLINE void store(float* p, F<W> v) {
    std::memcpy(p, &v, sizeof v);
}

// Rounds to nearest even, as PyTorch does; a NaN stays one.
template <int W>
INLINE void store(bf16* p, F<W> v) {
#ifdef NATIVE_AVX512BF16
    if constexpr (W == 16) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
        return;
    }
#endif
    typename Vec<W>::U u = (typename Vec<W>::U)v;
    typename Vec<W>::U rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    typename Vec<W>::U nan = (typename Vec<W>::U)(v != v);
    rounded = (rounded & ~nan) | (nan & 0x7fc0);
    typename Vec<W>::H half = __builtin_convertvector(rounded, typename Vec<W>::H);
    std::memcpy(p, &half, sizeof half);
}

// Two vectors next to each other.
template <int W>
INLINE void store_two(bf16* p, F<W> first, F<W> second) {
#ifdef NATIVE_AVX512BF16
    if constexpr (W == 16) {
        _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
        return;
    }
#endif
    store<W>(p, first), store<W>(p + W, second);
}

// uint8 as int32. In two steps, because GCC turns a fourfold widening into scalar moves.
template <int W>
INLINE typename Vec<W>::I load_bytes(const uint8_t* p) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16)
        return (typename Vec<W>::I)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#endif
    typename Vec<W>::B bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, typename Vec<W>::H), typename Vec<W>::I);
}

template <int W>
INLINE void store_bytes(uint8_t* p, typename Vec<W>::I v) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
        return;
    }
#endif
    const auto bytes = __builtin_convertvector(__builtin_convertvector(v, typename Vec<W>::H), typename Vec<W>::B);
    std::memcpy(p, &bytes, sizeof bytes);
}

// `v` as bfloat16 and back.
INLINE float rounded(float v) {
    bf16 half;
    store<1>(&half, F<1>{v});
    return load<1>(&half)[0];
}

template <int W>
INLINE F<W> select(typename Vec<W>::I mask, F<W> yes, F<W> no) {
    return mask ? yes : no;
}

// A mask of the first `count` lanes.
template <int W>
INLINE typename Vec<W>::I first_lanes(int64_t count) {
    typename Vec<W>::I lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    return lane < static_cast<int32_t>(count);
}

template <int W>
INLINE F<W> zero() {
    return F<W>{};
}

template <int W>
INLINE bool any_nan(F<W> v) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16) return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
#endif
#ifdef NATIVE_AVX2
    if constexpr (W == 8) return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q));
#endif
    bool any = false;
    for (int i = 0; i < W; i++) any |= v[i] != v[i];
    return any;
}

// The nearest integers to `v`, clamped to 0 and 255, as uint8.
template <int W>
INLINE void store_rounded(uint8_t* p, F<W> v) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16) {
        const __m512i whole = _mm512_max_epi32(_mm512_cvtps_epi32((__m512)v), _mm512_setzero_si512());
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(whole));
        return;
    }
#endif
    v = select<W>(v > 255, zero<W>() + 255, select<W>(v > 0, v, zero<W>()));
    store_bytes<W>(p, __builtin_convertvector(v + 12582912.0f, typename Vec<W>::I) & 255);  // 1.5 * 2^23: no fraction
}

// The same of `N` vectors next to each other, which are packed in fewer operations than one after the other.
template <int W, int N>
INLINE void store_rounded(uint8_t* p, const F<W> (&v)[N]) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16 && N > 1) {
        __m512i whole[4] = {};
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) whole[n] = _mm512_cvtps_epi32((__m512)v[n]);
        const __m512i packed = _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]), _mm512_packs_epi32(whole[2], whole[3]));
        // Packed is each quarter of a register by itself.
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const __m512i bytes = _mm512_permutexvar_epi32(order, packed);
        if constexpr (N == 4) {
            _mm512_storeu_si512(p, bytes);
        } else {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(bytes));
            if constexpr (N == 3) _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 32), _mm512_extracti32x4_epi32(bytes, 2));
        }
        return;
    }
#endif
    for (int n = 0; n < N; n++) store_rounded<W>(p + n * W, v[n]);
}

// The int8 at 0 and 2 of each 32 bits, or those at 1 and 3, as two int16.
template <int W>
INLINE typename Vec<W>::I even_bytes(typename Vec<W>::I v) {
    return (typename Vec<W>::I)((typename Vec<W>::S)(v << 8) >> 8);
}
template <int W>
INLINE typename Vec<W>::I odd_bytes(typename Vec<W>::I v) {
    return (typename Vec<W>::I)((typename Vec<W>::S)v >> 8);
}

// Both int16 of each 32 bits times those of `pair`, added.
template <int W>
INLINE typename Vec<W>::I multiply_pairs(typename Vec<W>::I v, int pair) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16) return (typename Vec<W>::I)_mm512_madd_epi16((__m512i)v, _mm512_set1_epi32(pair));
#endif
#ifdef NATIVE_AVX2
    if constexpr (W == 8) return (typename Vec<W>::I)_mm256_madd_epi16((__m256i)v, _mm256_set1_epi32(pair));
#endif
    return (v << 16 >> 16) * (pair & 0xffff) + (v >> 16) * (pair >> 16);
}

// max(v, floor) that keeps a NaN.
template <int W>
INLINE F<W> at_least(F<W> v, F<W> floor) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16) return (F<W>)_mm512_max_ps((__m512)floor, (__m512)v);
#endif
    return select<W>(v < floor, floor, v);
}

// min(v, ceiling) that keeps a NaN.
template <int W>
INLINE F<W> at_most(F<W> v, F<W> ceiling) {
#ifdef NATIVE_AVX512
    if constexpr (W == 16) return (F<W>)_mm512_min_ps((__m512)ceiling, (__m512)v);
#endif
    return select<W>(v > ceiling, ceiling, v);
}

template <int W>
INLINE F<W> magnitude(F<W> v) {
    return (F<W>)((typename Vec<W>::U)v & 0x7fffffffu);
}

// max(v, 0) that keeps a NaN.
template <int W>
INLINE F<W> relu(F<W> v) {
    return at_least<W>(v, zero<W>());
}

// What a ReLU of the `kind` that kernels.h names clamps at from below and from above: a NaN, with which nothing compares,
// where it does not clamp.
INLINE float floor_of(int kind) { return kind ? 0.0f : NAN; }
INLINE float ceiling_of(int kind) { return kind == 6 ? 6.0f : NAN; }

template <int W>
INLINE F<W> relu_gradient(F<W> output, F<W> ceiling, F<W> gradient) {
    return select<W>((output <= zero<W>()) | (output >= ceiling), zero<W>(), gradient);
}

// a0 b0 a1 b1 ...
template <int W>
struct Pair {
    F<W> first, second;
};
template <class V, int W = sizeof(V) / 4>
INLINE Pair<W> interleaved(V a, V b) {
#ifdef __clang__
    V first, second;
    for (int i = 0; i < W; i++) {
        first[i] = i % 2 ? b[i / 2] : a[i / 2];
        second[i] = i % 2 ? b[(i + W) / 2] : a[(i + W) / 2];
    }
    return {first, second};
#else
    typename Vec<W>::I first, second;
    for (int i = 0; i < W; i++) first[i] = i / 2 + i % 2 * W, second[i] = first[i] + W / 2;
    return {__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, second)};
#endif
}

// e^v to two units in the last place (Cephes' polynomial for |v| < log(2) / 2); finite for every v but NaN.
template <int W>
INLINE F<W> exponential(F<W> v) {
    v = at_most<W>(at_least<W>(v, zero<W>() - 87.0f), zero<W>() + 88.0f);
    const F<W> whole = v * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the lowest bits are the nearest integer
    const F<W> power = whole - 12582912.0f;
    const F<W> r = (v - power * 0.693359375f) + power * 2.12194440e-4f;
    F<W> series = r * 1.9875691500e-4f + 1.3981999507e-3f;
    series = series * r + 8.3334519073e-3f;
    series = series * r + 4.1665795894e-2f;
    series = series * r + 1.6666665459e-1f;
    series = series * r + 5.0000001201e-1f;
    series = series * r * r + r + 1.0f;
    typedef typename Vec<W>::U U;
    return series * (F<W>)(((U)whole << 23) + 0x3f800000u);
}

// A row of C channels is read in vectors. The last vector ends at C, so it may overlap the one before.
template <int W>
INLINE int64_t num_vectors(int64_t channels) {
    return (channels + W - 1) / W;
}
template <int W>
INLINE int64_t vector_offset(int64_t vector, int64_t channels) {
    int64_t offset = vector * W;
    return offset + W <= channels ? offset : channels - W;
}

}  // namespace NATIVE_ISA
