// The sequences that a kernel walks: the entries of a batch or, packed, neighbouring stretches of its one entry.
//
// Threads share packed sequences in one of two ways. A kernel whose steps do not wait for each other splits the length
// and asks what sequences lie in a task's share, so that any lengths are shared as evenly as one. A recurrence takes
// sequences whole, as many to a slice as come near its share of the length. Per instruction set, like simd.h.
#pragma once
#include "core/rows.h"
#include "core/split.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

struct Sequence {
  int64_t index;  // among all sequences: its entry in the states
  int64_t batch, start, length;
};

class Sequences {
 public:
  // x is (b, E, L). offsets are none or, where b is 1, from 0 to L, one more than there are sequences, never
  // decreasing.
  Sequences(const Tensor& x, Indices offsets) : batch_(x.shape[0]), length_(x.shape[2]), offsets_(offsets) {}

  bool packed() const { return offsets_.count > 0; }
  int64_t count() const { return packed() ? offsets_.count - 1 : batch_; }
  Sequence operator[](int64_t i) const {
    if (!packed()) return {i, i, 0, length_};
    return {i, 0, offsets_.data[i], offsets_.data[i + 1] - offsets_.data[i]};
  }

  // Calls f(sequence, from, to) for the steps of each sequence that lie in the steps [first, end) of a batch entry,
  // counted within the sequence and in the direction of time. A sequence without steps comes with the entry's first.
  template <class F>
  void each(int64_t batch, int64_t first, int64_t end, bool reverse, F f) const {
    for (int64_t i = batch; i < (packed() ? count() : batch + 1); ++i) {
      const Sequence s = (*this)[i];
      const auto within = [&](int64_t t) { return t < s.start ? 0 : t - s.start < s.length ? t - s.start : s.length; };
      const int64_t from = within(first), to = within(end);
      if (from < to || (s.length == 0 && first == 0))
        f(s, reverse ? s.length - to : from, reverse ? s.length - from : to);
    }
  }

  // Whole sequences, all in one slice or not, times tiles of channels times segments of the states. Slices that one
  // sequence makes uneven are split over the channels too; the states are where threads would stay idle.
  Split split(int64_t tiles, int threads, int64_t most_segments, bool one_slice = false) const {
    Split split(one_slice ? 1 : count(), tiles, threads);
    int64_t largest = 1, total = split.slices;  // of a slice, of all
    if (packed()) {
      largest = 0;
      for (int i = 0; i < split.slices; ++i) {
        const int64_t size = weight_before(first(i + 1, split.slices)) - weight_before(first(i, split.slices));
        largest = size > largest ? size : largest;
      }
      total = weight_before(count());
      if (split.parts == 1 && 2 * largest * threads > total) split.parts = int(tiles < threads ? tiles : threads);
    }
    // Rounded down, because a task more than there are threads takes as long as two; of uneven slices others are short.
    const int64_t task = total * split.parts, idle = task ? (threads * largest + (packed() ? task / 4 : 0)) / task : 1;
    split.segments = int(idle < 1 ? 1 : idle < most_segments ? idle : most_segments);
    return split;
  }
  // The first sequence of a slice: packed, the first whose middle lies in the slice's share or after it.
  int64_t first(int slice, int slices) const {
    if (!packed()) return bound(count(), slice, slices);
    const int64_t share = bound(weight_before(count()), slice, slices);
    int64_t i = 0;
    while (i < count() && weight_before(i) + weight_before(i + 1) < 2 * share) ++i;
    return i;
  }

 private:
  // Of the packed sequences before one: their steps, and a step for each sequence's states.
  int64_t weight_before(int64_t index) const { return offsets_.data[index] + index; }

  int64_t batch_, length_;
  Indices offsets_;
};

// (channels, time) of one sequence.
TM_INLINE Plane plane(const Tensor& x, const Sequence& s, bool reverse) {
  return plane(x, s.batch, reverse ? Steps{s.start + s.length - 1, -1} : Steps{s.start, 1});
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
