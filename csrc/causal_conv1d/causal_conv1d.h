// Depthwise causal convolution, forward and backward.
//
// For each batch entry and channel, with W weights and seen = (initial_state, x),
//
//   p_t = bias + sum_k weight_k seen_{t+k} ;  out_t = silu(p_t), or p_t       seen has W - 1 + L entries
//   final_state = the last W - 1 entries of seen
//
// and, with g = d(out) silu'(p), or d(out), which is 0 outside of the sequence,
//
//   dseen_i = sum_k weight_k g_{i-k}, plus d(final_state) in the last W - 1 entries
//   dinitial_state, dx = the first W - 1 entries of dseen, the others
//   dweight_k = sum_t g_t seen_{t+k}       dbias = sum_t g_t
//
// With reverse, x, out and their gradients are read from the last token to the first; the states are not.
// With offsets, the one batch entry holds n sequences one after the other: sequence i is x's steps from offsets_i to
// offsets_{i+1}, which may be none, and has entry i of the states, (n, E, W - 1).
//
// Shapes, any strides: x, out (b, E, L); weight (E, W), W >= 1; bias (E); initial_state, final_state (b, E, W - 1).
// Each tensor has a dtype of its own. Tensors with neighbouring channels side by side in memory (channel-last), all of
// one dtype, are used where they are; the others go through a tile or a line at a time.
//
// Computed in float32, or in float64 when x is float64; p is not stored but computed again. Memory beyond the outputs:
// the packed weights, a few tiles per thread and, backward, W rows of channels per thread. Every sum is taken in an
// order that depends on the shapes, the strides, the offsets and the thread count alone: results are bit-identical from
// run to run.
#pragma once
#include "core/isa.h"
#include "core/tensor.h"

namespace transmamba {

struct CausalConv1d {
  Tensor x, weight, bias, initial_state;
  Indices offsets;  // 0, ..., L, never decreasing; empty: every batch entry is one sequence
  bool silu = false;
  bool reverse = false;  // from the last token to the first
  int threads = 1;

  DType dtype() const { return x.dtype; }
};

struct CausalConv1dForward : CausalConv1d {
  Tensor out, final_state;
};

// Gradients not asked for are not given.
struct CausalConv1dBackward : CausalConv1d {
  Tensor dout, dfinal_state;
  Tensor dx, dweight, dbias, dinitial_state;
};

TRANSMAMBA_PER_ISA(causal_conv1d_forward, CausalConv1dForward)
TRANSMAMBA_PER_ISA(causal_conv1d_backward, CausalConv1dBackward)

}  // namespace transmamba
