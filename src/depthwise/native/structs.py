"""The kernels' arguments, field for field as in native/kernels.h, which says what they mean."""

import ctypes

P, I64, INT, F64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_double


def _fields(**kinds: str) -> list[tuple[str, type]]:
    """Fields of each kind, in the order that all structs have: pointers, sizes, reals, flags."""
    types = {"pointers": P, "sizes": I64, "reals": F64, "flags": INT}
    return [(name, types[kind]) for kind, names in kinds.items() for name in names.split()]


class Statistics(ctypes.Structure):
    _fields_ = _fields(
        pointers="x weight bias running_mean running_var moments",
        sizes="rows channels",
        reals="momentum eps",
        flags="bf16 num_threads",
    )


class Normalise(ctypes.Structure):
    _fields_ = _fields(pointers="x residual y moments", sizes="rows channels", flags="relu bf16 num_threads")


class Reduce(ctypes.Structure):
    _fields_ = _fields(pointers="dy x y moments sums", sizes="rows channels", flags="relu bf16 num_threads")


class NormGradient(ctypes.Structure):
    _fields_ = _fields(
        pointers="dy x y dx dresidual moments sums dweight dbias",
        sizes="rows channels",
        flags="relu bf16 num_threads",
    )


class Window(ctypes.Structure):
    _fields_ = _fields(
        sizes="batch channels height width out_height out_width", flags="kernel stride top left"
    )


class Depthwise(ctypes.Structure):
    _fields_ = [
        *_fields(pointers="x dy y dx moments weight bias dweight sums"),
        ("window", Window),
        *_fields(flags="relu bf16 num_threads"),
    ]


class Pointwise(ctypes.Structure):
    _fields_ = _fields(
        pointers="x dy y dx weight dweight", sizes="rows channels out_channels", flags="bf16 num_threads"
    )


class Pool(ctypes.Structure):
    _fields_ = [
        *_fields(pointers="x dy y dx chosen index moments sums"),
        ("window", Window),
        *_fields(flags="bf16 num_threads"),
    ]


class Box(ctypes.Structure):
    _fields_ = _fields(
        pointers="x y rows columns out_rows out_columns",
        sizes="batch channels height width",
        flags="kernel bf16 num_threads",
    )


class Gate(ctypes.Structure):
    _fields_ = _fields(
        pointers="x dy y gate summand sums", sizes="batch channels pixels", flags="bf16 num_threads"
    )


class Moved(ctypes.Structure):
    _fields_ = _fields(
        pointers="weight gradient first second updates average", sizes="count group", flags="begins"
    )


class Rates(ctypes.Structure):
    _fields_ = _fields(reals="lr decay momentum square eps", flags="nesterov")


class Update(ctypes.Structure):
    _fields_ = _fields(
        pointers="tensors groups", sizes="count", reals="clip follow", flags="rule num_threads"
    )


RULES = ("sgd", "adamw", "rmsprop")
"""The rules of an update, by their numbers; native/update.h says what they do."""


class Map(ctypes.Structure):
    _fields_ = _fields(sizes="offset bytes height width channels border pixel first")


class Function(ctypes.Structure):
    _fields_ = [("kind", INT), *((name, ctypes.c_float) for name in ("first", "second", "third"))]


ARRAYS = (
    "depthwise between_scale between_bias four_rows four_rows_rounding weights panels bias scale "
    "between_rounding out_rounding row_spans column_spans"
)
"""The pointers of a step, in the order of their lengths in `given`."""


class Step(ctypes.Structure):
    _fields_ = [
        *((name, Map) for name in ("input", "out", "residual", "gate")),
        *_fields(
            pointers=ARRAYS,
            sizes="runs taps length kernel_height kernel_width stride_y stride_x dilation_y dilation_x "
            "pad_top pad_left",
        ),
        ("given", I64 * len(ARRAYS.split())),
        ("between", Function),
        ("activation", Function),
        *_fields(flags="kind relu_first largest float_out watched rounded_by_scale"),
    ]


class Run(ctypes.Structure):
    _fields_ = [
        ("steps", P),
        ("count", I64),
        ("arena", P),
        ("arena_bytes", I64),
        ("scratch", I64),
        ("scratch_bytes", I64),
        ("image", P),
        ("strides", I64 * 4),
        ("batch", I64),
        ("threads", ctypes.c_int32),
        ("bf16", ctypes.c_int32),
        ("finite", ctypes.c_int32),
    ]


class Fault(ctypes.Structure):
    _fields_ = _fields(sizes="lack step needed given")


KINDS = ("input", "convolution", "pool", "mean", "sum", "average", "copy")
"""The kinds of steps, by their numbers; infer/fuse.py says what they do."""

KERNELS: dict[type[ctypes.Structure], tuple[str, ...]] = {
    Statistics: ("statistics",),
    Normalise: ("normalise",),
    Reduce: ("reduce",),
    NormGradient: ("norm_gradient",),
    Depthwise: ("depthwise_forward", "depthwise_backward"),
    Pointwise: ("pointwise_forward", "pointwise_backward", "pointwise_weight"),
    Pool: ("pool_forward", "pool_backward"),
    Box: ("box",),
    Gate: ("channel_sums", "channel_scale"),
    Moved: (),
    Rates: (),
    Update: ("update",),
    Step: (),
    Run: (),
    Fault: (),
}
