#include "causal_conv1d/cuda.h"
#include "causal_conv1d/ends.cuh"
#include "causal_conv1d/kernel.cuh"
#include "core/launch.cuh"

namespace transmamba::cuda {
namespace {

int64_t divide_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

// How many tiles a block of backward takes: the more, the fewer parts, as long as there are blocks enough.
int stretch(int64_t batch, int64_t channels, int64_t length) {
  constexpr int64_t kBlocks = 2048, kMost = 16;
  const int64_t tiles = batch * divide_up(channels, kConvChannels) * divide_up(length, kConvTokens);
  return int(std::max<int64_t>(1, std::min(kMost, tiles / kBlocks)));
}

unsigned blocks(const CausalConv1d& conv, int tiles) {
  const auto& shape = conv.x.shape;
  return unsigned(shape[0] * divide_up(shape[1], kConvChannels) * divide_up(shape[2], kConvTokens * tiles));
}

unsigned state_blocks(const Tensor& state) {
  return unsigned(divide_up(state.shape[0] * state.shape[1] * state.shape[2], kConvThreads));
}

}  // namespace

int64_t causal_conv1d_parts(int64_t batch, int64_t channels, int64_t length) {
  return batch * divide_up(length, kConvTokens * stretch(batch, channels, length));
}

void causal_conv1d_forward(const CausalConv1dForward& conv, const Stream& stream) {
  const int width = int(conv.weight.shape[1]);
  launch(causal_conv1d_forward_kernel, blocks(conv, 1), kConvThreads, conv_forward_bytes(width), stream, conv);
  if (conv.final_state)
    launch(causal_conv1d_final_state_kernel, state_blocks(conv.final_state), kConvThreads, 0, stream, conv);
}

void causal_conv1d_backward(const CausalConv1dBackward& conv, const Stream& stream) {
  const int width = int(conv.weight.shape[1]);
  const int64_t channels = conv.x.shape[1];
  const int tiles = stretch(conv.x.shape[0], channels, conv.x.shape[2]);
  if (conv.dx || conv.partial)
    launch(causal_conv1d_backward_kernel, blocks(conv, tiles), kConvThreads, conv_backward_bytes(width), stream, conv,
           tiles);
  if (conv.partial)
    launch(causal_conv1d_sum_kernel, dim3(unsigned(divide_up(channels, kWarp)), unsigned(width + 1)),
           dim3(kWarp, kConvSumRows), sizeof(float) * kWarp * kConvSumRows, stream, conv);
  if (conv.dinitial_state)
    launch(causal_conv1d_dinitial_state_kernel, state_blocks(conv.dinitial_state), kConvThreads, 0, stream, conv);
}

}  // namespace transmamba::cuda
