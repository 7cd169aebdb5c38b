// Runs CUDA device code on the CPU, for tests: one block at a time, one fiber per CUDA thread.
//
// A fiber runs until it has to wait for others (a barrier, a warp primitive) or ends; the schedule says who goes on
// then. What a real GPU would leave undefined ends the launch with a std::runtime_error that names block, thread and
// source line: a deadlock, a warp primitive that lanes reach with different masks or at different lines, a barrier that
// threads reach at different lines.
#pragma once
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Those of the running thread.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace cuda_emulation {

// Where in the source a thread waits, and in what.
struct Place {
  const char* what;
  const char* file;
  int line;

  bool operator==(const Place& other) const {
    return line == other.line && what == other.what && (file == other.file || !std::strcmp(file, other.file));
  }
};

enum class Schedule { in_order, reverse, shuffled };
void use_schedule(Schedule schedule, uint32_t seed);

// Calls `thread` once for each thread of each block. Dynamic shared memory is filled with not-a-numbers before each
// block: all its bits are set.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

void* shared_memory();

void barrier(Place place);

// A lane hands in a word; when all lanes of the mask have, each gets the word of its source lane.
struct Votes {
  uint64_t word;   // of the source
  unsigned votes;  // the lanes whose words are not zero
};
Votes meet(unsigned mask, uint64_t word, int source, Place place);
int lane();

template <class T>
T exchange(unsigned mask, T value, int source, Place place) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a warp exchanges words of at most 8 bytes");
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  word = meet(mask, word, source, place).word;
  std::memcpy(static_cast<void*>(&value), &word, sizeof(T));
  return value;
}

}  // namespace cuda_emulation
