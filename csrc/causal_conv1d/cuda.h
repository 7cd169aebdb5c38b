// Depthwise causal convolution on a GPU. The mathematics and the shapes are those of causal_conv1d.h, sums are float32.
//
// Every tensor may have any strides and a dtype of its own: float32, bfloat16 or float16. W is 64 at most: a tile and
// the filters have to find room in shared memory. Memory beyond the outputs: `partial`, which backward needs where
// dweight or dbias is wanted. Sums are taken in an order that depends on the shapes alone: every run gives the same
// bits.
#pragma once
#include "core/stream.h"
#include "core/tensor.h"

namespace transmamba::cuda {

struct CausalConv1d {
  Tensor x, weight, bias, initial_state;
  Tensor offsets;  // int32, of packed sequences; not given: every batch entry is one
  bool silu = false, reverse = false;
};

struct CausalConv1dForward : CausalConv1d {
  Tensor out, final_state;
};

// Gradients not asked for are not given.
struct CausalConv1dBackward : CausalConv1d {
  Tensor dout, dfinal_state;
  Tensor dx, dweight, dbias, dinitial_state;
  Tensor partial;  // float32 (parts, W + 1, E)
};

// The parts that backward makes of the sums over batch and time.
int64_t causal_conv1d_parts(int64_t batch, int64_t channels, int64_t length);

void causal_conv1d_forward(const CausalConv1dForward& conv, const Stream& stream);
void causal_conv1d_backward(const CausalConv1dBackward& conv, const Stream& stream);

}  // namespace transmamba::cuda
