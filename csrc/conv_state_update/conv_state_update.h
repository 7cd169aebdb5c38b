// The causal convolution of a few new tokens, from a state that holds those before them and is updated where it lies.
//
// For each batch entry and channel, with W weights, L new tokens and seen = (the W - 1 tokens before them, x),
//
//   p_t = bias + sum_k weight_k seen_{t+k} ;  out_t = silu(p_t), or p_t
//
// A state of S entries, S >= W - 1, holds its tokens in one of two ways. Rolling: the newest stands last, and the state
// becomes the last S entries of (state, x). Circular, where positions are given: token t goes to entry
// (position + t) % S, and those before the first are read from the entries before it; of more than S tokens the last
// S remain.
//
// Shapes, any strides: x, out (b, E, L) or (b, E), which is L = 1; state (rows, E, S), S >= 1; weight (E, W), W >= 1;
// bias (E). The elements of the state are distinct in memory; each tensor has a dtype of its own.
//
// Batch entry i updates row rows[i] of the state, or row i where no rows are given; the rows are distinct and in range.
// positions: one per batch entry, not negative; or none.
//
// Computed in float32, or in float64 when x is float64; new tokens are seen before they are rounded to the state's
// dtype. Memory: a tile of channels by W + 64 tokens per thread.
#pragma once
#include "core/isa.h"
#include "core/tensor.h"

namespace transmamba {

struct ConvStateUpdate {
  Tensor x, state, weight, bias;
  bool silu = false;
  Indices positions, rows;
  int threads = 1;
  Tensor out;

  DType dtype() const { return x.dtype; }
};

TRANSMAMBA_PER_ISA(conv_state_update, ConvStateUpdate)

}  // namespace transmamba
