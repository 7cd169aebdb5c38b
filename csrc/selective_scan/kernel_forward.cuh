// The forward pass of the selective scan on a GPU.
//
// A block takes one tile of channels. It walks over whole sequences or, where those are too few to fill a GPU, over
// chunks of them, in three launches: the states at the chunks' ends, each from a state of zero, with the sums of dt;
// the states that chunks start from, of these and of exp(A sum dt), the decay over a chunk; and the scan of every
// chunk.
#pragma once
#include <new>

#include "selective_scan/forward_tile.cuh"

namespace transmamba::cuda {

// Scans in turn: one may add to what the one before has written.
constexpr int kMostScans = 4;  // in one launch: as many as fit into a kernel's arguments
struct ForwardScans {
  ForwardViews scans[kMostScans];
  int count;
};

// The walk of a tile over the sequence, or the chunk of one, where its block stands.
template <class Layout>
__device__ __forceinline__ void scan_sequence(const ForwardViews& s, float* memory) {
  using Tile = ForwardTile<Layout>;
  constexpr int K = Tile::kChannels, N = Layout::kStates;
  float *y = memory + Tile::kY, *bias = memory + Tile::kBias, *D = memory + Tile::kD;
  const ForwardBlock& block = *reinterpret_cast<ForwardBlock*>(memory + Tile::kBlock);
  const ChannelTile& tile = block.tile;
  const Walk& w = block.walk;
  const int lane = threadIdx.x % Layout::kLanes, channel = threadIdx.x / Layout::kLanes * K;

  float A[K][N], h[K][N], total[K];
  load_states<Layout>(s.A, 0, tile, channel, lane, s.states, A);
  load_states<Layout>(s.initial_state, block.unit, tile, channel, lane, s.states, h);
#pragma unroll
  for (int c = 0; c < K; ++c) {
    total[c] = 0.0f;
#pragma unroll
    for (int n = 0; n < N; ++n) A[c][n] *= kLog2E;
  }
  for (int c = threadIdx.x; c < Tile::kWidth; c += blockDim.x) {
    const bool there = c < tile.channels;
    bias[c] = there ? number(s.delta_bias, w.batch, tile.first + c) : 0.0f;
    D[c] = there ? number(s.D, 0, tile.first + c) : 0.0f;
  }
  __syncthreads();
  for (int64_t start = 0; start < w.length; start += Tile::kSteps) {
    const int64_t rest = w.length - start;
    const int steps = int(rest < Tile::kSteps ? rest : Tile::kSteps);
    stage_steps<Tile>(block, s.softplus, start, steps, memory);
    stage_coefficients<Layout, Tile>(s, block.B, block.C, tile.channels, start, steps, memory);
    __syncthreads();
    const bool by_channel = s.channel_B || s.channel_C;
    if (s.ends.data) {
      if (by_channel)
        walk_tile<Layout, true, false>(s, memory, y, steps, channel, lane, A, h, total);
      else
        walk_tile<Layout, false, false>(s, memory, y, steps, channel, lane, A, h, total);
      __syncthreads();
      continue;
    }
    if (s.checkpoints.data && start % kScanCheckpoint == 0)
      store_states<Layout>(h, s.checkpoints, w.checkpoint + start / kScanCheckpoint, tile, channel, lane, s.states);
    if (by_channel)
      walk_tile<Layout, true, true>(s, memory, y, steps, channel, lane, A, h, total);
    else
      walk_tile<Layout, false, true>(s, memory, y, steps, channel, lane, A, h, total);
    __syncthreads();
    finish_steps<Tile>(block, s.D.data, start, steps, memory);
  }
  if (s.ends.data) {
    store_states<Layout>(h, s.ends, block.unit, tile, channel, lane, s.states);
#pragma unroll
    for (int c = 0; c < K; ++c)
      if (lane == 0 && channel + c < tile.channels)
        s.totals[block.unit * s.channels + tile.first + channel + c] = total[c];
  }
  if (s.last_state.data && block.last) store_states<Layout>(h, s.last_state, w.index, tile, channel, lane, s.states);
  if (s.checkpoints.data) {  // the same bits for the same arguments, where nothing is kept too
#pragma unroll
    for (int c = 0; c < K; ++c)
#pragma unroll
      for (int n = 0; n < N; ++n) h[c][n] = 0.0f;
    const int64_t used = (w.length + kScanCheckpoint - 1) / kScanCheckpoint;
    for (int64_t place = w.checkpoint + used; place < w.end_checkpoint; ++place)
      store_states<Layout>(h, s.checkpoints, place, tile, channel, lane, s.states);
  }
}

template <class Layout>
__global__ void __launch_bounds__(ForwardTile<Layout>::kThreads, ForwardTile<Layout>::kBlocks)
    scan_forward_kernel(const __grid_constant__ ForwardScans all) {
  using Tile = ForwardTile<Layout>;
  float* memory = shared_memory<float>();
  const ForwardViews& first = all.scans[0];
  for (int64_t unit = blockIdx.y; unit < first.sequences * first.chunks; unit += gridDim.y)
#pragma unroll 1
    for (int k = 0; k < all.count; ++k) {
      const ForwardViews& s = all.scans[k];
      __syncthreads();  // what the one before has written is there for all threads, and its memory is free
      if (threadIdx.x == 0)
        new (memory + Tile::kBlock) ForwardBlock(s, channel_tile<Tile::kWidth>(s, blockIdx.x), unit);
      __syncthreads();
      scan_sequence<Layout>(s, memory);
    }
}

}  // namespace transmamba::cuda
