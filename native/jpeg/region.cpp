// A rectangle of a JPEG by libjpeg-turbo's own API: only its rows and columns are transformed, upsampled and converted,
// at a DCT scale of 1/8 to 8/8, and nothing below it is read. The pixels are those of the whole image at that scale.

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include <jpeglib.h>

namespace {

// What libjpeg says, as an answer in place of a message and exit(). A warning ends the decoding, too: what is damaged is
// left to the caller, who reads the whole file strictly.
struct Errors {
    jpeg_error_mgr base;
    jmp_buf back;
};

void give_up(j_common_ptr info) { longjmp(reinterpret_cast<Errors*>(info->err)->back, 1); }

void give_up_on_warning(j_common_ptr info, int level) {
    if (level < 0) give_up(info);
}

void say_nothing(j_common_ptr) {}

}  // namespace

// Fields are those of `_Region` in data/region.py. Lengths are in pixels, those of the rectangle in pixels of the scaled
// image; `out` has room for rows * columns * components bytes.
struct Region {
    const uint8_t* data;
    int64_t size;
    int64_t height, width, components;
    int64_t eighths;
    int64_t top, left, rows, columns;
    uint8_t* out;
};

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Between setjmp and its longjmp nothing is constructed: `line` belongs to the caller, and `info` is destroyed there.
bool decode(jpeg_decompress_struct* info, Errors* errors, const Region* region, std::vector<uint8_t>* line) {
    if (setjmp(errors->back)) return false;
    jpeg_create_decompress(info);
    jpeg_mem_src(info, region->data, static_cast<unsigned long>(region->size));
    if (jpeg_read_header(info, TRUE) != JPEG_HEADER_OK) return false;
    if (info->image_height != region->height || info->image_width != region->width ||
        info->num_components != region->components || info->data_precision != 8)
        return false;
    info->out_color_space = region->components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    info->scale_num = static_cast<unsigned>(region->eighths);
    info->scale_denom = 8;
    info->dct_method = JDCT_ISLOW;
    jpeg_start_decompress(info);
    const int64_t bottom = region->top + region->rows, right = region->left + region->columns;
    if (bottom > info->output_height || right > info->output_width || info->output_components != region->components)
        return false;

    // The upsampling of chroma looks at neighbours, which at the border of what is decoded are made up: an MCU more on
    // each side. Rows are skipped from the top by whole rows of MCUs.
    const int64_t unit = info->min_DCT_scaled_size;
    const int64_t across = unit * info->max_h_samp_factor, down = unit * info->max_v_samp_factor;
    JDIMENSION first = static_cast<JDIMENSION>(std::max<int64_t>(0, (region->left / across - 1) * across));
    JDIMENSION width = static_cast<JDIMENSION>(
        std::min<int64_t>(info->output_width, (ceil_div(right, across) + 1) * across) - first);
    if (width < info->output_width) jpeg_crop_scanline(info, &first, &width);
    if (first > region->left || first + width < right) return false;
    const int64_t skipped = std::max<int64_t>(0, (region->top / down - 1) * down);
    if (skipped > 0 && jpeg_skip_scanlines(info, static_cast<JDIMENSION>(skipped)) != skipped) return false;

    // libjpeg writes whole MCUs of some widths, so each row goes through a line that has room for them.
    const size_t row_bytes = static_cast<size_t>(region->columns * region->components);
    JSAMPROW row = line->data();
    for (int64_t y = skipped; y < bottom; ++y) {
        if (jpeg_read_scanlines(info, &row, 1) != 1) return false;
        if (y >= region->top)
            memcpy(region->out + (y - region->top) * row_bytes, row + (region->left - first) * region->components,
                   row_bytes);
    }
    return true;
}

}  // namespace

extern "C" {

// Whether the pixels are in `out`; false for whatever is damaged, unusual or not what the caller takes it for.
__attribute__((visibility("default"))) int depthwise_jpeg_region(const Region* region) {
    if (region->eighths < 1 || region->eighths > 8 || region->size < 4 || region->top < 0 || region->left < 0 ||
        region->rows < 1 || region->columns < 1 || region->width < 1 || region->width > 65535 || region->height < 1 ||
        region->height > 65535 || (region->components != 1 && region->components != 3))
        return 0;
    std::vector<uint8_t> line;
    try {
        line.resize(static_cast<size_t>(region->width + 256) * 4);
    } catch (const std::bad_alloc&) {
        return 0;
    }
    jpeg_decompress_struct info;
    Errors errors;
    memset(&info, 0, sizeof info);
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = give_up;
    errors.base.emit_message = give_up_on_warning;
    errors.base.output_message = say_nothing;
    const bool done = decode(&info, &errors, region, &line);
    jpeg_destroy_decompress(&info);
    return done;
}

#define TEXT(name) #name
#define TEXT_OF(macro) TEXT(macro)

// The version of libjpeg-turbo whose headers this was built with.
__attribute__((visibility("default"))) const char* depthwise_jpeg_turbo() { return TEXT_OF(LIBJPEG_TURBO_VERSION); }

__attribute__((visibility("default"))) int64_t depthwise_jpeg_struct_size() { return sizeof(Region); }

}  // extern "C"
