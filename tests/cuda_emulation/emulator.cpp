#include "emulator.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace cuda_emulation {
namespace {

constexpr int kMaxThreads = 1024;

struct Thread {
  Fiber fiber;
  uint3 index;
  bool ready = false, ended = false;
  Place place{};
  // of the warp primitive it waits in
  uint64_t word = 0;
  int source = 0;
  Votes result{};
};

// The lanes of one mask that wait for the others of it. A warp has one for each lowest lane of a mask.
struct Meeting {
  unsigned mask = 0, present = 0;
  Place place{};
};

// The block that runs. Not thread-local, which would be slow to reach: one launch at a time, see run.
struct Block {
  std::vector<Thread> threads;
  std::vector<Meeting> meetings;  // 32 per warp
  int running = 0, at_barrier = 0, left = 0;
  Place barrier_place{};
  std::vector<unsigned char> shared;
  const std::function<void()>* body = nullptr;
  Fiber caller;
  std::string problem;  // of the launch
};
Block block;

Schedule schedule = Schedule::in_order;
uint32_t seed = 1;

uint32_t random() {
  seed ^= seed << 13;
  seed ^= seed >> 17;
  return seed ^= seed << 5;
}

int count() { return int(block.threads.size()); }
Thread& self() { return block.threads[block.running]; }

std::string name(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}
std::string name(const Place& place) {
  return std::string(place.what) + " at " + place.file + ":" + std::to_string(place.line);
}
std::string name(const Thread& thread) {
  return "thread " + name(thread.index) + (thread.ended ? ", which has ended" : " in " + name(thread.place));
}

// Ends the launch: run() throws. The other fibers are left where they are.
[[noreturn]] void fail(const std::string& problem) {
  block.problem = "block " + name(blockIdx) + ": " + problem;
  switch_fiber(self().fiber, block.caller);
  std::terminate();
}

void go_to(int next) {
  Thread &from = self(), &to = block.threads[next];
  block.running = next;
  threadIdx = to.index;
  if (&from != &to) switch_fiber(from.fiber, to.fiber);
}

// The thread that goes on when `running` cannot, or -1.
int next_ready(int running) {
  const int n = count();
  int step = 1, next = running + 1;
  if (schedule == Schedule::reverse) {
    step = n - 1;
    next = running + n - 1;
  } else if (schedule == Schedule::shuffled) {
    const uint32_t draw = random();
    step = draw & 1 ? 1 : n - 1;
    next = int((draw >> 1) % n);
  }
  next %= n;
  for (int i = 0; i < n; ++i) {
    if (block.threads[next].ready) return next;
    next += step;
    if (next >= n) next -= n;
  }
  return -1;
}

// Waits until another thread makes this one ready again.
void wait(Place place) {
  Thread& me = self();
  me.place = place;
  me.ready = false;
  const int next = next_ready(block.running);
  if (next < 0) {
    std::string problem = "deadlock, no thread can go on: " + name(me);
    for (const Thread& other : block.threads)
      if (!other.ended && !(other.place == place)) return fail(problem + ", " + name(other));
    for (const Thread& other : block.threads)
      if (other.ended) return fail(problem + ", " + name(other));
    fail(problem);
  }
  go_to(next);
}

void release_barrier() {
  block.at_barrier = 0;
  for (Thread& thread : block.threads) thread.ready = !thread.ended;
}

// The whole life of a fiber.
void thread_main() {
  (*block.body)();
  Thread& me = self();
  me.ready = false;
  me.ended = true;
  --block.left;
  // On the GPU those that have ended count as arrived.
  if (block.left > 0 && block.at_barrier == block.left) release_barrier();
  if (block.left == 0) end_fiber(me.fiber, block.caller);
  const int next = next_ready(block.running);
  if (next < 0) {
    for (const Thread& other : block.threads)
      if (!other.ended) fail("deadlock: " + name(other) + " waits for " + name(me));
  }
  block.running = next;
  threadIdx = block.threads[next].index;
  end_fiber(me.fiber, block.threads[next].fiber);
}

void run_block(uint3 index) {
  blockIdx = index;
  std::fill(block.shared.begin(), block.shared.end(), 0xff);
  std::fill(block.meetings.begin(), block.meetings.end(), Meeting());
  block.at_barrier = 0;
  block.left = count();
  for (int i = 0; i < count(); ++i) {
    Thread& thread = block.threads[i];
    thread.ready = true;
    thread.ended = false;
    thread.place = {"its start", "", 0};
    start_fiber(thread.fiber, thread_main);
  }
  block.running = next_ready(count() - 1);
  if (schedule == Schedule::reverse) block.running = count() - 1;
  threadIdx = self().index;
  switch_fiber(block.caller, self().fiber);
  if (!block.problem.empty()) throw std::runtime_error("CUDA emulation: " + block.problem);
}

}  // namespace

