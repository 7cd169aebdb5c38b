// One selective scan in several orders over the same tokens, in one pass: the decays, half of the work, are shared.
//
// Direction k stands at step t on token o = order_k[t], where it reads u, delta, B and C and where its output goes:
//
//   h_t = exp(dt_o A) h_{t-1} + dt_o u_o B_o ;  y_k[o] = <C_o, h_t> + D u_o
//   out = (sum_k y_k) silu(z)                  or, kept apart, out_k = y_k silu(z)
//
// Shapes, any strides: u, delta, A, B, C, D, z, delta_bias as in selective_scan.h; orders (K, L) int32, rows
// contiguous, every one a permutation; initial_state, last_state (b, K, E, N); out (b, E, L) or (b, K, E, L).
//
// Memory beyond the outputs: per thread some rows of 16 channels over the whole length, which have to stay in the cache
// from one block of states to the next: past kWholeSequence tokens, scans of their own are faster. The backward pass
// walks forward again from the start and needs nothing kept. Results are bit-identical from run to run at one thread
// count.
#pragma once
#include "core/isa.h"
#include "core/tensor.h"

namespace transmamba {

constexpr int kWholeSequence = 1024;

struct MultiScan {
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state, orders;
  bool softplus = false;
  int threads = 1;

  DType dtype() const { return u.dtype; }
  int64_t count() const { return orders.shape[0]; }  // of directions
};

struct MultiScanForward : MultiScan {
  Tensor out, last_state;
};

// Gradients laid out as in selective_scan.h, sums over the directions but for dinitial_state (b, K, E, N); those not
// asked for are not given. dout as out.
struct MultiScanBackward : MultiScan {
  Tensor dout, dlast_state;
  Tensor du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state;
};

TRANSMAMBA_PER_ISA(multi_scan_forward, MultiScanForward)
TRANSMAMBA_PER_ISA(multi_scan_backward, MultiScanBackward)

}  // namespace transmamba
