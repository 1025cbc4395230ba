// What all steps of a plan share: where a map's values lie, what an activation does to them, and how they are stored.
#pragma once

#include <cmath>

#include "kernels.h"
#include "simd.h"

namespace NATIVE_ISA {

template <class T>
struct Place {
    T* origin;  // of pixel (0, 0) of the first image
    int64_t image, row, pixel;
    Place(char* arena, const Map& map)
        : image((map.height + 2 * map.border) * (map.width + 2 * map.border) * map.pixel),
          row((map.width + 2 * map.border) * map.pixel),
          pixel(map.pixel) {
        origin = reinterpret_cast<T*>(arena + map.offset) + map.border * (row + pixel) + map.first;
    }
    T* at(int64_t n, int64_t y, int64_t x) const { return origin + n * image + y * row + x * pixel; }
};

// tanh (Cephes' polynomial for |v| < 0.625).
INLINE F<WIDTH> hyperbolic_tangent(F<WIDTH> v) {
    const F<WIDTH> size = magnitude<WIDTH>(v), square = v * v;
    F<WIDTH> series = square * -5.70498872745e-3f + 2.06390887954e-2f;
    series = series * square - 5.37397155531e-2f;
    series = series * square + 1.33314422036e-1f;
    series = series * square - 3.33332819422e-1f;
    const F<WIDTH> far = 1.0f - 2.0f / (exponential<WIDTH>(2.0f * size) + 1.0f);
    return select<WIDTH>(size < 0.625f, series * square * v + v, select<WIDTH>(v < 0.0f, -far, far));
}

// v times the normal distribution function at v (GELU). Beyond |v| it is erfc(|v| / sqrt(2)) / 2, by the fit in
// Numerical Recipes, whose relative error is at most 1.2e-7.
INLINE F<WIDTH> gaussian_unit(F<WIDTH> v) {
    const F<WIDTH> z = magnitude<WIDTH>(v) * 0.70710678118f, t = 1.0f / (1.0f + 0.5f * z);
    F<WIDTH> series = t * 0.17087277f - 0.82215223f;
    series = series * t + 1.48851587f;
    series = series * t - 1.13520398f;
    series = series * t + 0.27886807f;
    series = series * t - 0.18628806f;
    series = series * t + 0.09678418f;
    series = series * t + 0.37409196f;
    series = series * t + 1.00002368f;
    const F<WIDTH> beyond = 0.5f * t * exponential<WIDTH>(series * t - 1.26551223f - z * z);
    return v * select<WIDTH>(v < 0.0f, beyond, 1.0f - beyond);
}

// Watches vectors: the sum of their values times zero is zero, or NaN if any value was NaN or infinite.
struct Watch {
    F<WIDTH> sum{};
    INLINE void operator()(F<WIDTH> v) { sum += v * 0.0f; }
    INLINE bool finite() const { return !any_nan<WIDTH>(sum); }
};

// What an activation does to a vector.
struct Activate {
    int kind;
    F<WIDTH> low, high;
    explicit Activate(const Function& f)
        : kind(f.kind),
          low(zero<WIDTH>() + (f.kind == RELU || f.kind == RELU6 ? 0.0f : f.kind == HARD_TANH ? f.first : -HUGE_VALF)),
          high(zero<WIDTH>() + (f.kind == RELU6 ? 6.0f : f.kind == HARD_TANH ? f.second : HUGE_VALF)) {}
    INLINE F<WIDTH> clamp(F<WIDTH> v) const { return at_most<WIDTH>(at_least<WIDTH>(v, low), high); }
    INLINE F<WIDTH> operator()(const Function& f, F<WIDTH> v) const { return kind <= HARD_TANH ? clamp(v) : curve(f, v); }
    // An activation that is no clamp; infinity gives NaN.
    __attribute__((noinline)) static F<WIDTH> curve(const Function& f, F<WIDTH> v) {
        return finite_curve(f, v) + v * 0.0f;
    }
    INLINE static F<WIDTH> finite_curve(const Function& f, F<WIDTH> v) {
        const F<WIDTH> one = zero<WIDTH>() + 1.0f;
        switch (f.kind) {
            case ELU: {  // alpha, scale, input scale
                const float negative = f.first * f.second;
                for (int i = 0; i < WIDTH; i++)
                    v[i] = v[i] > 0 ? v[i] * f.second : negative * std::expm1(v[i] * f.third);
                return v;
            }
            case SIGMOID: return one / (one + exponential<WIDTH>(-v));
            case SILU: return v / (one + exponential<WIDTH>(-v));
            case LEAKY_RELU: return select<WIDTH>(v > 0.0f, v, v * f.first);
            case TANH: return hyperbolic_tangent(v);
            case GELU:  // a first number other than zero asks for the approximation by tanh
                if (f.first != 0.0f)
                    return v / (one + exponential<WIDTH>(v * (v * v * -0.0713548162726f - 1.59576912161f)));
                return gaussian_unit(v);
            case SOFTPLUS:  // beta, threshold
                for (int i = 0; i < WIDTH; i++)
                    if (!(v[i] * f.first > f.second)) v[i] = std::log1p(std::exp(v[i] * f.first)) / f.first;
                return v;
            case MISH: {  // tanh(log(1 + e^v)) is (e^2v + 2 e^v) / (e^2v + 2 e^v + 2)
                const F<WIDTH> e = exponential<WIDTH>(at_most<WIDTH>(v, zero<WIDTH>() + 20.0f)), part = e * (e + 2.0f);
                return v * (part / (part + 2.0f));
            }
        }
        const F<WIDTH> hard = at_most<WIDTH>(at_least<WIDTH>(v + 3.0f, zero<WIDTH>()), 6.0f * one) / 6.0f;
        return f.kind == HARD_SWISH ? v * hard : hard;
    }
};

// Stores vectors of a step's result; as uint8 they are v * rounding[0][c] + rounding[1][c] for channel c, rounded.
template <class Out>
struct Write {
    Write(const float*, int64_t, int64_t) {}
    INLINE void operator()(Out* to, F<WIDTH> v) const { store<WIDTH>(to, v); }
};
template <>
struct Write<uint8_t> {
    F<WIDTH> scale, zero_point;
    INLINE Write(const float* rounding, int64_t channels, int64_t c)
        : scale(load_once<WIDTH>(rounding + c)), zero_point(load_once<WIDTH>(rounding + channels + c)) {}
    INLINE void operator()(uint8_t* to, F<WIDTH> v) const { store_rounded<WIDTH>(to, v * scale + zero_point); }
};

// v + residual, or the larger of the two; a NaN in either gives NaN.
INLINE F<WIDTH> join(const Step& s, F<WIDTH> v, F<WIDTH> residual) {
    return s.largest ? at_least<WIDTH>(v, residual) + residual * 0.0f : v + residual;
}

}  // namespace NATIVE_ISA
