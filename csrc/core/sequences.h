// The sequences that a kernel walks: the entries of a batch or, packed, neighbouring stretches of its one entry.
//
// A kernel splits its work over the batch and the length (split.h) and asks here what sequences lie in a task's share,
// so that packed sequences of any lengths are shared as evenly as one. Per instruction set, like simd.h.
#pragma once
#include "core/rows.h"

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
  Sequences(const Tensor& x, Indices offsets) : length_(x.shape[2]), offsets_(offsets) {}

  // Calls f(sequence, from, to) for the steps of each sequence that lie in the steps [first, end) of a batch entry,
  // counted within the sequence and in the direction of time. A sequence without steps comes with the entry's first.
  template <class F>
  void each(int64_t batch, int64_t first, int64_t end, bool reverse, F f) const {
    const int64_t count = offsets_.count ? offsets_.count - 1 : 1;
    for (int64_t i = 0; i < count; ++i) {
      const Sequence s = offsets_.count ? Sequence{i, batch, offsets_.data[i], offsets_.data[i + 1] - offsets_.data[i]}
                                        : Sequence{batch, batch, 0, length_};
      const auto within = [&](int64_t t) { return t < s.start ? 0 : t - s.start < s.length ? t - s.start : s.length; };
      const int64_t from = within(first), to = within(end);
      if (from < to || (s.length == 0 && first == 0))
        f(s, reverse ? s.length - to : from, reverse ? s.length - from : to);
    }
  }

 private:
  int64_t length_;
  Indices offsets_;
};

// (channels, time) of one sequence.
TM_INLINE Plane plane(const Tensor& x, const Sequence& s, bool reverse) {
  Plane p = plane(x, s.batch, false).at(0, reverse ? s.start + s.length - 1 : s.start);
  if (reverse) p.time = -p.time;
  return p;
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
