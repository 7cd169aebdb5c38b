// dB and dC, summed over the channels of a block: a row a step or, constant over time, one in all.
#pragma once
#include "selective_scan/backward_tile.cuh"

namespace transmamba::cuda {

// A thread adds up the same few neighbouring states of every few rows.
template <class Layout, class Tile>
struct RowSums {
  static constexpr int kVector = Layout::kVector, kAcross = Tile::kSumRow / kVector;
  static constexpr int kRows = Tile::kThreads / kAcross;  // at a time
  using States = float[kVector];

  const BackwardViews& s;
  const BackwardBlock& block;
  float* memory;
  const int first = threadIdx.x / kAcross, across = threadIdx.x % kAcross * kVector;
  const bool is_C = across >= Layout::kPadded;
  const int state = across % Layout::kPadded;

  __device__ bool constant() const { return is_C ? s.constant_C : s.constant_B; }
  __device__ States& total() const { return reinterpret_cast<States&>(memory[Tile::kTotals + threadIdx.x * kVector]); }

  // Adds up the warps' rows of `steps` steps from `start` of the sequence on.
  __device__ __forceinline__ void add(int64_t start, int steps) const {
    const Plane to = (is_C ? block.dC : block.dB).from(start);
    if (!to) return;
#pragma unroll
    for (int k = first; k < Tile::kSumSteps; k += kRows) {
      if (k >= steps) return;
      States sum;
      load_vector(memory + Tile::kWarpSums + k * Tile::kSumRow + across, sum);
#pragma unroll
      for (int w = 1; w < Tile::kWarps; ++w) {
        States of_warp;
        load_vector(memory + Tile::kWarpSums + (w * Tile::kSumSteps + k) * Tile::kSumRow + across, of_warp);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[i] += of_warp[i];
      }
      if (constant()) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) total()[i] += sum[i];
      } else {
        write(to, k, sum);
      }
    }
  }

  // Writes what is constant over time, once all of it has been added up.
  __device__ __forceinline__ void finish() const {
    const Plane to = is_C ? block.dC : block.dB;
    if (!to || !constant() || first > 0) return;
    for (int k = 1; k < kRows; ++k)
#pragma unroll
      for (int i = 0; i < kVector; ++i) total()[i] += (&total())[k * kAcross][i];
    write(to, 0, total());
  }

 private:
  __device__ __forceinline__ void write(const Plane& rows, int k, States& sum) const {
    float* to = reinterpret_cast<float*>(rows.data + (rows.list ? rows.list[k] : k) * rows.row) + state;
    if (s.states % kVector == 0) {
      if (state < s.states) store_vector(to, sum);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (state + i < s.states) to[i] = sum[i];
    }
  }
};

}  // namespace transmamba::cuda
