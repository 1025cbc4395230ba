// Fork and join on PyTorch's own thread pool.
//
// Two OpenMP runtimes in one process compete for the same cores, because their idle threads spin. So this library links
// none: the loader passes the entry points of the runtime that PyTorch has loaded. Without them everything is serial.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
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

// Calls body(begin, end) on each thread with its contiguous part of [0, count). The split is always the same, so two
// passes over a tensor see the same rows on the same core.
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

// What a thread of a team shares with the others. Each field has a cache line of its own, because a line that two cores
// write moves between them.
struct Member {
    alignas(64) std::atomic<int64_t> claims[2];  // claimed parts of its share, for even and for odd pieces
    alignas(64) std::atomic<int64_t> done;       // pieces that this thread has finished
};
constexpr int64_t MEMBER_BYTES = 128;
static_assert(sizeof(Member) == MEMBER_BYTES, "scratch_bytes counts on it");

// Threads that work on one piece after another. They share the parts of a piece, and wait for each other before the
// next.
class Team {
  public:
    // The member of thread i lies at `first + i * stride`.
    Team(char* first, int64_t stride, int threads) : first(first), stride(stride) {
        for (int i = 0; i < threads; i++) new (first + i * stride) Member{};
    }

    // The next part of piece `work` for thread `index`, or `parts` if none is left. A thread takes the parts of its own
    // share first: its cache still holds what it wrote there in the piece before.
    int64_t claim(int64_t work, int64_t parts, int index, int threads) {
        for (int i = 0; i < threads; i++) {
            const int owner = (index + i) % threads;
            if (i && member(owner).done.load(std::memory_order_relaxed) > work) continue;
            const int64_t begin = parts * owner / threads, end = parts * (owner + 1) / threads;
            const int64_t part = begin + member(owner).claims[work % 2].fetch_add(1, std::memory_order_relaxed);
            if (part < end) return part;
        }
        return parts;
    }

    // Thread `index` has finished piece `work`; returns when all threads have.
    void wait(int64_t work, int index, int threads) {
        // These claims were for the piece before and will be for the next: no thread reads them now.
        member(index).claims[(work + 1) % 2].store(0, std::memory_order_relaxed);
        member(index).done.store(work + 1, std::memory_order_release);
        for (int i = 1, spins = 0; i < threads; i++)
            for (; member((index + i) % threads).done.load(std::memory_order_acquire) <= work; spins++) {
#ifdef __x86_64__
                _mm_pause();
#endif
                if (spins > 20000) sched_yield();  // the other threads may have lost their cores
            }
    }

  private:
    Member& member(int index) const { return *reinterpret_cast<Member*>(first + index * stride); }

    char* const first;
    const int64_t stride;
};

}  // namespace
