// The backward pass of the selective scan on a GPU.
//
// A block has the channels of one tile in registers, as in the forward pass, and walks over a sequence from its last
// step to its first, a tile of steps at a time. The states of a tile are walked forward from its checkpoint and kept in
// shared memory where spans of a few steps start; then, from the last span to the first, they are recomputed into
// registers, where the adjoint meets them:
//
//   lambda_t = g_t C_t + decay_{t+1} lambda_{t+1}        q_t = decay_t lambda_t h_{t-1}
//   dC_t += g_t h_t   dB_t += lambda_t dtu_t   dA += q_t dt_t   and, for the tile's end, <lambda_t, B_t>, <q_t, A>, y_t
//
// dA stays in registers over time. dB and dC are summed over the channels of a warp by a transposed sum, over the warps
// in shared memory, and leave as one row a block; the sums over blocks and sequences follow in kernels of their own.
// There are no atomics: every sum has its order. Issue slots bind: of a state and step, eight instructions are the
// adjoint, four recompute the state, nearly four walk the tile ahead; the rest is sums over lanes and shared memory.
#pragma once
#include "selective_scan/backward_adjoint.cuh"
#include "selective_scan/backward_sums.cuh"

namespace transmamba::cuda {

// The state of a thread at a checkpoint: float32 (.., E, N), contiguous.
template <class Layout, int Channels>
__device__ void load_checkpoint(const ScanViews& s, const float* data, int64_t place, const ChannelTile& tile,
                                int channel, int lane, float (&to)[Channels][Layout::kStates]) {
#pragma unroll
  for (int c = 0; c < Channels; ++c)
#pragma unroll
    for (int i = 0; i < Layout::kStates; i += Layout::kVector) {
      const int n = Layout::state(lane, i);
      const float* from = data + (place * s.channels + tile.first + channel + c) * s.states + n;
      const bool there = channel + c < tile.channels;
#pragma unroll
      for (int j = 0; j < Layout::kVector; ++j) to[c][i + j] = 0.0f;
      if (there && s.states % Layout::kVector == 0) {
        if (n < s.states) load_vector(from, reinterpret_cast<float (&)[Layout::kVector]>(to[c][i]));
      } else if (there) {
#pragma unroll
        for (int j = 0; j < Layout::kVector; ++j)
          if (n + j < s.states) to[c][i + j] = from[j];
      }
    }
}

// What a block has in shared memory for a unit, before it starts.
template <class Tile>
__device__ __forceinline__ void start_unit(const BackwardViews& s, int64_t unit, float* memory) {
  __syncthreads();  // the unit before has been finished
  if (threadIdx.x == 0) {
    const Walk w = chunk_of(walk(s, unit / s.chunks), s.chunk_steps, unit % s.chunks);
    *block_of<Tile>(memory) = BackwardBlock(s, w, channel_tile<Tile::kWidth>(s, blockIdx.x), unit);
  }
  for (int i = Tile::kTotals + threadIdx.x; i < Tile::kBias; i += Tile::kThreads) memory[i] = 0.0f;
  __syncthreads();
  const BackwardBlock& block = *block_of<Tile>(memory);
  for (int c = threadIdx.x; c < Tile::kWidth; c += Tile::kThreads) {
    const bool there = c < block.tile.channels;
    memory[Tile::kBias + c] = there ? number(s.delta_bias, block.batch, block.tile.first + c) : 0.0f;
    memory[Tile::kD + c] = there ? number(s.D, 0, block.tile.first + c) : 0.0f;
  }
  __syncthreads();
}

template <class Layout, bool ByChannel>
__global__ void __launch_bounds__(BackwardTile<Layout, ByChannel>::kThreads,
                                  ByChannel ? 1 : BackwardTile<Layout, ByChannel>::kBlocks)
    scan_backward_kernel(const __grid_constant__ BackwardViews s) {
  using Tile = BackwardTile<Layout, ByChannel>;
  constexpr int K = Tile::kChannels, N = Layout::kStates;
  float* memory = shared_memory<float>();
  const BackwardBlock& block = *block_of<Tile>(memory);
  const int warp = threadIdx.x / kWarp;
  const RowSums<Layout, Tile> sums{s, block, memory};
  Adjoint<Layout, ByChannel> adjoint{s, memory};
  const int lane = adjoint.lane, channel = adjoint.channel;

  for (int next = blockIdx.y; next < s.units; next += gridDim.y) {
    start_unit<Tile>(s, next, memory);
    adjoint.start(block.tile);
    load_states<Layout>(s.dlast_state, block.unit, block.tile, channel, lane, s.states, adjoint.lambda);

    for (int i = int((block.length + Tile::kSteps - 1) / Tile::kSteps) - 1; i >= 0; --i) {
      const int64_t start = int64_t(i) * Tile::kSteps;
      const int64_t rest = block.length - start, chunk = start / kScanCheckpoint;
      const int steps = int(rest < Tile::kSteps ? rest : Tile::kSteps);
      const auto stage = [&](int64_t from, int count) {
        stage_adjoint<Tile>(s, block, from, count, memory);
        stage_coefficients<Layout, Tile>(s, block.B, block.C, block.tile.channels, from, count, memory);
        __syncthreads();
      };
      float state[K][N];
      load_checkpoint<Layout>(s, s.checkpoints, block.checkpoint + chunk, block.tile, channel, lane, state);
      if constexpr (Tile::kSteps < kScanCheckpoint)
        for (int64_t before = chunk * kScanCheckpoint; before < start; before += Tile::kSteps) {
          stage(before, Tile::kSteps);
          adjoint.template walk<false>(Tile::kSpans, state);
          __syncthreads();
        }
      stage(start, steps);

      const int spans = (steps + Tile::kSpan - 1) / Tile::kSpan;
      adjoint.template walk<true>(spans - 1, state);
#pragma unroll 1
      for (int k = spans - 1; k >= 0; --k) {
        const int t = k * Tile::kSpan, in_sums = t % Tile::kSumSteps;
        adjoint.span(t, state, memory + Tile::kWarpSums + (warp * Tile::kSumSteps + in_sums) * Tile::kSumRow);
        if (in_sums == 0) {
          __syncthreads();
          sums.add(start + t, steps - t);
          __syncthreads();
        }
        if (k > 0) adjoint.kept_state(k - 1, state);
      }
      finish_adjoint<Tile>(s, block, start, steps, memory);
      __syncthreads();
      sum_over_steps<Tile>(steps, memory);
      __syncthreads();
    }

    sums.finish();
    const auto store = [&](const View& to, const float (&from)[K][N]) {
      if (to.data) store_states<Layout>(from, to, block.unit, block.tile, channel, lane, s.states);
    };
    store(s.dA, adjoint.dA);
    if (s.dinitial_state.data && block.unit % s.chunks == 0)
      store_states<Layout>(adjoint.lambda, s.dinitial_state, block.sequence, block.tile, channel, lane, s.states);
    if constexpr (ByChannel) {
      store(s.channel_dB, adjoint.dB);
      store(s.channel_dC, adjoint.dC);
    }
    for (int c = threadIdx.x; c < block.tile.channels; c += Tile::kThreads) {
      const int64_t to = block.unit * s.channels + block.tile.first + c;
      if (s.dbias) s.dbias[to] = memory[Tile::kChannelTotals + StepSizes<K>::dt(c)];
      if (s.dD) s.dD[to] = memory[Tile::kChannelTotals + StepSizes<K>::dtu(c)];
    }
  }
}

}  // namespace transmamba::cuda
