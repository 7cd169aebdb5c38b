#include "core/parallel.h"

#include <exception>

#if defined(__SANITIZE_THREAD__)
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>
#endif

namespace transmamba {

bool has_openmp() {
#if defined(_OPENMP)
  return true;
#else
  return false;
#endif
}

#if defined(__SANITIZE_THREAD__)
// How OpenMP's threads wait for each other is hidden from ThreadSanitizer, which would report every task.
void run_tasks(int tasks, int threads, Task task, void* context) {
  std::exception_ptr error;
  std::mutex mutex;
  std::atomic<int> next{0};
  const auto work = [&] {
    for (int i; (i = next++) < tasks;) {
      try {
        task(i, context);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads && i < tasks; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (error) std::rethrow_exception(error);
}
#else
void run_tasks(int tasks, int threads, Task task, void* context) {
#if defined(_OPENMP)
  if (threads > 1 && tasks > 1) {
    std::exception_ptr error;
#pragma omp parallel for num_threads(threads < tasks ? threads : tasks) schedule(dynamic, 1)
    for (int i = 0; i < tasks; ++i) {
      try {
        task(i, context);
      } catch (...) {
#pragma omp critical(transmamba_task_error)
        if (!error) error = std::current_exception();
      }
    }
    if (error) std::rethrow_exception(error);
    return;
  }
#endif
  for (int i = 0; i < tasks; ++i) task(i, context);
}
#endif

}  // namespace transmamba
