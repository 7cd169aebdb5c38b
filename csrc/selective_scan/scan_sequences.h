// The sequences of a selective scan as its passes walk them: in the direction of time, a chunk after the other.
#pragma once
#include "core/sequences.h"
#include "selective_scan/scan_setup.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

struct Stretch {
  int64_t index, batch;        // its entry in the states, and in all else
  int64_t start, end;          // steps of the batch entry, counted in the direction of time
  int64_t chunks, checkpoint;  // their number, and the place of the first one's checkpoint
  int64_t end_checkpoint;      // that of the next sequence's

  int64_t chunk_start(int64_t chunk) const { return start + chunk * kScanCheckpoint; }
  int chunk_steps(int64_t chunk) const {
    const int64_t rest = end - chunk_start(chunk);
    return int(rest < kScanCheckpoint ? rest : kScanCheckpoint);
  }
};

TM_INLINE Stretch stretch(const SelectiveScan& scan, const Sequences& sequences, int64_t index) {
  const Sequence s = sequences[index];
  const int64_t start = scan.reverse ? scan.u.shape[2] - s.start - s.length : s.start;
  const int64_t chunks = (s.length + kScanCheckpoint - 1) / kScanCheckpoint;
  // Packed, in tensors whose size does not depend on the offsets: floor(x) + 1 + floor(y) >= ceil(x + y).
  const auto packed = [&](int64_t time, int64_t before) { return time / kScanCheckpoint + before; };
  const int64_t first = sequences.packed() ? packed(s.start, index) : index * chunks;
  const int64_t end = sequences.packed() ? packed(s.start + s.length, index + 1) : first + chunks;
  return {index, s.batch, start, start + s.length, chunks, first, end};
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
