"""Depthwise convolution in Triton: forward, the gradient of the input and that of the weights, in a pass each.

Maps are channels last, so the C channels of a pixel lie together, and so do those of a tap of the filters. Sums are
float32 whatever the maps' dtype. A program computes a tile, `pixels` times `block` channels. Nothing is added
atomically: each number is a sum in one fixed order, and the weights' gradient comes in parts, whose number follows
from the shape alone. So results are the same bits each time. Only `gpu/depthwise.py` imports this module, for Triton
need not be there.
"""

import triton
import triton.language as tl


@triton.jit
def _pixels(tile, size: tl.constexpr, width, height):
    """The numbers of a tile's pixels in [N, height, width], and of each its image, row and column."""
    pixel = tile * size + tl.arange(0, size)
    column = pixel % width
    row = (pixel // width) % height
    return pixel, pixel // (width * height), row, column


@triton.jit
def forward(
    x, taps, y, num_pixels, channels, height, width, out_height, out_width, top, left,
    kernel: tl.constexpr, stride: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """y [N, H', W', C] from x [N, H, W, C] and taps [kernel, kernel, C]; num_pixels = N * H' * W'."""
    pixel, image, row, column = _pixels(tl.program_id(0), pixels, out_width, out_height)
    c = tl.program_id(1) * block + tl.arange(0, block)
    mine = (pixel < num_pixels)[:, None] & (c < channels)[None, :]
    total = tl.zeros((pixels, block), tl.float32)
    for r in tl.static_range(kernel):
        for s in tl.static_range(kernel):
            i, j = row * stride + r - top, column * stride + s - left
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            place = ((image * height + i) * width + j).to(tl.int64) * channels
            value = tl.load(x + place[:, None] + c[None, :], mine & inside[:, None], 0.0)
            w = tl.load(taps + (r * kernel + s) * channels + c, c < channels, 0.0)
            total += value.to(tl.float32) * w.to(tl.float32)[None, :]
    place = pixel.to(tl.int64) * channels
    tl.store(y + place[:, None] + c[None, :], total.to(y.dtype.element_ty), mine)


@triton.jit
def input_gradient(
    dy, taps, dx, num_pixels, channels, height, width, out_height, out_width, top, left,
    kernel: tl.constexpr, stride: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """dx [N, H, W, C] from dy [N, H', W', C] and taps; num_pixels = N * H * W."""
    pixel, image, row, column = _pixels(tl.program_id(0), pixels, width, height)
    c = tl.program_id(1) * block + tl.arange(0, block)
    mine = (pixel < num_pixels)[:, None] & (c < channels)[None, :]
    total = tl.zeros((pixels, block), tl.float32)
    for r in tl.static_range(kernel):
        for s in tl.static_range(kernel):
            # The window that has this pixel under its tap (r, s), if there is one, begins at a multiple of the stride.
            i, j = row + top - r, column + left - s
            begins = (i >= 0) & (i % stride == 0) & (j >= 0) & (j % stride == 0)
            i, j = i // stride, j // stride
            begins = begins & (i < out_height) & (j < out_width)
            place = ((image * out_height + i) * out_width + j).to(tl.int64) * channels
            value = tl.load(dy + place[:, None] + c[None, :], mine & begins[:, None], 0.0)
            w = tl.load(taps + (r * kernel + s) * channels + c, c < channels, 0.0)
            total += value.to(tl.float32) * w.to(tl.float32)[None, :]
    place = pixel.to(tl.int64) * channels
    tl.store(dx + place[:, None] + c[None, :], total.to(dx.dtype.element_ty), mine)


@triton.jit
def _under(x, image, i, j, c, mine, height, width, channels):
    """x at rows `i` and columns `j`, 0 beyond the map, in float32."""
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    place = ((image * height + i) * width + j).to(tl.int64) * channels
    return tl.load(x + place[:, None] + c[None, :], mine & inside[:, None], 0.0).to(tl.float32)


@triton.jit
def weight_gradient(
    x, dy, parts, num_pixels, channels, height, width, out_height, out_width, top, left, tiles,
    kernel: tl.constexpr, stride: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """parts [splits, kernel, kernel, C], float32, whose sum over splits is the gradient; num_pixels = N * H' * W'.

    A program has `tiles` tiles of pixels one after another and one row of taps, so it reads dy once for 3 or 5 of them.
    """
    r = tl.program_id(0)
    split = tl.program_id(2)
    c = tl.program_id(1) * block + tl.arange(0, block)
    a = tl.zeros((pixels, block), tl.float32)
    b, d, e, f = a, a, a, a
    for tile in range(tiles):
        pixel, image, row, column = _pixels(split * tiles + tile, pixels, out_width, out_height)
        mine = (pixel < num_pixels)[:, None] & (c < channels)[None, :]
        place = pixel.to(tl.int64) * channels
        g = tl.load(dy + place[:, None] + c[None, :], mine, 0.0).to(tl.float32)
        i, j = row * stride + r - top, column * stride - left
        a += g * _under(x, image, i, j, c, mine, height, width, channels)
        b += g * _under(x, image, i, j + 1, c, mine, height, width, channels)
        d += g * _under(x, image, i, j + 2, c, mine, height, width, channels)
        if kernel == 5:
            e += g * _under(x, image, i, j + 3, c, mine, height, width, channels)
            f += g * _under(x, image, i, j + 4, c, mine, height, width, channels)
    at = parts + ((split * kernel + r) * kernel).to(tl.int64) * channels + c
    tl.store(at, tl.sum(a, 0), c < channels)
    tl.store(at + channels, tl.sum(b, 0), c < channels)
    tl.store(at + 2 * channels, tl.sum(d, 0), c < channels)
    if kernel == 5:
        tl.store(at + 3 * channels, tl.sum(e, 0), c < channels)
        tl.store(at + 4 * channels, tl.sum(f, 0), c < channels)
