#include <algorithm>

#include "conv_state_update/cuda.h"
#include "conv_state_update/kernel.cuh"
#include "core/launch.cuh"

namespace transmamba::cuda {
namespace {

// One token without an axis is a sequence of one.
Tensor with_length(Tensor x) {
  if (x.rank == 2) {
    x.shape[2] = 1;
    x.stride[2] = 0;
    x.rank = 3;
  }
  return x;
}

}  // namespace

void conv_state_update(const ConvStateUpdate& step, Stream stream) {
  ConvStateUpdate s = step;
  s.x = with_length(s.x);
  s.out = with_length(s.out);
  const int64_t batch = s.x.shape[0], tiles = (s.x.shape[1] + kConvStateThreads - 1) / kConvStateThreads;
  const int64_t rows = std::min<int64_t>(batch, 65535);
  const dim3 grid(unsigned(tiles), unsigned(rows), unsigned((batch + rows - 1) / rows));
  launch(conv_state_update_kernel, grid, dim3(kConvStateThreads), 0, stream, s);
}

}  // namespace transmamba::cuda
