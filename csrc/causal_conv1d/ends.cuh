// Kernels for what is left at the ends: the states of each sequence, and the sums over the parts of backward.
#pragma once
#include "causal_conv1d/conv_tile.cuh"

namespace transmamba::cuda {

// One channel of one sequence, number by number: of what is computed here there is little.
struct ConvLine {
  const CausalConv1d& conv;
  ConvSequence sequence;
  int64_t index, channel;
  int width;

  __device__ float element(const Tensor& x, int64_t t) const {
    return load(x.data, x.dtype,
                sequence.batch * x.stride[0] + channel * x.stride[1] + sequence.token(t, conv.reverse) * x.stride[2]);
  }
  // The initial state and x, one after the other.
  __device__ float seen(int64_t i) const {
    return i < width - 1 ? state_at(conv.initial_state, index, channel, i) : element(conv.x, i - (width - 1));
  }
  __device__ float tap(int64_t k) const {
    return load(conv.weight.data, conv.weight.dtype, channel * conv.weight.stride[0] + k * conv.weight.stride[1]);
  }
  // The derivative by the sum of step t.
  __device__ float g(const Tensor& dout, int64_t t) const {
    float slope = 1.0f;
    if (conv.silu) {
      float p = given(conv.bias) ? load(conv.bias.data, conv.bias.dtype, channel * conv.bias.stride[0]) : 0.0f;
      for (int k = 0; k < width; ++k) p += tap(k) * seen(t + k);
      silu(p, slope);
    }
    return element(dout, t) * slope;
  }
};

// Calls f(line, entry) for an element of a state (sequences, E, W - 1); a thread each, channels side by side.
template <class F>
__device__ __forceinline__ void each_state_element(const CausalConv1d& conv, const Tensor& state, F f) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t channels = state.shape[1], entries = state.shape[2], index = i / channels / entries;
  if (index >= state.shape[0]) return;
  f(ConvLine{conv, conv_sequence(conv, index), index, i % channels, int(entries) + 1}, i / channels % entries);
}
__device__ __forceinline__ void store_state(const Tensor& state, const ConvLine& line, int64_t entry, float x) {
  store(state.data, state.dtype,
        line.index * state.stride[0] + line.channel * state.stride[1] + entry * state.stride[2], x);
}

__global__ void causal_conv1d_final_state_kernel(CausalConv1dForward conv) {
  each_state_element(conv, conv.final_state, [&](const ConvLine& line, int64_t entry) {
    store_state(conv.final_state, line, entry, line.seen(line.sequence.length + entry));
  });
}

__global__ void causal_conv1d_dinitial_state_kernel(CausalConv1dBackward conv) {
  each_state_element(conv, conv.dinitial_state, [&](const ConvLine& line, int64_t entry) {
    const int64_t length = line.sequence.length;
    float sum = entry < length ? 0.0f : state_at(conv.dfinal_state, line.index, line.channel, entry - length);
    for (int64_t t = 0; t <= entry && t < length; ++t) sum += line.tap(entry - t) * line.g(conv.dout, t);
    store_state(conv.dinitial_state, line, entry, sum);
  });
}

// dweight and dbias: a block sums the parts of 32 channels and one tap.
constexpr int kConvSumRows = 8;
__global__ void __launch_bounds__(kWarp* kConvSumRows) causal_conv1d_sum_kernel(CausalConv1dBackward conv) {
  float* shared = shared_memory<float>();
  const int lane = threadIdx.x, row = threadIdx.y, k = blockIdx.y, width = int(conv.weight.shape[1]);
  const int64_t channel = int64_t(blockIdx.x) * kWarp + lane, channels = conv.x.shape[1];
  const float* partial = static_cast<const float*>(conv.partial.data) + k * channels + channel;
  float sum = 0.0f;
  if (channel < channels)
    for (int64_t part = row; part < conv.partial.shape[0]; part += kConvSumRows)
      sum += partial[part * (width + 1) * channels];
  shared[row * kWarp + lane] = sum;
  __syncthreads();
  if (row > 0 || channel >= channels) return;
  for (int r = 1; r < kConvSumRows; ++r) sum += shared[r * kWarp + lane];
  const Tensor& to = k < width ? conv.dweight : conv.dbias;
  if (given(to)) store(to.data, to.dtype, channel * to.stride[0] + (k < width ? k * to.stride[1] : 0), sum);
}

}  // namespace transmamba::cuda
