// dB and dC, summed over the channels of a block: a row a step or, constant over time, one in all.
#pragma once
#include "selective_scan/backward_tile.cuh"

namespace transmamba::cuda {

// What a row of sums has at place i.
template <class Layout>
struct RowPlace {
  bool is_C;
  int n;

  __device__ explicit RowPlace(int i) : is_C(i >= Layout::kPadded), n(i % Layout::kPadded) {}
};

// Adds up the warps' sums of the span from `start` of the tile on.
template <class Layout, class Tile>
__device__ __forceinline__ void add_span(const BackwardViews& s, const BackwardPlanes& planes, int buffer,
                                         int64_t tile_start, int start, int steps, float* memory) {
  for (int i = threadIdx.x; i < Tile::kSums; i += Tile::kThreads) {
    const int k = i / Tile::kSumRow;
    const RowPlace<Layout> at(i % Tile::kSumRow);
    float* to = at.is_C ? planes.dC : planes.dB;
    if (!to || start + k >= steps || at.n >= s.states) continue;
    const float* from = memory + Tile::kSpanSums + buffer * Tile::kWarps * Tile::kSums + i;
    float sum = from[0];
#pragma unroll
    for (int w = 1; w < Tile::kWarps; ++w) sum += from[w * Tile::kSums];
    if (at.is_C ? s.constant_C : s.constant_B)
      memory[Tile::kTotals + i] += sum;
    else
      to[planes.times[tile_start + start + k] * s.states + at.n] = sum;
  }
}

// Writes what is constant over time.
template <class Layout, class Tile>
__device__ __forceinline__ void finish_spans(const BackwardViews& s, const BackwardPlanes& planes,
                                             const float* memory) {
  for (int i = threadIdx.x; i < Tile::kSumRow; i += Tile::kThreads) {
    const RowPlace<Layout> at(i);
    float* to = at.is_C ? planes.dC : planes.dB;
    if (!to || at.n >= s.states || !(at.is_C ? s.constant_C : s.constant_B)) continue;
    float sum = memory[Tile::kTotals + i];
#pragma unroll
    for (int k = 1; k < Tile::kSpan; ++k) sum += memory[Tile::kTotals + k * Tile::kSumRow + i];
    to[at.n] = sum;
  }
}

}  // namespace transmamba::cuda
