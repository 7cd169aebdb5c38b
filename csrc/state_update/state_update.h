// One decoding step of the selective scan; the state is updated where it lies.
//
// For each batch entry and channel, with N states,
//
//   dt  = softplus(dt + dt_bias)             or without the softplus
//   h   = exp(dt A) h + dt x B
//   out = (<C, h> + D x) silu(z)
//
// Shapes, any strides: state (rows, H, P, N); x, dt, z, out (b, H, P); A (H, P, N); D, dt_bias (H, P); B, C (b, G, N)
// with H % G == 0, or (b, N), which is G = 1. Head h reads group h / (H / G). Without heads: (rows, E, N), (b, E),
// (E, N), (E), with E % G == 0, channel e reading group e / (E / G). The elements of the state are distinct in memory;
// each tensor has a dtype of its own.
//
// Batch entry i updates row rows[i] of the state, or row i where no rows are given; the rows are distinct and in range.
//
// Computed in float32, or in float64 when x is float64; out is computed from the state before it is rounded to its
// dtype. The state is used where it lies when its N numbers are side by side, whole vectors, and of the compute type or
// bfloat16; A likewise. A that is constant over N costs one exponential a channel. Memory: a tile of
// channels by N numbers per thread, twice.
#pragma once
#include "core/isa.h"
#include "core/tensor.h"

namespace transmamba {

struct StateUpdate {
  Tensor state, x, dt, A, B, C, D, z, dt_bias;
  bool softplus = false;
  Indices rows;
  int threads = 1;
  Tensor out;

  DType dtype() const { return x.dtype; }
};

TRANSMAMBA_PER_ISA(state_update, StateUpdate)

}  // namespace transmamba
