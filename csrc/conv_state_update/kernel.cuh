// The causal convolution of new tokens on the device: a thread has a channel of a batch entry and goes through it in
// the order of time, so that what it overwrites has been read.
#pragma once
#include <cmath>

#include "conv_state_update/cuda.h"
#include "core/decoding.cuh"

namespace transmamba::cuda {

constexpr int kConvStateThreads = 64;
constexpr int kConvStateStep = 4;  // numbers of a channel on their way at a time

// Shapes with an axis of tokens: x, out (b, E, L). A block has one batch entry.
__global__ void __launch_bounds__(kConvStateThreads) conv_state_update_kernel(ConvStateUpdate s) {
  constexpr int K = kConvStateStep;
  const int64_t b = int64_t(blockIdx.z) * gridDim.y + blockIdx.y;
  const int64_t channel = int64_t(blockIdx.x) * kConvStateThreads + threadIdx.x;
  if (b >= s.x.shape[0] || channel >= s.x.shape[1]) return;
  const int length = int(s.x.shape[2]), entries = int(s.state.shape[2]), width = int(s.weight.shape[1]);

  const int64_t wanted = row_index(s.rows, b), position = given(s.positions) ? row_index(s.positions, b) : 0;
  const bool exists = wanted >= 0 && wanted < s.state.shape[0] && position >= 0;
  const int64_t row = exists ? wanted : 0;
  const int64_t x_row = b * s.x.stride[0] + channel * s.x.stride[1];
  const int64_t out_row = b * s.out.stride[0] + channel * s.out.stride[1];
  const int64_t state_row = row * s.state.stride[0] + channel * s.state.stride[1];
  const auto token_at = [&](int t) { return x_row + t * s.x.stride[2]; };
  const auto entry_at = [&](int i) { return state_row + i * s.state.stride[2]; };
  // Where the first new token goes in a circular state. In a rolling one, too, the token before it is found before 0.
  const int start = int(position % entries);
  const float bias = given(s.bias) ? load(s.bias.data, s.bias.dtype, channel * s.bias.stride[0]) : 0.0f;
  float old[K], now[K];

  for (int t = 0; t < length; ++t) {
    float y = bias;
    for (int first = 0; first < width; first += K) {
      float weight[K];
      const auto token = [&](int i) { return t + first + i - (width - 1); };
      gather(
          s.weight,
          [&](int i) {
            return first + i < width ? channel * s.weight.stride[0] + (first + i) * s.weight.stride[1] : -1;
          },
          weight);
      gather(s.x, [&](int i) { return first + i < width && token(i) >= 0 ? token_at(token(i)) : -1; }, now);
      gather(
          s.state,
          [&](int i) {
            const int at = start + token(i);
            return exists && first + i < width && token(i) < 0 ? entry_at(at < 0 ? at + entries : at) : -1;
          },
          old);
#pragma unroll
      for (int i = 0; i < K; ++i) y += weight[i] * (old[i] + now[i]);
    }
    if (s.silu) y = silu(y);
    store(s.out.data, s.out.dtype, out_row + t * s.out.stride[2], exists ? y : NAN);
  }

  if (!exists) return;
  if (given(s.positions)) {
    for (int first = length > entries ? length - entries : 0; first < length; first += K) {
      gather(s.x, [&](int i) { return first + i < length ? token_at(first + i) : -1; }, now);
      scatter(s.state, [&](int i) { return first + i < length ? entry_at((start + first + i) % entries) : -1; }, now);
    }
  } else {
    for (int first = 0; first < entries; first += K) {
      const auto token = [&](int i) { return first + i + length - entries; };
      gather(s.x, [&](int i) { return first + i < entries && token(i) >= 0 ? token_at(token(i)) : -1; }, now);
      gather(s.state, [&](int i) { return token(i) < 0 ? entry_at(first + i + length) : -1; }, old);
#pragma unroll
      for (int i = 0; i < K; ++i) now[i] += old[i];
      scatter(s.state, [&](int i) { return first + i < entries ? entry_at(first + i) : -1; }, now);
    }
  }
}

}  // namespace transmamba::cuda
