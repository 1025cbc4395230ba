"""Depthwise convolution in training on a GPU: Triton's kernels, and the choice between them and the framework's."""
