#include "core/parallel.h"

#include <exception>

namespace transmamba {

bool has_openmp() {
#if defined(_OPENMP)
  return true;
#else
  return false;
#endif
}

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

}  // namespace transmamba
