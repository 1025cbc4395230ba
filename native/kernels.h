// What each instruction set implements: a table of kernels, chosen when the library is first used.
//
// Maps are channels-last, [batch, height, width, channels], all float32 or all bfloat16 (`bf16`); rows are their
// pixels. `moments` are four rows of `channels` floats, which batch norm's forward pass computes and the other kernels
// read: mean, 1 / standard deviation, scale and shift, with norm(x) = scale * x + shift. `sums` are two rows of
// doubles: the sums over all rows of g and of g * (x - mean), where g is the gradient at norm(x). `relu` is 0 without a
// ReLU, 1 with one, and 6 with ReLU6, which clamps at 6, too.
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
    const void *dy, *x, *y;  // the ReLU's mask is read off y; where y is null, norm(x) is computed again
    const float* moments;
    double* sums;
    int64_t rows, channels;
    int relu, bf16, num_threads;
};

struct NormGradient {
    const void *dy, *x, *y;  // as above
    void *dx, *dresidual;    // dx may be dy itself; dresidual may be null
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
    const float *moments;  // null: without batch norm
    const float *weight, *bias;
    float* dweight;
    double* sums;          // null without moments
    Window window;
    int relu, bf16, num_threads;
};

// A 1x1 convolution without bias: y [rows][out_channels] = x [rows][channels] times the transposed weights
// [out_channels][channels]. In bfloat16 channels and out_channels are even.
struct Pointwise {
    const void *x, *dy;
    void *y, *dx;
    const float* weight;
    float* dweight;
    int64_t rows, channels, out_channels;
    int bf16, num_threads;
};

struct Pool {
    const void *x, *dy;
    void *y, *dx, *chosen;  // chosen: x where norm(x) was largest; null without moments
    uint8_t* index;         // the number of the pixel in its window that was the largest
    const float* moments;   // null: without batch norm
    const double* sums;
    Window window;
    int bf16, num_threads;
};

// The mean over windows of stride 1, padded by half the kernel; average.h says what the factors are.
struct Box {
    const void* x;
    void* y;
    const float *rows, *columns, *out_rows, *out_columns;
    int64_t batch, channels, height, width;
    int kernel, bf16, num_threads;
};

// Sums over the pixels of x, or of x * dy, for each image and channel, and x times a gate for each of them.
struct Gate {
    const void *x, *dy;
    void* y;
    const float *gate, *summand;  // summand may be null
    float* sums;
    int64_t batch, channels, pixels;
    int bf16, num_threads;
};

// Training's update of the weights: see update.h. A tensor is `count` values in memory, in the same order wherever it is
// pointed to. One without a gradient stays as it is; its average follows it all the same.
struct Moved {
    float *weight, *gradient;
    float *first, *second;  // the optimiser's slots; null where its rule has none
    float* updates;         // ADAMW: how many there were
    float* average;         // or null
    int64_t count, group;
    int begins;             // SGD: this is the first gradient, and `first` means nothing yet
};

enum Rule { SGD, ADAMW, RMSPROP };

// What a group of tensors is moved by. decay: what weights are multiplied by, for ADAMW, and else what of them is added to
// the gradient. momentum, square: of the mean gradient and of the mean square, where the rule has them.
struct Rates {
    double lr, decay, momentum, square, eps;
    int nesterov;
};

struct Update {
    const Moved* tensors;
    const Rates* groups;
    int64_t count;
    double clip;    // what gradients are multiplied by first
    double follow;  // what part of the way to the weights the averages go
    int rule, num_threads;
};

// Inference: see plan.h. A map starts `offset` bytes into the arena, where the caller has reserved `bytes`; an offset
// of -1 means that there is no map. `channels` are padded to whole vectors. Two pixels are `pixel` values apart, and a
// pixel's own values start with value `first` of these, so a map may be a part of a concatenation. There are `border`
// pixels of zeros on each side.
struct Map {
    int64_t offset, bytes, height, width, channels, border, pixel, first;
};

enum Kind { INPUT, CONVOLUTION, POOL, MEAN, SUM, AVERAGE, COPY };
// Those up to HARD_TANH are clamps, those after it curves.
enum Activation {
    NOTHING, RELU, RELU6, HARD_TANH, ELU, SIGMOID, SILU, HARD_SIGMOID, HARD_SWISH, LEAKY_RELU, TANH, GELU,
    SOFTPLUS, MISH
};

// An activation with its numbers, in the order of PyTorch's arguments.
struct Function {
    int32_t kind;
    float first, second, third;
};

// The rows or columns of a map that a pooling window covers, and the number of them that a mean divides by.
struct Span {
    int64_t begin, end, counted;
};

// A number of adjacent output channels, in whole vectors, and the first input channel that they read.
struct Panel {
    int64_t channels, first;
};