void use_schedule(Schedule chosen, uint32_t chosen_seed) {
  schedule = chosen;
  seed = chosen_seed * 2654435761u | 1u;
}

void* shared_memory() { return block.shared.data(); }

int lane() { return block.running % warpSize; }

void barrier(Place place) {
  if (block.at_barrier > 0 && !(block.barrier_place == place))
    fail("thread " + name(self().index) + " in " + name(place) + ", others in " + name(block.barrier_place));
  block.barrier_place = place;
  if (++block.at_barrier == block.left) return release_barrier();
  wait(place);
}

Votes meet(unsigned mask, uint64_t word, int source, Place place) {
  const int me = lane(), first = block.running - me;
  if (!(mask >> me & 1)) fail("thread " + name(self().index) + " is not in its own mask in " + name(place));
  Meeting& meeting = block.meetings[first + __builtin_ctz(mask)];
  if (meeting.present == 0) {
    meeting.mask = mask;
    meeting.place = place;
  } else if (meeting.mask != mask || !(meeting.place == place)) {
    fail("thread " + name(self().index) + " in " + name(place) + ", other lanes of its warp in " + name(meeting.place) +
         (meeting.mask != mask ? " with another mask" : ""));
  }
  self().word = word;
  self().source = mask >> source & 1 ? source : me;
  meeting.present |= 1u << me;
  if (meeting.present != mask) {
    wait(place);
    return self().result;
  }
  meeting.present = 0;
  Votes result{0, 0};
  for (int i = 0; i < warpSize; ++i)
    if (mask >> i & 1 && block.threads[first + i].word) result.votes |= 1u << i;
  for (int i = 0; i < warpSize; ++i) {
    if (!(mask >> i & 1)) continue;
    Thread& other = block.threads[first + i];
    result.word = block.threads[first + other.source].word;
    other.result = result;
    other.ready = true;
  }
  return self().result;
}

void run(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& thread) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const int threads = int(size.x * size.y * size.z);
  if (threads < 1 || threads > kMaxThreads) throw std::runtime_error("CUDA emulation: block of a wrong size");
  block = Block();
  block.threads.resize(threads);
  for (int i = 0; i < threads; ++i) {
    const unsigned x = unsigned(i);
    block.threads[i].index = {x % size.x, x / size.x % size.y, x / size.x / size.y};
    use_stack(block.threads[i].fiber, i);
  }
  block.meetings.resize((threads + warpSize - 1) / warpSize * warpSize);
  block.shared.resize(shared_bytes);
  block.body = &thread;
  gridDim = grid;
  blockDim = size;

  // A launch must not depend on the order of its blocks either.
  std::vector<uint64_t> order(uint64_t(grid.x) * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  if (schedule == Schedule::reverse) std::reverse(order.begin(), order.end());
  if (schedule == Schedule::shuffled)
    for (uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  for (uint64_t i : order)
    run_block({unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)});
}

}  // namespace cuda_emulation

// For tests, which call it through ctypes: the module's binding is that of the real one.
extern "C" __attribute__((visibility("default"))) void cuda_emulation_schedule(int schedule, uint32_t seed) {
  cuda_emulation::use_schedule(cuda_emulation::Schedule(schedule), seed);
}
