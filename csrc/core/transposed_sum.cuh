// Sums of several numbers over the lanes of a warp, in half the shuffles that one sum after the other takes.
#pragma once
#include "core/device.cuh"

namespace transmamba::cuda {

// Each of Count numbers is summed over Lanes lanes whose places are Distance apart (both powers of two), in an order
// that is fixed. Lanes share out the sums while there are several: afterwards a lane holds in v[0], v[1], ... the
// neighbouring max(1, Count / Lanes) sums from transposed_index on, the same in those that are left over.
template <int Count, int Lanes, int Distance = 1>
__device__ void transposed_sum(float* v, int lane) {
  if constexpr (Lanes > 1) {
    constexpr int half = Count > 1 ? Count / 2 : 1;
    const bool upper = lane & Distance;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float mine = Count > 1 && upper ? v[i + half % Count] : v[i];
      const float other = Count > 1 && !upper ? v[i + half % Count] : v[i];
      v[i] = mine + __shfl_xor_sync(kAllLanes, other, Distance);
    }
    transposed_sum<half, Lanes / 2, Distance * 2>(v, lane);
  }
}

// The first of the sums that a lane holds.
template <int Count, int Lanes, int Distance = 1>
__device__ int transposed_index(int lane) {
  if constexpr (Lanes > 1 && Count > 1)
    return (lane & Distance ? Count / 2 : 0) + transposed_index<Count / 2, Lanes / 2, Distance * 2>(lane);
  else
    return 0;
}

}  // namespace transmamba::cuda
