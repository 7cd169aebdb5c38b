// A tile of 32 channels over some tokens in shared memory, [token][channel] in float32, and how it gets there.
//
// Reading and writing go along whichever of channels and tokens lie side by side, 8 elements per thread and in 16-byte
// accesses where they are aligned. The rows' pitch of 33 numbers keeps both directions free of most bank conflicts.
#pragma once
#include "causal_conv1d/cuda.h"
#include "core/device.cuh"

namespace transmamba::cuda {

constexpr int kConvChannels = kWarp;  // of a tile: lane i computes channel i
constexpr int kConvTokens = 64;       // of a tile, less those beside it that the filter sees
constexpr int kConvWarps = 4, kConvThreads = kConvWarps * kWarp;
constexpr int kConvRun = 8;  // neighbouring tokens that a thread computes together
constexpr int kConvTaps = 4;
constexpr int kConvPitch = kConvChannels + 1;
constexpr int kConvChunk = 8;  // elements that a thread reads or writes together

struct ConvTile {
  float* data;
  int64_t batch, first;  // of its first row, the token
  int64_t channel;       // of its first column
  int rows;
};

// Calls f(p, step, low, high, cell, cell_step) for every chunk: elements p[i * step] for i in [low, high) are those of
// the tensor and the tile, and have their place at cell[i * cell_step]. For all threads of the block.
template <class T, class F>
__device__ __forceinline__ void each_chunk(const ConvTile& tile, const Tensor& x, T* data, F f) {
  const bool along_tokens = llabs(x.stride[2]) <= llabs(x.stride[1]);
  const int64_t channels = x.shape[1] - tile.channel, end = min(tile.first + tile.rows, x.shape[2]);
  const int64_t aligned = tile.first & -int64_t(kConvChunk);
  constexpr int kAcross = kConvChannels / kConvChunk;
  const int along = int(tile.first + tile.rows - aligned + kConvChunk - 1) / kConvChunk;  // chunks of a channel
  const int count = along_tokens ? along * kConvChannels : tile.rows * kAcross;
  data += tile.batch * x.stride[0] + tile.channel * x.stride[1];
#pragma unroll 1  // for the instruction cache: f is long
  for (int i = threadIdx.x; i < count; i += kConvThreads) {
    const int64_t token = along_tokens ? aligned + i / 4 % along * kConvChunk : tile.first + i / kAcross;
    const int column = along_tokens ? i % 4 + i / (4 * along) * 4 : i % kAcross * kConvChunk;
    const int64_t low = along_tokens ? max(tile.first, int64_t(0)) - token : 0;
    int64_t high = along_tokens ? end - token : channels - column;
    if (along_tokens ? column >= channels : token < 0 || token >= end) high = 0;
    f(data + token * x.stride[2] + column * x.stride[1], along_tokens ? x.stride[2] : x.stride[1],
      int(max(low, int64_t(0))), int(min(high, int64_t(kConvChunk))),
      tile.data + (token - tile.first) * kConvPitch + column, along_tokens ? kConvPitch : 1);
  }
}

// Fills the tile with the tensor's elements; what lies outside of the tensor is left.
__device__ __forceinline__ void read_tile(const ConvTile& tile, const Tensor& x) {
  visit(x.dtype, [&](auto element) {
    using T = decltype(element);
    each_chunk(tile, x, static_cast<const T*>(x.data),
               [](const T* p, int64_t step, int low, int high, float* cell, int cell_step) {
                 float values[kConvChunk];
                 if (low == 0 && high == kConvChunk && step == 1 && is_aligned<kConvChunk>(p)) {
                   load_vector(p, values);
                 } else {
#pragma unroll
                   for (int i = 0; i < kConvChunk; ++i)
                     if (i >= low && i < high) values[i] = to_float(p[i * step]);
                 }
#pragma unroll
                 for (int i = 0; i < kConvChunk; ++i)
                   if (i >= low && i < high) cell[i * cell_step] = values[i];
               });
  });
}
__device__ __forceinline__ void write_tile(const ConvTile& tile, const Tensor& x) {
  visit(x.dtype, [&](auto element) {
    using T = decltype(element);
    each_chunk(tile, x, static_cast<T*>(x.data),
               [](T* p, int64_t step, int low, int high, const float* cell, int cell_step) {
                 float values[kConvChunk];
#pragma unroll
                 for (int i = 0; i < kConvChunk; ++i)
                   if (i >= low && i < high) values[i] = cell[i * cell_step];
                 if (low == 0 && high == kConvChunk && step == 1 && is_aligned<kConvChunk>(p)) {
                   store_vector(p, values);
                 } else {
#pragma unroll
                   for (int i = 0; i < kConvChunk; ++i)
                     if (i >= low && i < high) p[i * step] = from_float<T>(values[i]);
                 }
               });
  });
}

// Tokens [start, start + length) of a batch entry.
struct ConvSequence {
  int64_t batch, start, length;

  // Where step t of the convolution stands.
  __device__ int64_t token(int64_t t, bool reverse) const { return reverse ? start + length - 1 - t : start + t; }
};

__device__ __forceinline__ ConvSequence conv_sequence(const CausalConv1d& conv, int64_t i) {
  if (!given(conv.offsets)) return {i, 0, conv.x.shape[2]};
  const int* offsets = static_cast<const int*>(conv.offsets.data);
  const int64_t step = conv.offsets.stride[0], start = offsets[i * step];
  return {0, start, offsets[(i + 1) * step] - start};
}

// What is around a token: its sequence, -1 if there is no such token, and how many tokens of it come before and after
// in the direction of the convolution; more than the filter reaches count as that many.
struct ConvRow {
  int sequence, before, after;
};

__device__ __forceinline__ ConvRow conv_row(const CausalConv1d& conv, int64_t batch, int64_t token) {
  if (token < 0 || token >= conv.x.shape[2]) return {-1, 0, 0};
  int64_t sequence = batch;
  if (given(conv.offsets)) {
    const int* offsets = static_cast<const int*>(conv.offsets.data);
    int64_t low = 0, high = conv.offsets.shape[0] - 1;  // offset low <= token < offset high: the last such is not empty
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (offsets[middle * conv.offsets.stride[0]] <= token ? low : high) = middle;
    }
    sequence = low;
  }
  const ConvSequence all = conv_sequence(conv, sequence);
  const int64_t reach = conv.weight.shape[1] - 1, left = token - all.start, right = all.length - 1 - left;
  const int before = int(min(reach, conv.reverse ? right : left)), after = int(min(reach, conv.reverse ? left : right));
  return {int(sequence), before, after};
}

// Element (sequence, channel, entry) of a state, 0 where it is not given.
__device__ __forceinline__ float state_at(const Tensor& state, int64_t sequence, int64_t channel, int64_t entry) {
  if (!given(state)) return 0.0f;
  return load(state.data, state.dtype,
              sequence * state.stride[0] + channel * state.stride[1] + entry * state.stride[2]);
}

}  // namespace transmamba::cuda
