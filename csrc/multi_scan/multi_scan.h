// Several selective scans over the same tokens, each in an order of its own, in one pass.
//
// Direction k stands at step t on token o = order_k[t], where it reads u, delta, B and C and where its output goes:
//
//   h_t = exp(dt_o A) h_{t-1} + dt_o u_o B_o ;  y_k[o] = <C_o, h_t> + D u_o
//   out = (sum_k y_k) silu(z)                  or, kept apart, out_k = y_k silu(z)
//
// With permute_params = false only u and y follow the order, and step t takes delta, B and C from row t.
//
// Shapes, any strides: u, delta (b, E, L) and A, B, C, D, delta_bias, initial_state as in selective_scan.h, for every
// direction; z (b, E, L); orders (K, L) int32, contiguous, every row a permutation; out (b, E, L) or (b, K, E, L);
// last_state (b, K, E, N).
//
// `shared` says that all directions have the same u, delta, A, B, C, D and delta_bias: up to kWholeSequence tokens
// their decays are then computed once. Memory beyond the outputs: per thread some rows of 16 channels over the whole
// length and, for a backward pass that is not served so, checkpoints. Results are bit-identical from run to run at one
// thread count.
#pragma once
#include "core/isa.h"
#include "core/tensor.h"

namespace transmamba {

struct Direction {
  Tensor u, delta, A, B, C, D, delta_bias, initial_state;
};

constexpr int kMaxDirections = 16;
constexpr int kWholeSequence = 512;  // rows of a tile that stay in the cache from one block of states to the next

struct MultiScan {
  const Direction* directions;
  int count;  // of directions
  Tensor z, orders;
  bool softplus = false;
  bool permute_params = true;
  bool shared = false;
  int threads = 1;

  DType dtype() const { return directions[0].u.dtype; }
};

struct MultiScanForward : MultiScan {
  Tensor out, last_state;
  // For a backward pass, unless directions are shared, permute their parameters and are no longer than kWholeSequence:
  // (b, K, ceil(L / kScanCheckpoint), tiles * N * 16) of the compute type.
  Tensor checkpoints;
};

// Gradients by direction, laid out as in selective_scan.h; those not asked for are not given. With `shared` the first
// direction's hold the sums over all, but for dinitial_state. du or ddelta may be one tensor for all directions.
struct DirectionGradients {
  Tensor du, ddelta, dA, dB, dC, dD, ddelta_bias, dinitial_state;
};

struct MultiScanBackward : MultiScan {
  Tensor checkpoints, dout, dlast_state, dz;
  const DirectionGradients* gradients;
};

TRANSMAMBA_PER_ISA(multi_scan_forward, MultiScanForward)
TRANSMAMBA_PER_ISA(multi_scan_backward, MultiScanBackward)

}  // namespace transmamba
