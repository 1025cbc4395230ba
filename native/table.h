// Ends the file of one instruction set: compiles every kernel for it and fills its table.
#include "batch_norm.h"

#define CONCATENATE_(a, b) a##b
#define CONCATENATE(a, b) CONCATENATE_(a, b)

const Kernels CONCATENATE(kernels_, NATIVE_ISA) = {
    NATIVE_ISA::batch_norm_forward,
    NATIVE_ISA::batch_norm_backward,
};
