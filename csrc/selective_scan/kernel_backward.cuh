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
__device__ __forceinline__ void start_unit(const BackwardViews& s, const Walk& w, const ChannelTile& tile, int64_t unit,
                                           float* memory) {
  __syncthreads();  // the unit before has been finished
  if (threadIdx.x == 0) *planes_of<Tile>(memory) = BackwardPlanes(s, w, tile, unit);
  for (int i = Tile::kTotals + threadIdx.x; i < Tile::kBias; i += Tile::kThreads) memory[i] = 0.0f;
  for (int c = threadIdx.x; c < Tile::kWidth; c += Tile::kThreads) {
    const bool there = c < tile.channels;
    memory[Tile::kBias + c] = there ? number(s.delta_bias, w.batch, tile.first + c) : 0.0f;
    memory[Tile::kD + c] = there ? number(s.D, 0, tile.first + c) : 0.0f;
  }
  __syncthreads();
}

template <class Layout, bool ByChannel>
__global__ void __launch_bounds__(BackwardTile<Layout, ByChannel>::kThreads,
                                  ByChannel ? 1 : BackwardTile<Layout, ByChannel>::kBlocks)
    scan_backward_kernel(BackwardViews s) {
  using Tile = BackwardTile<Layout, ByChannel>;
  constexpr int K = Tile::kChannels, N = Layout::kStates;
  float* memory = shared_memory<float>();
  const BackwardPlanes& planes = *planes_of<Tile>(memory);
  const ChannelTile tile = channel_tile<Tile::kWidth>(s, blockIdx.x);
  const int warp = threadIdx.x / kWarp;
  const RowSums<Layout, Tile> sums{s, planes, memory};

  Adjoint<Layout, ByChannel> adjoint{s, memory};
  const int lane = adjoint.lane, channel = adjoint.channel;
  adjoint.load_A(tile);

  for (int64_t unit = blockIdx.y; unit < s.units; unit += gridDim.y) {
    const Walk w = chunk_of(walk(s, unit / s.chunks), s.chunk_steps, unit % s.chunks);
    load_states<Layout>(s.dlast_state, unit, tile, channel, lane, s.states, adjoint.lambda);
    adjoint.clear();
    start_unit<Tile>(s, w, tile, unit, memory);

    const int64_t tiles = (w.length + Tile::kSteps - 1) / Tile::kSteps;
    for (int64_t start = (tiles - 1) * Tile::kSteps; start >= 0; start -= Tile::kSteps) {
      const int64_t rest = w.length - start, chunk = start / kScanCheckpoint;
      const int steps = int(rest < Tile::kSteps ? rest : Tile::kSteps);
      const auto stage = [&](int64_t from, int count) {
        stage_adjoint<Tile>(s, planes, from, count, tile.channels, memory);
        stage_coefficients<Layout, Tile>(s, planes.B, planes.C, tile.channels, from, count, memory);
        __syncthreads();
      };
      float state[K][N];
      load_checkpoint<Layout>(s, s.checkpoints, w.checkpoint + chunk, tile, channel, lane, state);
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
      for (int i = spans - 1; i >= 0; --i) {
        const int t = i * Tile::kSpan, in_sums = t % Tile::kSumSteps;
        adjoint.span(t, state, memory + Tile::kWarpSums + (warp * Tile::kSumSteps + in_sums) * Tile::kSumRow);
        if (in_sums == 0) {
          __syncthreads();
          sums.add(start + t, steps - t);
          __syncthreads();
        }
        if (i > 0) adjoint.kept_state(i - 1, state);
      }
      finish_adjoint<Tile>(s, planes, start, steps, tile.channels, memory);
      __syncthreads();
      sum_over_steps<Tile>(steps, memory);
      __syncthreads();
    }

    sums.finish();
    const auto store = [&](const View& to, const float (&from)[K][N]) {
      if (to.data) store_states<Layout>(from, to, unit, tile, channel, lane, s.states);
    };
    store(s.dA, adjoint.dA);
    if (s.dinitial_state.data && unit % s.chunks == 0)
      store_states<Layout>(adjoint.lambda, s.dinitial_state, w.index, tile, channel, lane, s.states);
    if constexpr (ByChannel) {
      store(s.channel_dB, adjoint.dB);
      store(s.channel_dC, adjoint.dC);
    }
    for (int c = threadIdx.x; c < tile.channels; c += Tile::kThreads) {
      const int64_t to = unit * s.channels + tile.first + c;
      if (s.dbias) s.dbias[to] = memory[Tile::kChannelTotals + StepSizes<K>::dt(c)];
      if (s.dD) s.dD[to] = memory[Tile::kChannelTotals + StepSizes<K>::dtu(c)];
    }
  }
}

}  // namespace transmamba::cuda
