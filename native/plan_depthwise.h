// The depthwise convolutions of a plan, each with the ReLU before it and the activation after it.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels.h"
#include "plan_depthwise_bytes.h"
#include "plan_gemm.h"
#include "simd.h"
#include "values.h"

namespace NATIVE_ISA {

constexpr int PARTS = WIDTH == 16 ? 2 : 1;  // vectors of bfloat16 that are taken together

// Pixels that are computed together: their sums and the columns that they read fill the registers.
constexpr int side_by_side(int64_t kernel, int64_t stride) {
    return stride == 1 ? (WIDTH == 16 ? 8 : 4) : (kernel == 3 || WIDTH == 16 ? 4 : 2);
}

INLINE bool fast_depthwise(const Step& s) {
    return (s.kernel_height == 3 || s.kernel_height == 5) && s.kernel_width == s.kernel_height && s.stride_x <= 2 &&
           s.between.kind <= HARD_TANH;
}

// `P` vectors of values, one of bytes. Two vectors of bfloat16 become the values at even and those at odd places: that
// takes two operations, where widening one half after the other takes four.
template <int P, class T>
INLINE void load_parts(const T* from, F<WIDTH> (&part)[P]) {
    if constexpr (std::is_same_v<T, uint8_t>) {
        part[0] = __builtin_convertvector(load_bytes<WIDTH>(from), F<WIDTH>);
    } else if constexpr (P == 1) {
        part[0] = load<WIDTH>(from);
    } else {
        typename Vec<WIDTH>::U both;
        std::memcpy(&both, from, sizeof both);
        part[0] = (F<WIDTH>)(both << 16), part[1] = (F<WIDTH>)(both & 0xffff0000u);
    }
}

// What is known of a depthwise convolution when its loops are compiled. This one fits every convolution.
struct AnyDepthwise {
    using General = AnyDepthwise;                // the same with any activations
    static constexpr int kernel = 0, stride = 1;  // kernel 0: the step says, and a curve may follow
    static constexpr bool relu_first = true;      // whether a ReLU may come before
    static constexpr bool clamps = true;          // whether a clamp may come after
    static constexpr bool feeds_product = true;   // whether a product reads the result, else it is a step by itself
};
template <class Form, int KERNEL, int STRIDE>
struct Sized : Form {
    using General = Sized;
    static constexpr int kernel = KERNEL, stride = STRIDE;
};
template <class Form>
struct WithoutRelu : Form {
    static constexpr bool relu_first = false;
};
template <class Form>
struct WithoutClamp : Form {
    static constexpr bool clamps = false;
};
template <class Form>
struct Alone : Form {
    using General = Alone;
    static constexpr bool feeds_product = false;
};

// `X` pixels next to each other, P vectors of channels from `c` on, with the ReLU before and the activation after. X is
// 1 where the form does not know the kernel.
template <class Form, int X, int P, class T, class Row>
INLINE void depthwise_block(const Step& s, const T* in, int64_t row, int64_t pixel, int64_t c, Row* out) {
    constexpr int K = Form::kernel, S = Form::stride;
    constexpr bool BYTES = std::is_same_v<T, uint8_t>;  // their sums are integers, which float32 has exactly
    const int height = K ? K : static_cast<int>(s.kernel_height), width = K ? K : static_cast<int>(s.kernel_width);
    const int64_t C = s.in.channels;
    const F<WIDTH> floor = zero<WIDTH>() + (s.relu_first ? 0.0f : -HUGE_VALF);
    F<WIDTH> sum[X][P], column[P];
#pragma GCC unroll 2
    for (int part = 0; part < P; part++) {
        const F<WIDTH> start = !BYTES && s.between_bias ? load<WIDTH>(s.between_bias + c + part * WIDTH) : zero<WIDTH>();
#pragma GCC unroll 8
        for (int x = 0; x < X; x++) sum[x][part] = start;
    }
#pragma GCC unroll 5
    for (int i = 0; i < height; i++) {
        const T* line = in + i * row + c;
        const float* taps = s.depthwise + i * width * C + c;
        if constexpr (K > 0) {
            F<WIDTH> tap[K][P];
#pragma GCC unroll 5
            for (int j = 0; j < K; j++)
#pragma GCC unroll 2
                for (int part = 0; part < P; part++) tap[j][part] = load_once<WIDTH>(taps + j * C + part * WIDTH);
#pragma GCC unroll 16
            for (int j = 0; j < S * (X - 1) + K; j++) {
                load_parts<P>(line + j * pixel, column);
#pragma GCC unroll 2
                for (int part = 0; part < P; part++) {
                    if (Form::relu_first) column[part] = at_least<WIDTH>(column[part], floor);
#pragma GCC unroll 8
                    for (int x = 0; x < X; x++)
                        if (0 <= j - x * S && j - x * S < K) sum[x][part] += tap[j - x * S][part] * column[part];
                }
            }
        } else {
            for (int j = 0; j < width; j++) {
                load_parts<P>(line + j * pixel, column);
                for (int part = 0; part < P; part++)
                    sum[0][part] += load<WIDTH>(taps + j * C + part * WIDTH) * at_least<WIDTH>(column[part], floor);
            }
        }
    }
    const Activate activate(s.between);
    const auto last = [&](F<WIDTH> v) INLINE_LAMBDA { return !K ? activate(s.between, v) : Form::clamps ? activate.clamp(v) : v; };
    if constexpr (P == 2 && std::is_same_v<Row, bf16>) {
#pragma GCC unroll 8
        for (int x = 0; x < X; x++) store_two<WIDTH>(out + x * C + c, last(sum[x][0]), last(sum[x][1]));
    } else {
#pragma GCC unroll 2
        for (int part = 0; part < P; part++) {
            const Write<Row> write(s.between_rounding, C, c + part * WIDTH);
            if constexpr (BYTES) {
                const F<WIDTH> scale = load_once<WIDTH>(s.between_scale + c), shift = load_once<WIDTH>(s.between_bias + c);
#pragma GCC unroll 8
                for (int x = 0; x < X; x++) sum[x][part] = sum[x][part] * scale + shift;
            }
#pragma GCC unroll 8
            for (int x = 0; x < X; x++) write(out + x * C + c + part * WIDTH, last(sum[x][part]));
        }
    }
}

// All channels of `X` pixels. A product in bfloat16 reads them in an order of its own, of each two vectors the even
// channels before the odd ones; infer/pack.py lays out the weights in the same order.
template <class Form, int X, class T, class Row>
void depthwise_pixels(const Step& s, const T* in, int64_t row, Row* out) {
    constexpr int P = Form::feeds_product && std::is_same_v<T, bf16> ? PARTS : 1;
#ifdef NATIVE_AVX512BF16
    if constexpr (std::is_same_v<T, uint8_t> && Form::kernel == 3)
        if (s.four_rows) return four_rows_pixels<X, Form::stride>(s, in, row, out);
#endif
    const int64_t C = s.in.channels;
    int64_t pixel = s.in.pixel, c = 0;
    if constexpr (P > 1)
        for (; c + P * WIDTH <= s.length; c += P * WIDTH) {
            unknown(pixel), unknown(row);  // else the compiler computes all addresses in advance, in every call
            depthwise_block<Form, X, P>(s, in, row, pixel, c, out);
        }
    for (; c < C; c += WIDTH) {
        unknown(pixel), unknown(row);
        depthwise_block<Form, X, 1>(s, in, row, pixel, c, out);
    }
}

// `count` pixels of a row of the result.
template <class Form, class T, class Row>
void depthwise_row(const Step& s, const T* in, int64_t row, int64_t count, Row* out) {
    constexpr int most = Form::kernel ? side_by_side(Form::kernel, Form::stride) : 1;
    constexpr int half = Form::stride == 1 ? most / 2 : most;
    const auto pixels = [&](auto some, int64_t first) {
        constexpr int X = some.value;
        using Own = std::conditional_t<X == 1, typename Form::General, Form>;  // single pixels are few
        depthwise_pixels<Own, X>(s, in + first * s.stride_x * s.in.pixel, row, out + first * s.in.channels);
    };
    int64_t done = 0;
    for (; count - done >= most; done += most) pixels(Constant<most>{}, done);
    if (done == count) return;
    // A whole block that computes some pixels again takes less time than single pixels.
    if (count >= most) return pixels(Constant<most>{}, count - most);
    if (half > 1 && count >= half) {
        pixels(Constant<half>{}, 0);
        if (count > half) pixels(Constant<half>{}, count - half);
        return;
    }
    for (; done < count; done++) pixels(Constant<1>{}, done);
}

template <class T, class Row>
using DepthwiseRow = void (*)(const Step&, const T*, int64_t, int64_t, Row*);

template <class Form, int STRIDE, class T, class Row>
DepthwiseRow<T, Row> depthwise_row_by_stride(const Step& s) {
    using Three = Sized<Form, 3, STRIDE>;
    if constexpr (std::is_same_v<T, uint8_t>)
        return s.kernel_height == 5 ? depthwise_row<WithoutRelu<Sized<Form, 5, STRIDE>>, T, Row>
                                    : depthwise_row<WithoutRelu<Three>, T, Row>;
    if (s.kernel_height == 5) return depthwise_row<Sized<Form, 5, STRIDE>, T, Row>;
    if constexpr (Form::feeds_product) {
        if (!s.relu_first && !s.between.kind) return depthwise_row<WithoutRelu<WithoutClamp<Three>>, T, Row>;
        if (!s.relu_first) return depthwise_row<WithoutRelu<Three>, T, Row>;
        if (!s.between.kind) return depthwise_row<WithoutClamp<Three>, T, Row>;
    }
    return depthwise_row<Three, T, Row>;
}

template <class Form, class T, class Row>
DepthwiseRow<T, Row> depthwise_row_of(const Step& s) {
    if (!fast_depthwise(s)) return depthwise_row<Form, T, Row>;
    return s.stride_x == 2 ? depthwise_row_by_stride<Form, 2, T, Row>(s) : depthwise_row_by_stride<Form, 1, T, Row>(s);
}

template <class T, class Row>
void depthwise_tile(const Step& s, const Place<T>& in, int64_t begin, int64_t end, Row* out) {
    const int64_t height = s.out.height, width = s.out.width;
    // The order of channels differs between the two only where two vectors are taken together.
    using Usual = std::conditional_t<PARTS == 2, AnyDepthwise, Alone<AnyDepthwise>>;
    DepthwiseRow<T, Row> take_row = depthwise_row_of<Usual, T, Row>(s);
    if constexpr (PARTS == 2 && std::is_same_v<T, Row>)
        if (!s.weights) take_row = depthwise_row_of<Alone<AnyDepthwise>, T, Row>(s);
    for (int64_t p = begin; p < end;) {
        const int64_t n = p / (height * width), y = p / width % height, x = p % width;
        const int64_t count = std::min(width - x, end - p);
        take_row(s, in.at(n, y * s.stride_y - s.pad_top, x * s.stride_x - s.pad_left), in.row, count,
                 out + (p - begin) * s.in.channels);
        p += count;
    }
}

}  // namespace NATIVE_ISA
