// The adjoint alone, of chunks that nothing comes into from behind: what the backward pass in chunks starts with.
#pragma once
#include "selective_scan/kernel_backward.cuh"

namespace transmamba::cuda {

// ends (units, E, N) are the adjoints of the states before the chunks, sizes (units, E) the sums of dt.
template <class Layout>
__global__ void __launch_bounds__(BackwardTile<Layout, true>::kThreads)
    scan_backward_ends_kernel(BackwardViews s, View ends, float* sizes) {
  using Tile = BackwardTile<Layout, true>;
  constexpr int K = Tile::kChannels, N = Layout::kStates;
  float* memory = shared_memory<float>();
  const BackwardPlanes& planes = *planes_of<Tile>(memory);
  const ChannelTile tile = channel_tile<Tile::kWidth>(s, blockIdx.x);
  Adjoint<Layout, true> adjoint{s, memory};
  const int lane = adjoint.lane, channel = adjoint.channel;
  adjoint.load_A(tile);

  for (int64_t unit = blockIdx.y; unit < s.units; unit += gridDim.y) {
    const Walk w = chunk_of(walk(s, unit / s.chunks), s.chunk_steps, unit % s.chunks);
    float size[K];
#pragma unroll
    for (int c = 0; c < K; ++c) {
      size[c] = 0.0f;
#pragma unroll
      for (int n = 0; n < N; ++n) adjoint.lambda[c][n] = 0.0f;
    }
    start_unit<Tile>(s, w, tile, unit, memory);
    const int64_t tiles = (w.length + Tile::kSteps - 1) / Tile::kSteps;
    for (int64_t start = (tiles - 1) * Tile::kSteps; start >= 0; start -= Tile::kSteps) {
      const int64_t rest = w.length - start;
      const int steps = int(rest < Tile::kSteps ? rest : Tile::kSteps);
      stage_adjoint<Tile>(s, planes, start, steps, tile.channels, memory);
      stage_coefficients<Layout, Tile>(s, planes.B, planes.C, tile.channels, start, steps, memory);
      __syncthreads();
#pragma unroll 4
      for (int t = Tile::kSteps - 1; t >= 0; --t)
        adjoint.step_alone(t, size);  // steps that do not exist change nothing
      __syncthreads();
    }
    store_states<Layout>(adjoint.lambda, ends, unit, tile, channel, lane, s.states);
#pragma unroll
    for (int c = 0; c < K; ++c)
      if (lane == 0 && channel + c < tile.channels) sizes[unit * s.channels + tile.first + channel + c] = size[c];
  }
}

}  // namespace transmamba::cuda
