// An update of the weights: gradients clipped, the optimiser's step, and the average that follows, in one reading of
// memory.
//
// Each value meets the roundings of PyTorch's own operators, in their order, so the bits are PyTorch's. Its operators
// multiply and add with one rounding where one of them does both, and with two where two operators follow each other.
// Which is meant is written out here: `fused` or `product`. Roots are the nearest float32, which
// those of PyTorch are not always where it takes them by MKL.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace NATIVE_ISA {

typedef F<WIDTH> Value;

constexpr int64_t PIECE = 8192;  // values of a tensor that one thread takes at a time

INLINE Value everywhere(float v) { return v - zero<WIDTH>(); }  // of a sum with zero, -0 would be 0

// Rounded: nothing that is added afterwards becomes one operation with it.
INLINE Value product(Value a, Value b) {
    Value v = a * b;
#if defined(__x86_64__)
    asm("" : "+v"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#else
    asm("" : "+m"(v));
#endif
    return v;
}

// a * b + c, rounded once.
INLINE Value fused(Value a, Value b, Value c) {
#if defined(NATIVE_AVX512)
    return (Value)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(NATIVE_AVX2)
    return (Value)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < WIDTH; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    // In double the product is exact. A sum that is not is made odd, so that float32 rounds it as it would the exact one
    // (Boldo and Melquiond 2008).
    typedef int64_t Bits __attribute__((vector_size(8 * WIDTH)));
    typedef D<WIDTH> Double;
    const Double p = __builtin_convertvector(a, Double) * __builtin_convertvector(b, Double);
    const Double q = __builtin_convertvector(c, Double), sum = p + q, part = sum - p;
    const Double error = (p - (sum - part)) + (q - part);
    const Bits even = ((error > 0) | (error < 0)) & ~(Bits)sum & 1, back = (error > 0) ^ (sum > 0);
    const Double odd = (Double)((Bits)sum + ((even ^ back) - back));  // one more or, if the sum is too large, less
    return __builtin_convertvector(odd, Value);
#endif
}

INLINE Value root(Value v) {
#if defined(NATIVE_AVX512)
    return (Value)_mm512_sqrt_ps((__m512)v);
#elif defined(NATIVE_AVX2)
    return (Value)_mm256_sqrt_ps((__m256)v);
#else
    for (int i = 0; i < WIDTH; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

// From `start` on by the part `weight` of the way to `end`, counted from the nearer of the two, as torch.lerp does.
INLINE Value between(Value start, Value end, float weight) {
    const bool near = std::fabs(weight) < 0.5f;
    return fused(everywhere(near ? weight : weight - 1), end - start, near ? start : end);
}

// What the values of a tensor are computed with, in float32.
struct Numbers {
    float clip, lr, decay, momentum, square, rest, eps, correction, follow;
    bool clipped, decays, nesterov, begins;
};

// Counts the update where the rule asks for the number.
Numbers numbers_of(const Update& p, const Moved& t) {
    const Rates& r = p.groups[t.group];
    double lr = r.lr, correction = 1, momentum = r.momentum;
    if (p.rule == ADAMW && t.gradient) {
        const double updates = *t.updates += 1;
        lr = r.lr / (1 - std::pow(r.momentum, updates));
        correction = std::pow(1 - std::pow(r.square, updates), 0.5);
        momentum = 1 - r.momentum;
    }
    Numbers n;
    n.clip = static_cast<float>(p.clip), n.clipped = p.clip != 1;
    n.lr = static_cast<float>(lr), n.correction = static_cast<float>(correction);
    n.decay = static_cast<float>(r.decay), n.decays = r.decay != 0;
    n.momentum = static_cast<float>(momentum), n.nesterov = r.nesterov, n.begins = t.begins;
    n.square = static_cast<float>(r.square), n.rest = static_cast<float>(1 - r.square);
    n.eps = static_cast<float>(r.eps), n.follow = static_cast<float>(p.follow);
    return n;
}

// torch.optim.SGD, from `t.first`, its momentum, which begins with the first gradient; null: without momentum.
INLINE Value sgd(const Moved& t, const Numbers& n, int64_t i, Value weight, Value gradient) {
    if (n.decays) gradient = fused(everywhere(n.decay), weight, gradient);
    if (t.first) {
        Value velocity = gradient;
        if (!n.begins) velocity = product(load<WIDTH>(t.first + i), everywhere(n.momentum)) + gradient;
        store<WIDTH>(t.first + i, velocity);
        gradient = n.nesterov ? fused(everywhere(n.momentum), velocity, gradient) : velocity;
    }
    return fused(everywhere(-n.lr), gradient, weight);
}

// square * rest of the gradient's, as addcmul_ adds it to what mul_ has left.
INLINE Value mean_square(const Numbers& n, Value mean, Value gradient) {
    return fused(product(everywhere(n.rest), gradient), gradient, product(mean, everywhere(n.square)));
}

// torch.optim.AdamW, of the mean gradient `t.first` and the mean square `t.second`.
INLINE Value adamw(const Moved& t, const Numbers& n, int64_t i, Value weight, Value gradient) {
    const Value mean = between(load<WIDTH>(t.first + i), gradient, n.momentum);
    const Value square = mean_square(n, load<WIDTH>(t.second + i), gradient);
    store<WIDTH>(t.first + i, mean), store<WIDTH>(t.second + i, square);
    const Value size = root(square) / n.correction + n.eps;
    return product(weight, everywhere(n.decay)) + product(everywhere(-n.lr), mean) / size;
}

// TensorFlow's RMSprop, of the mean square `t.first` and the velocity `t.second`.
INLINE Value rmsprop(const Moved& t, const Numbers& n, int64_t i, Value weight, Value gradient) {
    if (n.decays) gradient = fused(everywhere(n.decay), weight, gradient);
    const Value square = mean_square(n, load<WIDTH>(t.first + i), gradient), size = root(square + n.eps);
    const Value step = product(everywhere(n.lr), gradient) / size;
    const Value velocity = product(load<WIDTH>(t.second + i), everywhere(n.momentum)) + step;
    store<WIDTH>(t.first + i, square), store<WIDTH>(t.second + i, velocity);
    return weight - velocity;
}

// WIDTH values from `i` on.
template <Rule rule>
INLINE void move(const Moved& t, const Numbers& n, int64_t i) {
    Value weight = load<WIDTH>(t.weight + i);
    if (t.gradient) {
        Value gradient = load<WIDTH>(t.gradient + i);
        if (n.clipped) store<WIDTH>(t.gradient + i, gradient = product(gradient, everywhere(n.clip)));
        if (rule == SGD) weight = sgd(t, n, i, weight, gradient);
        if (rule == ADAMW) weight = adamw(t, n, i, weight, gradient);
        if (rule == RMSPROP) weight = rmsprop(t, n, i, weight, gradient);
        store<WIDTH>(t.weight + i, weight);
    }
    if (t.average) store<WIDTH>(t.average + i, between(load<WIDTH>(t.average + i), weight, n.follow));
}

// The values that are left at the end of a tensor, in a place where there are WIDTH of them.
template <Rule rule>
void move_rest(const Moved& tensor, const Numbers& n, int64_t i, int64_t count) {
    float room[5][WIDTH] = {};
    Moved t = tensor;
    float** all[] = {&t.weight, &t.gradient, &t.first, &t.second, &t.average};
    for (int k = 0; k < 5; k++)
        if (*all[k]) std::memcpy(room[k], *all[k] + i, count * sizeof(float)), *all[k] = room[k];
    move<rule>(t, n, 0);
    float* const from[] = {tensor.weight, tensor.gradient, tensor.first, tensor.second, tensor.average};
    for (int k = 0; k < 5; k++)
        if (from[k]) std::memcpy(from[k] + i, room[k], count * sizeof(float));
}

template <Rule rule>
void update_by(const Update& p) {
    std::unique_ptr<Numbers[]> numbers(new Numbers[p.count]);
    std::unique_ptr<int64_t[]> pieces(new int64_t[p.count + 1]);  // of all tensors before each
    pieces[0] = 0;
    for (int64_t k = 0; k < p.count; k++) {
        numbers[k] = numbers_of(p, p.tensors[k]);
        pieces[k + 1] = pieces[k] + (p.tensors[k].count + PIECE - 1) / PIECE;
    }
    parallel_for(p.num_threads, pieces[p.count], [&](int64_t first, int64_t last) {
        int64_t k = 0;
        for (int64_t piece = first; piece < last; piece++) {
            while (piece >= pieces[k + 1]) k++;
            const Moved t = p.tensors[k];
            const Numbers n = numbers[k];
            int64_t i = (piece - pieces[k]) * PIECE;
            const int64_t end = std::min(i + PIECE, t.count);
            for (; i + WIDTH <= end; i += WIDTH) move<rule>(t, n, i);
            if (i < end) move_rest<rule>(t, n, i, end - i);
        }
    });
}

void update(const Update& p) {
    if (p.rule == SGD) update_by<SGD>(p);
    if (p.rule == ADAMW) update_by<ADAMW>(p);
    if (p.rule == RMSPROP) update_by<RMSPROP>(p);
}

}  // namespace NATIVE_ISA
