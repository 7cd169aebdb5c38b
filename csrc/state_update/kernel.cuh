// The decoding step on the device: neighbouring threads share the states of a channel, so that a warp reads and writes
// a few whole channels side by side.
//
// The state is read and written once, and nothing else is of its size: what counts is that these accesses are wide.
#pragma once
#include <cmath>

#include "core/decoding.cuh"
#include "state_update/cuda.h"

namespace transmamba::cuda {

constexpr int kStateUpdateThreads = 64;  // few, so that one sequence already occupies many multiprocessors
// Blocks at a time on a multiprocessor, for 72 or 96 registers: the compiler would take 150.
template <int K>
constexpr int kStateUpdateBlocks = K < 8 ? 14 : 10;

// States first to first + K of `count` in the row of x that starts at element `row`; zeros beyond.
template <int K>
__device__ __forceinline__ void load_states(const Tensor& x, int64_t row, int64_t stride, int first, int count,
                                            float (&values)[K]) {
  bool together = stride == 1 && first + K <= count;
  visit(x.dtype, [&](auto element) {
    const auto* p = static_cast<const decltype(element)*>(x.data) + row + first;
    together = together && is_aligned<K>(p);
    if (together) load_vector<K>(p, values);
  });
  if (!together) gather(x, [&](int i) { return first + i < count ? row + (first + i) * stride : -1; }, values);
}
template <int K>
__device__ __forceinline__ void store_states(const Tensor& x, int64_t row, int64_t stride, int first, int count,
                                             const float (&values)[K]) {
  bool together = stride == 1 && first + K <= count;
  visit(x.dtype, [&](auto element) {
    auto* p = static_cast<decltype(element)*>(x.data) + row + first;
    together = together && is_aligned<K>(p);
    if (together) store_vector<K>(p, values);
  });
  if (!together) scatter(x, [&](int i) { return first + i < count ? row + (first + i) * stride : -1; }, values);
}

// Shapes with heads: state (rows, H, P, N); A (H, P, N); B, C (b, G, N); x, dt, z, out (b, H, P); D, dt_bias (H, P).
// A block has one batch entry; Lanes threads have a channel, each K of its states at a time.
template <int K, int Lanes>
__global__ void __launch_bounds__(kStateUpdateThreads, kStateUpdateBlocks<K>) state_update_kernel(StateUpdate s) {
  const int64_t entry = int64_t(blockIdx.z) * gridDim.y + blockIdx.y;
  if (entry >= s.x.shape[0]) return;
  const int heads = int(s.A.shape[0]), head_dim = int(s.A.shape[1]), states = int(s.A.shape[2]);
  const int64_t index = int64_t(blockIdx.x) * (kStateUpdateThreads / Lanes) + threadIdx.x / Lanes;
  // All threads come to the sums over lanes: those beyond the channels compute the first one's, and store nothing.
  const bool inside = index < int64_t(heads) * head_dim;
  const int channel = inside ? int(index) : 0;
  const int64_t head = channel / head_dim, p = channel % head_dim, group = int(head) / (heads / int(s.B.shape[1]));
  const int lane = threadIdx.x % Lanes;

  const int64_t wanted = row_index(s.rows, entry);
  const bool exists = wanted >= 0 && wanted < s.state.shape[0];
  const int64_t row = exists ? wanted : 0;
  const int64_t state_row = row * s.state.stride[0] + head * s.state.stride[1] + p * s.state.stride[2];
  const int held = exists ? states : 0;  // of a row that does not exist no state is read or written

  const auto of_entry = [&](const Tensor& x) {
    return load(x.data, x.dtype, entry * x.stride[0] + head * x.stride[1] + p * x.stride[2]);
  };
  const auto of_channel = [&](const Tensor& x) {
    return given(x) ? load(x.data, x.dtype, head * x.stride[0] + p * x.stride[1]) : 0.0f;
  };
  const float u = of_entry(s.x);
  float delta = of_entry(s.dt) + of_channel(s.dt_bias), y = 0;
  if (s.softplus) delta = softplus(delta);

#pragma unroll 1
  for (int first = lane * K; first < states; first += Lanes * K) {
    float h[K], A[K], B[K], C[K];
    load_states(s.state, state_row, s.state.stride[3], first, held, h);
    load_states(s.A, head * s.A.stride[0] + p * s.A.stride[1], s.A.stride[2], first, states, A);
    load_states(s.B, entry * s.B.stride[0] + group * s.B.stride[1], s.B.stride[2], first, states, B);
    load_states(s.C, entry * s.C.stride[0] + group * s.C.stride[1], s.C.stride[2], first, states, C);
#pragma unroll
    for (int i = 0; i < K; ++i) {
      h[i] = exp2(delta * kLog2E * A[i]) * h[i] + delta * u * B[i];
      y += C[i] * h[i];
    }
    if (inside) store_states(s.state, state_row, s.state.stride[3], first, held, h);
  }
  y = lane_sum<Lanes>(y) + of_channel(s.D) * u;
  if (!inside || lane > 0) return;
  if (given(s.z)) y *= silu(of_entry(s.z));
  store(s.out.data, s.out.dtype, entry * s.out.stride[0] + head * s.out.stride[1] + p * s.out.stride[2],
        exists ? y : NAN);
}

}  // namespace transmamba::cuda
