// Included at the end of each instruction set's source: compiles every kernel for it and fills its table.
#include "average.h"
#include "depthwise.h"
#include "max_pool.h"
#include "peak.h"
#include "plan.h"
#include "pointwise.h"
#include "pointwise_weight.h"
#include "update.h"

namespace NATIVE_ISA {

// Calls a kernel with the widest vector that fits into a row of channels.
#define BY_WIDTH(function, p, channels)                                                           \
    if ((channels) >= WIDTH) return (p).bf16 ? function<WIDTH, bf16>(p) : function<WIDTH, float>(p); \
    if ((channels) >= WIDTH / 2)                                                                  \
        return (p).bf16 ? function<WIDTH / 2, bf16>(p) : function<WIDTH / 2, float>(p);           \
    return (p).bf16 ? function<1, bf16>(p) : function<1, float>(p);

void statistics(const Statistics& p) { BY_WIDTH(statistics_as, p, p.channels) }
void normalise(const Normalise& p) { BY_WIDTH(normalise_as, p, p.channels) }
void reduce(const Reduce& p) { BY_WIDTH(reduce_as, p, p.channels) }
void norm_gradient(const NormGradient& p) { BY_WIDTH(norm_gradient_as, p, p.channels) }
void depthwise_forward(const Depthwise& p) { BY_WIDTH(depthwise_forward_as, p, p.window.channels) }
void depthwise_backward(const Depthwise& p) { BY_WIDTH(depthwise_backward_as, p, p.window.channels) }
void pointwise_forward(const Pointwise& p) { p.bf16 ? pointwise_forward_as<bf16>(p) : pointwise_forward_as<float>(p); }
void pointwise_backward(const Pointwise& p) { p.bf16 ? pointwise_backward_as<bf16>(p) : pointwise_backward_as<float>(p); }
void pointwise_weight(const Pointwise& p) { p.bf16 ? pointwise_weight_as<bf16>(p) : pointwise_weight_as<float>(p); }
void box(const Box& p) { BY_WIDTH(box_as, p, p.channels) }
void channel_sums(const Gate& p) { BY_WIDTH(channel_sums_as, p, p.channels) }
void channel_scale(const Gate& p) { BY_WIDTH(channel_scale_as, p, p.channels) }
void pool_forward(const Pool& p) { BY_WIDTH(pool_forward_as, p, p.window.channels) }
void pool_backward(const Pool& p) { BY_WIDTH(pool_backward_as, p, p.window.channels) }

}  // namespace NATIVE_ISA

#define CONCATENATE_(a, b) a##b
#define CONCATENATE(a, b) CONCATENATE_(a, b)

const Kernels CONCATENATE(kernels_, NATIVE_ISA) = {
    NATIVE_ISA::statistics,        NATIVE_ISA::normalise,          NATIVE_ISA::reduce,       NATIVE_ISA::norm_gradient,
    NATIVE_ISA::depthwise_forward, NATIVE_ISA::depthwise_backward, NATIVE_ISA::pointwise_forward,
    NATIVE_ISA::pointwise_backward, NATIVE_ISA::pointwise_weight,  NATIVE_ISA::box,
    NATIVE_ISA::channel_sums,      NATIVE_ISA::channel_scale,      NATIVE_ISA::pool_forward, NATIVE_ISA::pool_backward,
    NATIVE_ISA::update,
    NATIVE_ISA::run_plan,          NATIVE_ISA::scratch_bytes,      NATIVE_ISA::has_room,
    NATIVE_ISA::peak,              NATIVE_ISA::read_memory,        NATIVE_ISA::PANEL,
    NATIVE_ISA::PARTS == 2 ? WIDTH : 1,
};
