// The adjoint alone, of chunks that nothing comes into from behind: what the backward pass in chunks starts with.
#pragma once
#include "selective_scan/kernel_backward.cuh"

namespace transmamba::cuda {

// ends (units, E, N) are the adjoints of the states before the chunks, sizes (units, E) the sums of dt.
template <class Layout>
__global__ void __launch_bounds__(BackwardTile<Layout, true>::kThreads, BackwardTile<Layout, true>::kBlocks)
    scan_backward_ends_kernel(const __grid_constant__ BackwardViews s, View ends, float* sizes) {
  using Tile = BackwardTile<Layout, true>;
  constexpr int K = Tile::kChannels;
  float* memory = shared_memory<float>();
  const BackwardBlock& block = *block_of<Tile>(memory);
  Adjoint<Layout, true> adjoint{s, memory};
  const int lane = adjoint.lane, channel = adjoint.channel;

  for (int next = blockIdx.y; next < s.units; next += gridDim.y) {
    start_unit<Tile>(s, next, memory);
    adjoint.start(block.tile);
    float size[K] = {};
    for (int i = int((block.length + Tile::kSteps - 1) / Tile::kSteps) - 1; i >= 0; --i) {
      const int64_t start = int64_t(i) * Tile::kSteps;
      const int64_t rest = block.length - start;
      const int steps = int(rest < Tile::kSteps ? rest : Tile::kSteps);
      stage_adjoint<Tile>(s, block, start, steps, memory);
      stage_coefficients<Layout, Tile>(s, block.B, block.C, block.tile.channels, start, steps, memory);
      __syncthreads();
#pragma unroll 4
      for (int t = Tile::kSteps - 1; t >= 0; --t)
        adjoint.step_alone(t, size);  // steps that do not exist change nothing
      __syncthreads();
    }
    store_states<Layout>(adjoint.lambda, ends, block.unit, block.tile, channel, lane, s.states);
#pragma unroll
    for (int c = 0; c < K; ++c)
      if (lane == 0 && channel + c < block.tile.channels)
        sizes[block.unit * s.channels + block.tile.first + channel + c] = size[c];
  }
}

}  // namespace transmamba::cuda
