#include "fiber.h"

#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "switching fibers is written for x86-64: add the registers that functions preserve on this machine"
#endif

// Saves what a function has to preserve on the stack, exchanges the stacks, and loads the same there.
extern "C" void cuda_emulation_switch(void** save, void* load);
asm(R"(
.text
.hidden cuda_emulation_switch
.globl cuda_emulation_switch
.type cuda_emulation_switch,@function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch,.-cuda_emulation_switch
)");

namespace cuda_emulation {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int kPreserved = 6;

Fiber* previous = nullptr;  // that was left last
void (*fiber_main)() = nullptr;

// The sanitizer has to be told of each new stack: by the one who leaves, and by the one who arrives.
void leave(Fiber& from, Fiber& to, bool for_ever) {
  previous = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &from.shadow, to.stack, to.size);
#else
  (void)to, (void)for_ever;
#endif
}
void arrive(void* shadow) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(shadow, &previous->stack, &previous->size);
#else
  (void)shadow;
#endif
}

void enter() {
  arrive(nullptr);
  fiber_main();
  std::terminate();
}

}  // namespace

void use_stack(Fiber& fiber, int i) {
  static std::vector<std::unique_ptr<unsigned char[]>> stacks;
  while (int(stacks.size()) <= i) stacks.emplace_back(new unsigned char[kStackBytes]);
  fiber.stack = stacks[i].get();
  fiber.size = kStackBytes;
}

void start_fiber(Fiber& fiber, void (*main)()) {
  fiber_main = main;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, fiber.size);  // an earlier fiber may have been left in mid-course
#endif
  const uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack) + fiber.size) & ~uintptr_t(63);
  void** stack_pointer = reinterpret_cast<void**>(top) - 2;
  *stack_pointer = reinterpret_cast<void*>(&enter);  // where the switch returns to, with the stack aligned as in a call
  for (int i = 0; i < kPreserved; ++i) *--stack_pointer = nullptr;
  fiber.stack_pointer = stack_pointer;
}

void switch_fiber(Fiber& from, Fiber& to) {
  leave(from, to, false);
  cuda_emulation_switch(&from.stack_pointer, to.stack_pointer);
  arrive(from.shadow);
}

void end_fiber(Fiber& from, Fiber& to) {
  leave(from, to, true);
  cuda_emulation_switch(&from.stack_pointer, to.stack_pointer);
  std::terminate();
}

}  // namespace cuda_emulation
