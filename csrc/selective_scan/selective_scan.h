// Selective scan: the recurrence of Mamba, forward and backward.
//
// For each batch entry and channel, with N states,
//
//   dt_t = softplus(delta_t + delta_bias)            or without the softplus
//   h_t  = exp(dt_t A) h_{t-1} + dt_t u_t B_t        h_0 = initial_state, or 0
//   y_t  = <C_t, h_t> + D u_t ;  out_t = y_t silu(z_t)
//
// and, with g = d(out) silu(z) and the adjoint lambda entering from d(last_state),
//
//   lambda_t = g_t C_t + exp(dt_{t+1} A) lambda_{t+1}
//   dC_t = sum_d g_t h_t      dB_t = sum_d lambda_t dt_t u_t      du_t = dt_t <lambda_t, B_t> + D g_t
//   ddt_t = <lambda_t, A exp(dt_t A) h_{t-1} + u_t B_t>           dA = sum_t lambda_t dt_t exp(dt_t A) h_{t-1}
//
// Shapes, any strides: u, delta, z, out (b, E, L); A (E, N); B, C (b, N, L), (b, G, N, L) with E % G == 0, or (E, N);
// a last dimension of 1 in the first two means constant over time. D (E); delta_bias (E) or (b, E);
// initial_state, last_state (b, E, N).
//
// With offsets, the one batch entry holds n sequences one after the other: sequence i is the steps from offsets_i to
// offsets_{i+1}, which may be none, starts from entry i of initial_state and leaves that of last_state, (n, E, N).
//
// Computed in float32, or in float64 when u is float64. Memory beyond the outputs: the checkpoints of a training step
// (one state every kScanCheckpoint steps) and, per thread, a few tiles and one row of dA; where tiles are too few for
// the threads and these share the states (state_ranges.h), 4 to 6 times u forward and 11 to 17 times u backward. Every
// sum is taken in an order that depends on the shapes, the offsets and the thread count alone: results are
// bit-identical from run to run.
#pragma once
#include "core/isa.h"
#include "core/tensor.h"

namespace transmamba {

constexpr int kScanCheckpoint = 64;  // time steps from one stored state to the next

struct SelectiveScan {
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state;
  Indices offsets;  // 0, ..., L, never decreasing; none: every batch entry is one sequence
  bool softplus = false;
  bool reverse = false;  // from the last token to the first
  Tensor order;          // (L) int32, contiguous, a permutation: step t stands on token order[t]; not with reverse
  bool permute_params = true;  // false: step t takes delta, B and C from row t, whatever the order
  int threads = 1;

  DType dtype() const { return u.dtype; }
};

struct SelectiveScanForward : SelectiveScan {
  Tensor out, last_state;
  Tensor addend;  // (b, E, L): added to y before the gate, such as another direction's y; may be out itself
  // (b, chunks, tiles * N * 16) of the compute type, or not given; chunks are ceil(L / kScanCheckpoint) or, of n packed
  // sequences, floor(L / kScanCheckpoint) + n, those that are not used zero.
  Tensor checkpoints;
};

// Gradients not asked for are not given; dB and dC are (b, G, L or 1, N) or (E, N), contiguous and of the compute
// type, as are dA, dD, ddelta_bias (b or 1, E) and dinitial_state. du, ddelta, dz as u, delta, z.
struct SelectiveScanBackward : SelectiveScan {
  Tensor checkpoints, dout, dlast_state;
  Tensor du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state;
  bool add_u = false, add_delta = false, add_z = false;  // add to what du, ddelta, dz hold, such as another direction's
};

TRANSMAMBA_PER_ISA(selective_scan_forward, SelectiveScanForward)
TRANSMAMBA_PER_ISA(selective_scan_backward, SelectiveScanBackward)

}  // namespace transmamba
