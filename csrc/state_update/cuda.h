// One decoding step of the selective scan on a GPU: the same mathematics and shapes as state_update.h, with float32,
// bfloat16 and float16 tensors, each with its own dtype and any strides. Computed in float32.
//
// Nothing is allocated, copied to the host or waited for. So the rows are not checked: a batch entry whose row does not
// exist updates none, and its out is not a number.
#pragma once
#include "core/stream.h"
#include "core/tensor.h"

namespace transmamba::cuda {

struct StateUpdate {
  Tensor state, x, dt, A, B, C, D, z, dt_bias;
  bool softplus = false;
  Tensor rows;  // int32 or int64 (b), on the device; not given: row i is entry i's
  Tensor out;
};

void state_update(const StateUpdate& step, Stream stream);

}  // namespace transmamba::cuda
