// What every instruction set implements: one table of kernels each, chosen when the library is first used.
#pragma once

#include <cstdint>

struct BatchNormForward {
    const void *x, *residual;  // [rows, channels]; residual may be null
    void* y;
    const float *weight, *bias;
    float *running_mean, *running_var, *mean, *inv_std;
    int64_t rows, channels;
    double momentum, eps;
    int bf16, relu, num_threads;
};

struct BatchNormBackward {
    const void *dy, *x, *y;  // y only where the ReLU's mask cannot be recomputed from x
    void *dx, *dresidual;    // dresidual only where it differs from dy
    const float *weight, *bias, *mean, *inv_std;
    float *dweight, *dbias;
    int64_t rows, channels;
    int bf16, relu, num_threads;
};

struct Kernels {
    void (*batch_norm_forward)(const BatchNormForward&);
    void (*batch_norm_backward)(const BatchNormBackward&);
};

extern const Kernels kernels_portable, kernels_avx2, kernels_avx512;
