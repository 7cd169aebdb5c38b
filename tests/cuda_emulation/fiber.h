// Threads of control that take turns on one CPU: each has a stack, and switching saves and loads a few registers.
#pragma once
#include <cstddef>

namespace cuda_emulation {

struct Fiber {
  void* stack_pointer = nullptr;  // while it waits
  const void* stack = nullptr;    // its lowest address, and its size; not set in the thread's own, which is filled in
  size_t size = 0;                //   by the first switch
  void* shadow = nullptr;         // the address sanitizer's
};

// Gives the fiber stack number i, which is kept for the next one that asks for it.
void use_stack(Fiber& fiber, int i);
// Makes the next switch to it begin `main`, which must not return.
void start_fiber(Fiber& fiber, void (*main)());
// Leaves `from`, the running fiber, and goes on with `to`; returns when someone switches back.
void switch_fiber(Fiber& from, Fiber& to);
// The same for a fiber that will never go on.
[[noreturn]] void end_fiber(Fiber& from, Fiber& to);

}  // namespace cuda_emulation
