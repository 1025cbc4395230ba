"""Training a separable network on a CPU without moving every map through memory once per operator.

A training step of such a network is the products of its pointwise convolutions and the memory traffic of batch norm,
ReLU, pooling and depthwise convolution. The functions here do the products and several of the others in one pass, in
C++, on channels-last maps in float32 or bfloat16. Where that does not apply (another device or layout, tracing, no
compiler when the package was installed), they run PyTorch's own operators and compute the same. So they do without
gradients, unless `evaluating` is around.

Results are the same bits for any number of threads, which is `torch.get_num_threads()`. Set `DEPTHWISE_NATIVE` to
`off` or one of `PATHS` to force a path; the default is the best that the machine has.
"""

from depthwise.native.averages import gated, global_mean
from depthwise.native.chains import add_residual, chain, concatenate, run
from depthwise.native.fused import (
    applies,
    batch_norm_act,
    depthwise_conv2d,
    evaluating,
    max_pool2d,
    pointwise_conv2d,
    watched,
)
from depthwise.native.library import PATHS, status, tune_allocator, use

__all__ = [
    "PATHS",
    "add_residual",
    "applies",
    "batch_norm_act",
    "chain",
    "concatenate",
    "depthwise_conv2d",
    "evaluating",
    "gated",
    "global_mean",
    "max_pool2d",
    "pointwise_conv2d",
    "run",
    "status",
    "tune_allocator",
    "use",
    "watched",
]
