// The C interface: raw pointers and sizes, dispatched to the best instruction set of the machine.
#include <cstring>
#ifdef __x86_64__
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "parallel.h"

ThreadPool thread_pool = {nullptr, nullptr, nullptr};

#ifdef __x86_64__
// Whether the processor has AMX, the system lets this process use it, and it computes correctly.
static bool has_tiles() {
#if defined(NATIVE_AMX_EMULATED)
    return amx_works();
#elif defined(__linux__)
    constexpr unsigned BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25, STATE = 3 << 17;
    unsigned eax, ebx, ecx, edx, low, high;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || ~edx & (BF16 | TILE | INT8)) return false;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));  // the state that the system saves for a thread
    if (~low & STATE) return false;
    // Linux saves the state of tiles only for a process that asks, and refuses if one of its signal stacks is too
    // small.
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) && amx_works();
#else
    return false;
#endif
}
#endif

static bool supported(const char* isa) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!std::strcmp(isa, "amx")) {
        static const bool tiles = supported("avx512bf16") && has_tiles();  // asked once
        return tiles;
    }
    if (!std::strcmp(isa, "avx512bf16"))
        return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") && supported("avx512");
    if (!std::strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && supported("avx2");
    if (!std::strcmp(isa, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
    return !std::strcmp(isa, "portable");
}

static const Kernels* table(const char* isa) {
    if (!supported(isa)) return nullptr;
#ifdef __x86_64__
    if (!std::strcmp(isa, "amx")) {
        static const Kernels with_tiles = [] {
            Kernels kernels = kernels_avx512bf16;
            kernels.run_plan = run_plan_amx;
            kernels.scratch_bytes = scratch_bytes_amx;
            kernels.has_room = has_room_amx;
            return kernels;
        }();
        return &with_tiles;
    }
    if (!std::strcmp(isa, "avx512bf16")) return &kernels_avx512bf16;
    if (!std::strcmp(isa, "avx512")) return &kernels_avx512;
    if (!std::strcmp(isa, "avx2")) return &kernels_avx2;
#endif
    return &kernels_portable;
}

static const Kernels* kernels = &kernels_portable;

#pragma GCC visibility push(default)
extern "C" {

// Chooses the instruction set ("amx", "avx512bf16", "avx512", "avx2" or "portable"); returns 0 if this machine lacks
// it.
int depthwise_use(const char* isa) {
    const Kernels* chosen = table(isa);
    if (chosen) kernels = chosen;
    return chosen != nullptr;
}

void depthwise_threads(decltype(ThreadPool::run) run, decltype(ThreadPool::index) index,
                       decltype(ThreadPool::size) size) {
    thread_pool = {run, index, size};
}

// Returns the number of structs, and fills in the sizes of the first `capacity` of them in the order below. A caller
// whose structs have other sizes must not call the kernels.
int64_t depthwise_struct_sizes(int64_t* sizes, int64_t capacity) {
    const int64_t all[] = {sizeof(Statistics), sizeof(Normalise), sizeof(Reduce),
                           sizeof(NormGradient), sizeof(Depthwise), sizeof(Pointwise), sizeof(Pool),
                           sizeof(Box), sizeof(Gate),
                           sizeof(Moved), sizeof(Rates), sizeof(Update),
                           sizeof(Step), sizeof(Run), sizeof(Fault)};
    const int64_t count = sizeof all / sizeof *all;
    std::memcpy(sizes, all, sizeof *all * (count < capacity ? count : capacity));
    return count;
}

void depthwise_statistics(const Statistics* p) { kernels->statistics(*p); }
void depthwise_normalise(const Normalise* p) { kernels->normalise(*p); }
void depthwise_reduce(const Reduce* p) { kernels->reduce(*p); }
void depthwise_norm_gradient(const NormGradient* p) { kernels->norm_gradient(*p); }
void depthwise_depthwise_forward(const Depthwise* p) { kernels->depthwise_forward(*p); }
void depthwise_depthwise_backward(const Depthwise* p) { kernels->depthwise_backward(*p); }
void depthwise_pointwise_forward(const Pointwise* p) { kernels->pointwise_forward(*p); }
void depthwise_pointwise_backward(const Pointwise* p) { kernels->pointwise_backward(*p); }
void depthwise_pointwise_weight(const Pointwise* p) { kernels->pointwise_weight(*p); }
void depthwise_box(const Box* p) { kernels->box(*p); }
void depthwise_channel_sums(const Gate* p) { kernels->channel_sums(*p); }
void depthwise_channel_scale(const Gate* p) { kernels->channel_scale(*p); }
void depthwise_pool_forward(const Pool* p) { kernels->pool_forward(*p); }
void depthwise_update(const Update* p) { kernels->update(*p); }
// The `scratch_bytes` that a run needs. Its arena, offsets and image need not be set yet.
int64_t depthwise_scratch_bytes(const Run* run) { return kernels->scratch_bytes(*run); }
// Runs several plans at the same time, each on one thread, or a single plan on any number of threads. Returns 0, or
// what the first run that lacks something lacks; then nothing was run.
int64_t depthwise_run_plans(Run* runs, int64_t count, Fault* fault) {
    for (int64_t i = 0; i < count; i++)
        if (!kernels->has_room(runs[i], *fault)) return fault->lack;
    parallel_for(static_cast<int>(count), count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) runs[i].finite = kernels->run_plan(runs[i]);
    });
    return NOTHING_LACKS;
}
int64_t depthwise_peak(int precision, int64_t repetitions, int num_threads) {
    return kernels->peak(precision, repetitions, num_threads);
}
void depthwise_read_memory(const float* values, int64_t count, int num_threads, float* sums) {
    kernels->read_memory(values, count, num_threads, sums);
}
int64_t depthwise_panel() { return kernels->panel; }
int64_t depthwise_parted() { return kernels->parted; }
void depthwise_pool_backward(const Pool* p) { kernels->pool_backward(*p); }
}
#pragma GCC visibility pop
