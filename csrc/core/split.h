// How a kernel's work is split into tasks. Per instruction set, like simd.h.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

// Calls (pass.*Phase)(task) for the tasks of one phase of a pass, with subnormal numbers flushed.
template <auto Phase, class Pass>
TM_INLINE void run_phase(Pass& pass, int tasks, int threads) {
  run_tasks(
      tasks, threads,
      [](int task, void* self) {
        const FlushSubnormals flush;
        (static_cast<const Pass*>(self)->*Phase)(task);
      },
      &pass);
}

// Tasks are slices of the batch times parts of the channels times, where those are too few, segments of the length or,
// in a recurrence, of its states; sums over what is split are taken task by task and added up in order.
struct Split {
  int slices, parts, segments = 1;

  Split(int64_t batch, int64_t tiles, int threads, int64_t most_segments = 1) {
    const int64_t most = 4 * int64_t(threads);
    slices = int(threads == 1 ? 1 : batch < most ? batch : most);
    parts = 1;
    if (slices < most && slices % threads != 0) parts = int(tiles < threads ? tiles : threads);
    const int64_t tasks = int64_t(slices) * parts;
    if (tasks > 0 && tasks < threads && most_segments > 1) {
      const int64_t wanted = (threads + tasks - 1) / tasks;
      segments = int(wanted < most_segments ? wanted : most_segments);
    }
  }
  int tasks() const { return slices * parts * segments; }
};
TM_INLINE int64_t bound(int64_t total, int index, int count) { return total * index / count; }

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
