// The causal convolution of a few new tokens on a GPU: the same mathematics and shapes as conv_state_update.h, with
// float32, bfloat16 and float16 tensors, each with its own dtype and any strides. Computed in float32.
//
// Nothing is allocated, copied to the host or waited for. So indices are not checked: a batch entry whose row does not
// exist, or whose position is negative, updates none, and its out is not a number.
#pragma once
#include "core/stream.h"
#include "core/tensor.h"

namespace transmamba::cuda {

struct ConvStateUpdate {
  Tensor x, state, weight, bias;
  bool silu = false;
  Tensor positions, rows;  // int32 or int64 (b), on the device; or not given
  Tensor out;
};

void conv_state_update(const ConvStateUpdate& step, Stream stream);

}  // namespace transmamba::cuda
