// Fork and join on the thread pool PyTorch already runs, never on a second one.
//
// Two OpenMP runtimes in one process spin against each other for the same cores. So this library is not linked with
// any: the loader hands over the entry points of the runtime PyTorch has loaded, and without them all work is serial.
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

// What a thread of a team tells the others. Each of these lies in a cache line of its own, for a line that two cores
// write travels between them.
struct Member {
    alignas(64) std::atomic<int64_t> claims[2];  // of the parts of its share; of pieces with an even and an odd number
    alignas(64) std::atomic<int64_t> done;       // pieces of work
};
constexpr int64_t MEMBER_BYTES = 128;
static_assert(sizeof(Member) == MEMBER_BYTES, "the caller makes room for so much");

// Threads that share out pieces of work, each made of so many parts, and meet between two pieces.
class Team {
  public:
    // The member of thread i lies at `first + i * stride`.
    Team(char* first, int64_t stride, int threads) : first(first), stride(stride) {
        for (int i = 0; i < threads; i++) new (first + i * stride) Member{};
    }

    // The next of the `parts` of piece `work` for thread `index`; `parts` if none is left. A thread takes those of its
    // own share first, that it finds in its cache what it wrote there in the piece before.
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

    // Piece `work` is done for thread `index`; returns when it is for all.
    void wait(int64_t work, int index, int threads) {
        // Nobody looks at the claims of the piece before any more, and nobody yet at those of the next.
        member(index).claims[(work + 1) % 2].store(0, std::memory_order_relaxed);
        member(index).done.store(work + 1, std::memory_order_release);
        for (int i = 1, spins = 0; i < threads; i++)
            for (; member((index + i) % threads).done.load(std::memory_order_acquire) <= work; spins++) {
#ifdef __x86_64__
                _mm_pause();
#endif
                if (spins > 20000) sched_yield();  // the others may not be running at all
            }
    }

  private:
    Member& member(int index) const { return *reinterpret_cast<Member*>(first + index * stride); }

    char* const first;
    const int64_t stride;
};

}  // namespace
