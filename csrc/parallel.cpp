#include "parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace goskill {
namespace {

// Waking a sleeping thread takes about as long as filling a batch, so both sides look out for a while before
// they sleep: longer than a caller takes from one batch to the next. Measured by the clock, since a pause
// takes ten times as long on some processors as on others.
constexpr std::chrono::microseconds lookout{100};
constexpr int pauses = 32;  // between two looks at the clock

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

template <typename Condition>
bool spin_until(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + lookout;
    do {
        for (int i = 0; i < pauses; ++i) {
            if (condition()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

struct Job {
    const std::function<void(std::int64_t, std::int64_t)>* body;
    std::int64_t count;
    std::int64_t chunks;
    std::atomic<std::int64_t> next{1};  // the first chunk is the caller's
    std::atomic<std::int64_t> finished{0};
    std::mutex mutex;
    std::condition_variable done;
    std::exception_ptr error;

    void work() {
        for (std::int64_t chunk = next.fetch_add(1); chunk < chunks; chunk = next.fetch_add(1)) run(chunk);
    }

    void run(std::int64_t chunk) {
        const std::int64_t size = count / chunks;
        const std::int64_t larger = count % chunks;
        const std::int64_t begin = chunk * size + std::min(chunk, larger);
        const std::int64_t end = begin + size + (chunk < larger ? 1 : 0);
        try {
            (*body)(begin, end);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            if (!error) error = std::current_exception();
        }
        if (finished.fetch_add(1) + 1 == chunks) {
            const std::lock_guard<std::mutex> lock(mutex);
            done.notify_all();
        }
    }
};

class Pool {
  public:
    // Idle workers wait for jobs; each job is offered to as many workers as it has further chunks.
    void run(const std::shared_ptr<Job>& job) {
        const std::size_t helpers = static_cast<std::size_t>(job->chunks - 1);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            start_workers(helpers);
            queue_.insert(queue_.end(), std::min(helpers, workers_), job);
            waiting_.store(queue_.size());
        }
        wake_.notify_all();
        // Always the first chunk here: the memory it writes is then in this core's cache from the call
        // before.
        job->run(0);
        job->work();
        const auto finished = [&] { return job->finished.load() == job->chunks; };
        if (!spin_until(finished)) {
            std::unique_lock<std::mutex> lock(job->mutex);
            job->done.wait(lock, finished);
        }
        if (job->error) std::rethrow_exception(job->error);
    }

  private:
    // Where the system gives no more threads, those that there are do the work.
    void start_workers(std::size_t wanted) {
        try {
            for (; workers_ < wanted; ++workers_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
        }
    }

    void serve() {
        for (;;) {
            std::shared_ptr<Job> job;
            spin_until([&] { return waiting_.load() > 0; });
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return !queue_.empty(); });
                job = std::move(queue_.back());
                queue_.pop_back();
                waiting_.store(queue_.size());
            }
            job->work();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::shared_ptr<Job>> queue_;
    std::atomic<std::size_t> waiting_{0};  // jobs in the queue, for a look without the lock
    std::size_t workers_ = 0;
};

// Never destroyed: its threads outlive static destruction. A forked child has none of its parent's threads
// and starts a pool of its own.
Pool* pool = nullptr;
std::once_flag fork_handler;
std::mutex pool_mutex;

Pool& current_pool() {
    std::call_once(fork_handler, [] {
        pthread_atfork([] { pool_mutex.lock(); }, [] { pool_mutex.unlock(); },
                       [] {
                           pool = nullptr;
                           pool_mutex.unlock();
                       });
    });
    const std::lock_guard<std::mutex> lock(pool_mutex);
    if (pool == nullptr) pool = new Pool;
    return *pool;
}

}  // namespace

void parallel_for(std::int64_t count, int threads,
                  const std::function<void(std::int64_t, std::int64_t)>& body) {
    if (count <= 0) return;
    const std::int64_t chunks = std::min<std::int64_t>(count, std::max(threads, 1));
    if (chunks == 1) {
        body(0, count);
        return;
    }
    const auto job = std::make_shared<Job>();
    job->body = &body;
    job->count = count;
    job->chunks = chunks;
    current_pool().run(job);
}

}  // namespace goskill
