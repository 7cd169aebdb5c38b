// Sequences in chunks: how long these are, and from their ends, walked from nothing, to what they start from.
#pragma once
#include "core/launch.cuh"
#include "selective_scan/scan_tile.cuh"

namespace transmamba::cuda {

constexpr int64_t kLeastChunk = 128;  // steps

// Of the chunks that fill all multiprocessors where whole sequences leave half of them without a block; else, length.
inline int64_t chunk_steps(int64_t length, int64_t blocks, int64_t multiprocessors, int resident) {
  if (blocks == 0 || 2 * blocks > multiprocessors) return length;
  const int64_t chunks = resident * multiprocessors / blocks, even = (length + chunks - 1) / chunks;
  const int64_t least = even < kLeastChunk ? kLeastChunk : even;
  return (least + kScanCheckpoint - 1) / kScanCheckpoint * kScanCheckpoint;
}

// A state is linear in the one that its chunk starts from, times exp(A (sum of dt)); so is an adjoint, backwards.
struct ChunkCarry {
  View A, start;    // start: (sequences, E, N), of whole sequences; or not given: 0
  float* ends;      // (sequences, chunks, E, N); the starts take their place
  const float* dt;  // (sequences, chunks, E), summed over a chunk
  int64_t sequences, chunks, channels, states;
  bool backwards;  // from the last chunk to the first
};

constexpr int kCarryThreads = 256;

// A thread takes one state of a sequence.
static __global__ void __launch_bounds__(kCarryThreads) chunk_carry_kernel(ChunkCarry c) {
  const int64_t states = c.channels * c.states, i = blockIdx.x * int64_t(kCarryThreads) + threadIdx.x;
  if (i < c.sequences * states) {
    const int64_t sequence = i / states, state = i % states, channel = state / c.states, n = state % c.states;
    const auto read = [&](const View& x) {
      return load(x.data, x.dtype, sequence * x.batch + channel * x.channel + n * x.state);
    };
    const float A = kLog2E * read(c.A);
    float h = c.start.data ? read(c.start) : 0.0f;
    for (int64_t k = 0; k < c.chunks; ++k) {
      const int64_t chunk = sequence * c.chunks + (c.backwards ? c.chunks - 1 - k : k);
      float& place = c.ends[chunk * states + state];
      const float end = place;
      place = h;
      h = fmaf(exp2(A * c.dt[chunk * c.channels + channel]), h, end);
    }
  }
}

inline void launch_carry(const ChunkCarry& carry, const Stream& stream) {
  const int64_t blocks = (carry.sequences * carry.channels * carry.states + kCarryThreads - 1) / kCarryThreads;
  launch(chunk_carry_kernel, dim3(unsigned(blocks)), dim3(kCarryThreads), 0, stream, carry);
}

}  // namespace transmamba::cuda
