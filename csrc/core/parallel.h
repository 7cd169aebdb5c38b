// Threads: run independent tasks on as many as the caller allows.
#pragma once

namespace transmamba {

using Task = void (*)(int index, void* context);

// Calls task(i, context) for i in [0, tasks). One thread never enters OpenMP: a forked child that does would hang.
// The first exception a task throws is rethrown here once all have ended.
void run_tasks(int tasks, int threads, Task task, void* context);

bool has_openmp();

}  // namespace transmamba
