// What every instruction set implements: one table of kernels each, chosen when the library is first used.
//
// Maps are channels-last, [batch, height, width, channels], all float32 or all bfloat16 (`bf16`); rows are their
// pixels. `moments` are four rows of `channels` floats that batch norm's forward leaves for all that follows: mean,
// 1 / standard deviation, scale and shift, with norm(x) = scale * x + shift. `sums` are two rows of doubles: the sums
// over all rows of g and of g * (x - mean), g being the gradient that reaches norm(x).
#pragma once

#include <cstdint>

struct Statistics {
    const void* x;
    const float *weight, *bias;
    float *running_mean, *running_var, *moments;
    int64_t rows, channels;
    double momentum, eps;
    int bf16, num_threads;
};

struct Normalise {
    const void *x, *residual;  // residual may be null
    void* y;
    const float* moments;
    int64_t rows, channels;
    int relu, bf16, num_threads;
};

struct Reduce {
    const void *dy, *x, *y;  // y, if given, tells where the ReLU was open; else norm(x) is recomputed
    const float* moments;
    double* sums;
    int64_t rows, channels;
    int relu, bf16, num_threads;
};

struct NormGradient {
    const void *dy, *x, *y;  // as above
    void *dx, *dresidual;    // dresidual may be null
    const float* moments;
    const double* sums;
    float *dweight, *dbias;
    int64_t rows, channels;
    int relu, bf16, num_threads;
};

struct Window {
    int64_t batch, channels, height, width, out_height, out_width;
    int kernel, stride, top, left;
};

struct Depthwise {
    const void *x, *dy;
    void *y, *dx;          // dx is the gradient at norm(x) where there are moments
    const float *moments;  // null: x is taken as it is
    const float *weight, *bias;
    float* dweight;
    double* sums;          // null without moments
    Window window;
    int relu, bf16, num_threads;
};

struct Pool {
    const void *x, *dy;
    void *y, *dx, *chosen;  // chosen: x where norm(x) was largest; null without moments
    uint8_t* index;         // which pixel of the window that was
    const float* moments;   // null: x is taken as it is
    const double* sums;
    Window window;
    int bf16, num_threads;
};

// Inference: see plan.h. `offset` counts bytes into the arena, or is -1 where there is no map; `bytes` are those that the
// caller has made room for there; `channels` are filled up to whole vectors; they are `pixel` values from pixel to pixel, from the value `first` on, so that a map may be a part
// of a concatenation. `border` pixels of zeros stand around the map.
struct Map {
    int64_t offset, bytes, height, width, channels, border, pixel, first;
};

enum Kind { INPUT, CONVOLUTION, POOL, MEAN, SUM, AVERAGE, COPY };
// Up to HARD_TANH they are clamps, behind it curves.
enum Activation {
    NOTHING, RELU, RELU6, HARD_TANH, ELU, SIGMOID, SILU, HARD_SIGMOID, HARD_SWISH, LEAKY_RELU, TANH, GELU,
    SOFTPLUS, MISH
};

// An activation with its numbers, in the order of PyTorch's arguments.
struct Function {
    int32_t kind;
    float first, second, third;
};

// The rows or columns of a map that a window of a pooling sees, and how many count in a mean.
struct Span {
    int64_t begin, end, counted;
};

// So many output channels next to each other, whole vectors, and the first of the input channels that they read.
struct Panel {
    int64_t channels, first;
};

// Where the stretches of a row of a product lie: `taps` of them next to each other, `pixel` values apart, then those of
// the next kernel row.
struct Stretches {
    int64_t taps, row, pixel;
    __attribute__((always_inline)) int64_t operator[](int64_t run) const {
        return taps == 1 ? run * row : run / taps * row + run % taps * pixel;
    }
};

enum Array { DEPTHWISE, BETWEEN_BIAS, WEIGHTS, PANELS, BIAS, SCALE, BETWEEN_BYTES, OUT_BYTES, ROW_SPANS, COLUMN_SPANS, ARRAYS };

struct Step {
    Map in, out, residual, gate;
    const float* depthwise;     // [kernel_height * kernel_width][in.channels], null where nothing stands before the product
    const float* between_bias;  // [in.channels] or null
    const void* weights;        // of each panel [runs * length][channels]; bfloat16 in pairs of rows, int8 in fours;
                                // null for a depthwise convolution alone
    const Panel* panels;        // all output channels, panel by panel
    const float* bias;          // [out.channels]
    const float* scale;         // [out.channels], what one of the integer sums is worth, if the weights are int8, else null:
                                // the rows are bytes then, made by `between_bytes` if the map is none
    const float* between_bytes;  // [2][in.channels]: v is kept as the byte v * first + second, rounded
    const float* out_bytes;      // the same [2][out.channels] for the result, or null if it is no bytes
    const Span* row_spans;       // of a pooling: [out.height], every dilation_y-th row
    const Span* column_spans;    // [out.width]
    int64_t runs, taps, length; // a row of the product: so many stretches, `taps` of them in a kernel row, of so many values;
                                // of a copy: so many channels are copied, those of the result behind them are zeros
    int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_top, pad_left;
    int64_t given[ARRAYS];      // bytes that lie at each of the pointers, in their order
    Function between, activation;
    int32_t kind, relu_first, largest, float_out;
    int32_t watched;            // whether a product must see if what it makes is finite
};

struct Run {
    const Step* steps;
    int64_t count;
    char* arena;
    int64_t arena_bytes;
    int64_t scratch, scratch_bytes;  // a thread's own part of the arena, from `scratch` on
    const float* image;              // [batch, C, H, W], element strides in `strides`
    int64_t strides[4];
    int64_t batch;
    int32_t threads, bf16;
    int32_t finite;                  // whether the images and all that was made of them were; else the result means nothing
};

// What a run has too little of: `step` needs so many bytes, channels or pixels and was given fewer.
enum Lack { NOTHING_LACKS, MAP, NUMBERS, WINDOW, SCRATCH, ARENA };
struct Fault {
    int64_t lack, step, needed, given;
};

struct Kernels {
    void (*statistics)(const Statistics&);
    void (*normalise)(const Normalise&);
    void (*reduce)(const Reduce&);
    void (*norm_gradient)(const NormGradient&);
    void (*depthwise_forward)(const Depthwise&);
    void (*depthwise_backward)(const Depthwise&);
    void (*pool_forward)(const Pool&);
    void (*pool_backward)(const Pool&);
    bool (*run_plan)(const Run&);              // whether all values were finite
    int64_t (*scratch_bytes)(const Run&);      // that a thread needs
    bool (*has_room)(const Run&, Fault&);      // false: `Fault` says for what not, and the plan must not be run
    int64_t (*peak)(int precision, int64_t repetitions, int num_threads);
    void (*read_memory)(const float* values, int64_t count, int num_threads, float* sums);
    int64_t panel;  // output channels that a panel of run_plan's weights has
    int64_t parted;  // even channels that come before as many odd ones between a depthwise convolution and a product
};

#pragma GCC visibility push(default)  // another build of the interface may use them
extern const Kernels kernels_portable, kernels_avx2, kernels_avx512, kernels_avx512bf16;
#pragma GCC visibility pop

// Plans on tiles, which is all that the path "amx" has of its own, and whether the tiles of this machine compute.
bool run_plan_amx(const Run&);
int64_t scratch_bytes_amx(const Run&);
bool has_room_amx(const Run&, Fault&);
bool amx_works();
