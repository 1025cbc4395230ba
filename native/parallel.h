// Fork and join on the thread pool PyTorch already runs, never on a second one.
//
// Two OpenMP runtimes in one process spin against each other for the same cores. So this library is not linked with
// any: the loader hands over the entry points of the runtime PyTorch has loaded, and without them all work is serial.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include <sched.h>

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

// Calls body(index, number of threads) once on each thread, all at the same time.
template <class Body>
void on_all_threads(int num_threads, const Body& body) {
    if (num_threads <= 1 || !thread_pool.run) return body(0, 1);
    thread_pool.run(
        [](void* data) { (*static_cast<const Body*>(data))(thread_pool.index(), thread_pool.size()); },
        const_cast<Body*>(&body), static_cast<unsigned>(num_threads), 0);
}

// Threads that share out pieces of work, each made of so many parts, and meet between two pieces.
class Team {
  public:
    // `claims` has a place for each thread and each of `count` pieces of work.
    Team(int64_t* claims, int64_t count, int threads) : claims(claims), count(count) {
        std::fill(claims, claims + count * threads, 0);
    }

    // The next of the `parts` of piece `work` for thread `index`; `parts` if none is left. A thread takes those of its
    // own share first, that it finds in its cache what it wrote there in the piece before.
    int64_t claim(int64_t work, int64_t parts, int index, int threads) {
        for (int i = 0; i < threads; i++) {
            const int owner = (index + i) % threads;
            const int64_t begin = parts * owner / threads, end = parts * (owner + 1) / threads;
            const int64_t part = begin + __atomic_fetch_add(&claims[owner * count + work], 1, __ATOMIC_RELAXED);
            if (part < end) return part;
        }
        return parts;
    }

    void wait(int threads) {
        const int64_t round = rounds.load(std::memory_order_acquire);
        if (waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            waiting.store(0, std::memory_order_relaxed);
            rounds.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; rounds.load(std::memory_order_acquire) == round; spins++) {
#ifdef __x86_64__
            _mm_pause();
#endif
            if (spins > 20000) sched_yield();  // the others may not be running at all
        }
    }

  private:
    int64_t* const claims;
    const int64_t count;
    alignas(64) std::atomic<int> waiting{0};
    alignas(64) std::atomic<int64_t> rounds{0};
};

}  // namespace
