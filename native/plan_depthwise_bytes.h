// A 3x3 depthwise convolution of a uint8 map with int8 weights, four bytes of a column at once.
//
// In a block of 64 channels the bytes of three rows are interleaved: a lane of 32 bits has those of one channel, above
// each other, and one more whose weight is 0. A column of them serves the three windows that it is part of. Bytes are
// interleaved within 16 bytes of a register, so the lanes of its four vectors have the order of channels that
// infer/pack.py lays the weights out in; packing the sums into bytes brings back their own order.
//
// Step::four_rows is [3 columns][blocks of 64 channels][4 vectors][16 lanes][3 rows, 0], Step::four_rows_rounding
// [2][blocks][4][16]: a sum times the first plus the second is the rounded row's byte.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "simd.h"

namespace NATIVE_ISA {

constexpr int64_t BLOCK_CHANNELS = 64, FOUR_ROWS_COLUMNS = 3;

// The channels of a map, up to whole blocks.
inline int64_t whole_blocks(int64_t channels) { return (channels + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS * BLOCK_CHANNELS; }

#ifdef NATIVE_AVX512BF16
// `X` pixels of the result next to each other, the channels of `lanes` from `c` on.
template <int X, int STRIDE>
inline __attribute__((always_inline)) void four_rows_block(const Step& s, const uint8_t* in, int64_t row, int64_t pixel,
                                                           int64_t c, __mmask64 lanes, uint8_t* out) {
    const int64_t channels = whole_blocks(s.in.channels);
    __m512i sum[X][4];
#pragma GCC unroll 4
    for (int x = 0; x < X; x++)
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) sum[x][q] = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int j = 0; j < STRIDE * (X - 1) + 3; j++) {
        const uint8_t* at = in + j * pixel + c;
        const __m512i first = _mm512_maskz_loadu_epi8(lanes, at), second = _mm512_maskz_loadu_epi8(lanes, at + row),
                      third = _mm512_maskz_loadu_epi8(lanes, at + 2 * row);
        const __m512i low = _mm512_unpacklo_epi8(first, second), high = _mm512_unpackhi_epi8(first, second),
                      third_low = _mm512_unpacklo_epi8(third, third), third_high = _mm512_unpackhi_epi8(third, third);
        const __m512i column[4] = {_mm512_unpacklo_epi16(low, third_low), _mm512_unpackhi_epi16(low, third_low),
                                   _mm512_unpacklo_epi16(high, third_high), _mm512_unpackhi_epi16(high, third_high)};
#pragma GCC unroll 4
        for (int x = 0; x < X; x++) {
            const int k = j - x * STRIDE;
            if (k < 0 || k >= 3) continue;
            const int8_t* taps = s.four_rows + (k * channels + c) * 4;
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++)
                sum[x][q] = _mm512_dpbusd_epi32(sum[x][q], column[q], _mm512_loadu_si512(taps + q * 64));
        }
    }
    __m512 scale[4], shift[4];
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        scale[q] = _mm512_loadu_ps(s.four_rows_rounding + c + q * 16);
        shift[q] = _mm512_loadu_ps(s.four_rows_rounding + channels + c + q * 16);
    }
#pragma GCC unroll 4
    for (int x = 0; x < X; x++) {
        __m512i whole[4];
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            whole[q] = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[x][q]), scale[q], shift[q]));
        const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]),
                                                  _mm512_packs_epi32(whole[2], whole[3]));
        _mm512_mask_storeu_epi8(out + x * s.in.channels + c, lanes, bytes);
    }
}

// All channels of `X` pixels.
template <int X, int STRIDE>
void four_rows_pixels(const Step& s, const uint8_t* in, int64_t row, uint8_t* out) {
    constexpr int TOGETHER = X < 4 ? X : 4;  // their sums fill half the registers
    const int64_t C = s.in.channels;
    int64_t pixel = s.in.pixel;
    const auto block = [&](int64_t c, __mmask64 lanes) INLINE_LAMBDA {
        for (int x = 0; x < X; x += TOGETHER) {
            unknown(pixel), unknown(row);  // else the compiler computes all addresses in advance, in every call
            four_rows_block<TOGETHER, STRIDE>(s, in + x * STRIDE * pixel, row, pixel, c, lanes, out + x * C);
        }
    };
    int64_t c = 0;
    for (; c + BLOCK_CHANNELS <= C; c += BLOCK_CHANNELS) block(c, ~__mmask64{0});
    if (c < C) block(c, (__mmask64{1} << (C - c)) - 1);
}
#endif

}  // namespace NATIVE_ISA