// Where the stretches of a product's row lie: `taps` of them in a kernel row, `pixel` values apart, and the kernel rows
// `row` values apart.
struct Stretches {
    int64_t taps, row, pixel;
    __attribute__((always_inline)) int64_t operator[](int64_t run) const {
        return taps == 1 ? run * row : run / taps * row + run % taps * pixel;
    }
};

enum Array {
    DEPTHWISE, BETWEEN_SCALE, BETWEEN_BIAS, FOUR_ROWS, FOUR_ROWS_ROUNDING, WEIGHTS, PANELS, BIAS, SCALE,
    BETWEEN_ROUNDING, OUT_ROUNDING, ROW_SPANS, COLUMN_SPANS, ARRAYS
};

// activation(product(between(depthwise(relu(in)))) + residual) for a convolution; infer/fuse.py says what the kinds do.
//
// A row of the product has `runs` stretches of `length` adjacent values, `taps` of them in each kernel row. Its weights
// are [runs * length][channels] for each panel, with pairs of rows interleaved in bfloat16 and groups of four in int8.
// If they are int8, rows are uint8: of the map itself, or rounded on the way by `between_rounding`. A value v is
// rounded to the uint8 v * first + second.
struct Step {
    Map in, out, residual, gate;
    const float* depthwise;         // [kernel_height * kernel_width][in.channels], or null without a depthwise part
    const float* between_scale;     // [in.channels], what a depthwise sum is multiplied by; null unless `in` is uint8
    const float* between_bias;      // [in.channels] or null
    const int8_t* four_rows;        // weights of a 3x3 depthwise part as bytes, or null; plan_depthwise_bytes.h says how
    const float* four_rows_rounding;  // [2][in.channels, up to whole blocks], with them: from a sum to the rounded row
    const void* weights;            // null for a depthwise convolution alone
    const Panel* panels;            // for all output channels, in their order
    const float* bias;              // [out.channels]
    const float* scale;             // [out.channels], what an integer sum is multiplied by; null unless weights are int8
    const float* between_rounding;  // [2][in.channels], or null unless the rows are rounded
    const float* out_rounding;      // [2][out.channels], or null unless the result is uint8
    const Span* row_spans;          // of a pooling: [out.height], with every dilation_y-th row
    const Span* column_spans;       // [out.width]
    int64_t runs, taps, length;     // of a copy, length is the number of channels copied; the rest become zeros
    int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_top, pad_left;
    int64_t given[ARRAYS];          // the bytes that lie at each of the pointers, in their order
    Function between, activation;
    int32_t kind, relu_first;
    int32_t largest;                // the larger of two maps rather than their sum
    int32_t float_out;              // the result is float32
    int32_t watched;                // the step must report if what it makes is not finite
    int32_t rounded_by_scale;       // `scale` and `bias` take an integer sum to the uint8 result, without out_rounding
};

struct Run {
    const Step* steps;
    int64_t count;
    char* arena;
    int64_t arena_bytes;
    int64_t scratch, scratch_bytes;  // each thread has scratch_bytes of the arena, the first from `scratch` on
    const float* image;              // [batch, C, H, W], element strides in `strides`
    int64_t strides[4];
    int64_t batch;
    int32_t threads, bf16;
    int32_t finite;                  // whether the images and all that was computed were; else the result means nothing
};

// What a run lacks: `step` needs a number of bytes, channels or pixels and was given fewer.
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
    void (*pointwise_forward)(const Pointwise&);
    void (*pointwise_backward)(const Pointwise&);
    void (*pointwise_weight)(const Pointwise&);
    void (*box)(const Box&);
    void (*channel_sums)(const Gate&);
    void (*channel_scale)(const Gate&);
    void (*pool_forward)(const Pool&);
    void (*pool_backward)(const Pool&);
    void (*update)(const Update&);
    bool (*run_plan)(const Run&);              // whether all values were finite
    int64_t (*scratch_bytes)(const Run&);      // of each thread
    bool (*has_room)(const Run&, Fault&);      // if false, the fault says what is lacking, and the plan must not run
    int64_t (*peak)(int precision, int64_t repetitions, int num_threads);
    void (*read_memory)(const float* values, int64_t count, int num_threads, float* sums);
    int64_t panel;   // output channels in a panel of a plan's weights
    int64_t parted;  // adjacent even channels between a depthwise convolution and a product in bfloat16, then as many odd ones
};

#pragma GCC visibility push(default)  // tests link another build of the interface with them
extern const Kernels kernels_portable, kernels_avx2, kernels_avx512, kernels_avx512bf16;
#pragma GCC visibility pop

// Plans with AMX, which are all that the path "amx" has of its own, and whether AMX works on this machine.
bool run_plan_amx(const Run&);
int64_t scratch_bytes_amx(const Run&);
bool has_room_amx(const Run&, Fault&);
bool amx_works();
