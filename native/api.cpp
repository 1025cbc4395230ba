// The C interface: raw pointers and sizes, dispatched to the best instruction set of the machine.
#include <cstring>

#include "kernels.h"
#include "parallel.h"

ThreadPool thread_pool = {nullptr, nullptr, nullptr};

static bool supported(const char* isa) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!std::strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && supported("avx2");
    if (!std::strcmp(isa, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
    return !std::strcmp(isa, "portable");
}

static const Kernels* table(const char* isa) {
    if (!supported(isa)) return nullptr;
#ifdef __x86_64__
    if (!std::strcmp(isa, "avx512")) return &kernels_avx512;
    if (!std::strcmp(isa, "avx2")) return &kernels_avx2;
#endif
    return &kernels_portable;
}

static const Kernels* kernels = &kernels_portable;

extern "C" {

// Chooses the instruction set ("avx512", "avx2" or "portable"); returns 0 if this machine does not have it.
int depthwise_use(const char* isa) {
    const Kernels* chosen = table(isa);
    if (chosen) kernels = chosen;
    return chosen != nullptr;
}

void depthwise_threads(decltype(ThreadPool::run) run, decltype(ThreadPool::index) index,
                       decltype(ThreadPool::size) size) {
    thread_pool = {run, index, size};
}

void depthwise_batch_norm_forward(const void* x, const void* residual, void* y, const float* weight, const float* bias,
                                  float* running_mean, float* running_var, float* mean, float* inv_std, int64_t rows,
                                  int64_t channels, double momentum, double eps, int bf16, int relu, int num_threads) {
    kernels->batch_norm_forward({x, residual, y, weight, bias, running_mean, running_var, mean, inv_std, rows, channels,
                                 momentum, eps, bf16, relu, num_threads});
}

void depthwise_batch_norm_backward(const void* dy, const void* x, const void* y, void* dx, void* dresidual,
                                   const float* weight, const float* bias, const float* mean, const float* inv_std,
                                   float* dweight, float* dbias, int64_t rows, int64_t channels, int bf16, int relu,
                                   int num_threads) {
    kernels->batch_norm_backward({dy, x, y, dx, dresidual, weight, bias, mean, inv_std, dweight, dbias, rows, channels,
                                  bf16, relu, num_threads});
}
}
