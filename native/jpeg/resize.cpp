// An antialiased resize of a rectangle whose corners may lie between pixels, as Pillow's `resize(box=...)` computes it:
// float32 sums in a fixed order, so the bits are the same wherever it runs.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

// Fields are those of `_Resize` in data/region.py. `image` is [height, width, channels] and `out` [out_height,
// out_width, channels], both without gaps; the rectangle is within the image. cubic: bicubic (a = -0.5), else bilinear.
struct Resize {
    const uint8_t* image;
    int64_t height, width, channels;
    double top, left, rows, columns;
    int64_t out_height, out_width;
    int64_t cubic;
    uint8_t* out;
};

namespace {

typedef float Vector __attribute__((vector_size(16), aligned(4)));

double triangle(double x) { return std::max(0.0, 1 - std::fabs(x)); }

double keys_cubic(double x) {
    constexpr double A = -0.5;
    x = std::fabs(x);
    if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * A : 0;
}

// Of each output pixel: where its input pixels begin, how many they are, and their weights.
struct Taps {
    std::vector<int64_t> first, count;
    std::vector<float> weights;
    int64_t most;
    const float* of(int64_t k) const { return weights.data() + k * most; }
};

Taps taps_of(int64_t size, double start, double length, int64_t out, bool cubic) {
    const double step = length / out, wide = std::max(step, 1.0), reach = (cubic ? 2 : 1) * wide;
    const int64_t low = static_cast<int64_t>(start), high = std::min<int64_t>(size, std::ceil(start + length));
    Taps taps;
    taps.most = static_cast<int64_t>(std::ceil(reach)) * 2 + 1;
    taps.first.resize(out), taps.count.resize(out), taps.weights.resize(out * taps.most);
    std::vector<double> raw(taps.most);
    for (int64_t k = 0; k < out; ++k) {
        const double centre = start + (k + 0.5) * step;
        const int64_t first = std::max<int64_t>(low, std::floor(centre - reach + 0.5));
        const int64_t last = std::min({high, static_cast<int64_t>(std::floor(centre + reach + 0.5)), first + taps.most});
        double sum = 0;
        for (int64_t i = first; i < last; ++i)
            sum += raw[i - first] = (cubic ? keys_cubic : triangle)((i - centre + 0.5) / wide);
        taps.first[k] = first, taps.count[k] = last - first;
        for (int64_t i = first; i < last; ++i)
            taps.weights[k * taps.most + i - first] = static_cast<float>(raw[i - first] / sum);
    }
    return taps;
}

// sums[i] = the weighted sum of pixel i of several rows.
void add_rows(const uint8_t* row, int64_t stride, int64_t count, const float* weights, int64_t size, float* sums) {
    const float first = weights[0];
    for (int64_t i = 0; i < size; ++i) sums[i] = first * row[i];
    int64_t k = 1;
    for (; k + 1 < count; k += 2) {
        const uint8_t *a = row + k * stride, *b = a + stride;
        const float of_a = weights[k], of_b = weights[k + 1];
        for (int64_t i = 0; i < size; ++i) sums[i] += of_a * a[i] + of_b * b[i];
    }
    if (k < count) {
        const uint8_t* a = row + k * stride;
        const float of_a = weights[k];
        for (int64_t i = 0; i < size; ++i) sums[i] += of_a * a[i];
    }
}

// sums: pixels of CHANNELS floats, and room for a Vector after the last.
template <int CHANNELS>
void write_row(const float* sums, const Taps& taps, int64_t out_width, uint8_t* out) {
    for (int64_t x = 0; x < out_width; ++x, out += CHANNELS) {
        const float *weights = taps.of(x), *pixel = sums + taps.first[x] * CHANNELS;
        Vector sum = {0.5f, 0.5f, 0.5f, 0.5f};
        for (int64_t k = 0; k < taps.count[x]; ++k)
            sum += weights[k] * *reinterpret_cast<const Vector*>(pixel + k * CHANNELS);
        sum = sum < 0.0f ? Vector{} : sum;
        sum = sum > 255.0f ? Vector{} + 255.0f : sum;
        for (int c = 0; c < CHANNELS; ++c) out[c] = static_cast<uint8_t>(static_cast<int>(sum[c]));
    }
}

}  // namespace

extern "C" {

// Whether `out` is filled: false if the rectangle is not within the image, or there is no memory.
__attribute__((visibility("default"))) int depthwise_resize(const Resize* r) {
    const bool within = r->top >= 0 && r->left >= 0 && r->rows > 0 && r->columns > 0 && r->height > 0 &&
                        r->width > 0 && r->top + r->rows <= r->height && r->left + r->columns <= r->width;
    if (!within || (r->channels != 1 && r->channels != 3) || r->out_height < 1 || r->out_width < 1) return 0;
    try {
        const Taps down = taps_of(r->height, r->top, r->rows, r->out_height, r->cubic);
        const Taps across = taps_of(r->width, r->left, r->columns, r->out_width, r->cubic);
        const int64_t size = r->width * r->channels;
        std::vector<float> sums(size + 4);
        for (int64_t y = 0; y < r->out_height; ++y) {
            add_rows(r->image + down.first[y] * size, size, down.count[y], down.of(y), size, sums.data());
            (r->channels == 1 ? write_row<1> : write_row<3>)(sums.data(), across, r->out_width,
                                                            r->out + y * r->out_width * r->channels);
        }
    } catch (const std::bad_alloc&) {
        return 0;
    }
    return 1;
}

__attribute__((visibility("default"))) int64_t depthwise_resize_struct_size() { return sizeof(Resize); }

}  // extern "C"
