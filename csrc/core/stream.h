// Where a CUDA kernel runs: a device and one of its streams, as the framework names them.
#pragma once
#include <cstdint>

namespace transmamba::cuda {

struct Stream {
  int device = 0;
  int64_t handle = 0;  // the cudaStream_t
};

}  // namespace transmamba::cuda
