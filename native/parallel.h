// Fork and join on the thread pool PyTorch already runs, never on a second one.
//
// Two OpenMP runtimes in one process spin against each other for the same cores. So this library is not linked with
// any: the loader hands over the entry points of the runtime PyTorch has loaded, and without them all work is serial.
#pragma once

#include <cstdint>

struct ThreadPool {
    void (*run)(void (*body)(void*), void* data, unsigned num_threads, unsigned flags);  // GOMP_parallel
    int (*index)();                                                                     // omp_get_thread_num
    int (*size)();                                                                      // omp_get_num_threads
};

extern ThreadPool thread_pool;

namespace {

// Calls body(begin, end) with [0, count) split into one contiguous range a thread, always the same way: two passes over
// the same tensor meet the same rows on the same core.
template <class Body>
void parallel_for(int num_threads, int64_t count, const Body& body) {
    if (num_threads > count) num_threads = static_cast<int>(count);
    if (num_threads <= 1 || !thread_pool.run) {
        if (count > 0) body(int64_t{0}, count);
        return;
    }
    struct Job {
        const Body& body;
        int64_t count;
    } job{body, count};
    thread_pool.run(
        [](void* data) {
            const Job& job = *static_cast<const Job*>(data);
            const int64_t index = thread_pool.index(), size = thread_pool.size();
            const int64_t begin = job.count * index / size, end = job.count * (index + 1) / size;
            if (begin < end) job.body(begin, end);
        },
        &job, static_cast<unsigned>(num_threads), 0);
}

}  // namespace
