// Selective scan on a GPU: the same mathematics, shapes and options as selective_scan.h, with float32, bfloat16 and
// float16 tensors, each with its own dtype and any strides. State and sums are float32.
//
// Nothing is allocated, copied to the host or waited for: a call does no more than launch kernels on the stream. Every
// sum is taken in an order that depends on the shapes and offsets alone: results are bit-identical from run to run.
#pragma once
#include <vector>

#include "core/stream.h"
#include "core/tensor.h"

namespace transmamba::cuda {

constexpr int kScanCheckpoint = 32;  // time steps from one stored state to the next, a tile of the backward pass

struct SelectiveScan {
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state;
  Tensor offsets;  // int32 (sequences + 1), on the device: 0, ..., L, never decreasing; not given: none is packed
  bool softplus = false;
  bool reverse = false;  // from the last token to the first
  Tensor order;          // int32 (L), contiguous, a permutation: step t stands on token order[t]; not with reverse
  bool permute_params = true;  // false: step t takes delta, B and C from row t, whatever the order
};

// Checkpoints are float32, contiguous (batch, chunks, E, N): the state before every kScanCheckpoint-th step of an entry
// in the direction of time, from its first on; chunks is ceil(L / kScanCheckpoint). Of n packed sequences there are
// floor(L / kScanCheckpoint) + n, those of sequence i from floor(offsets_i / kScanCheckpoint) + i on, whatever the
// direction; those that are not used are zero.
struct SelectiveScanForward : SelectiveScan {
  Tensor out, last_state;
  Tensor checkpoints;  // not given: none are kept
  Tensor addend;       // (b, E, L): added to y before the gate, such as another direction's y; may be out itself
  // In chunks of so many steps, at up to twice the exponentials; 0: whole sequences.
  int64_t chunk = 0;
  Tensor chunk_states;  // float32, of selective_scan_chunk_states numbers to work in
};

// Gradients not asked for are not given; dB and dC are (b, G, L or 1, N) or (E, N), contiguous and float32, as are dA,
// dD, ddelta_bias (b or 1, E) and dinitial_state. du, ddelta, dz as u, delta, z.
struct SelectiveScanBackward : SelectiveScan {
  Tensor checkpoints, dout, dlast_state;
  Tensor du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state;
  bool add_u = false, add_delta = false, add_z = false;  // add to what du, ddelta, dz hold, such as another direction's
  // Of the device: where sequences and channels are too few for them, sequences are cut into chunks, at one walk more.
  int multiprocessors = 0;
  Tensor partial;  // float32, of selective_scan_partials numbers: sums of single blocks and chunks
};

// The chunk for so many multiprocessors: 0 where half of them have whole sequences to walk over, or these are short or
// packed. Only the shapes decide.
int64_t selective_scan_chunk(const SelectiveScan& scan, int multiprocessors);
int64_t selective_scan_chunk_states(const SelectiveScanForward& scan);
void selective_scan_forward(const SelectiveScanForward& scan, Stream stream);
// Scans of the same shapes and groups in turn, in one launch: each may add to what the one before has written. Without
// chunks.
void selective_scans_forward(const std::vector<SelectiveScanForward>& scans, Stream stream);

int64_t selective_scan_partials(const SelectiveScanBackward& scan);
void selective_scan_backward(const SelectiveScanBackward& scan, Stream stream);

}  // namespace transmamba::cuda
