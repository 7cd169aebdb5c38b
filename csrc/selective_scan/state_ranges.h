// Scans of too few tiles to fill the threads: tasks that share the states of a tile.
//
// Within the recurrence no state waits for another one, before and after it no step does. So a pass goes in three
// phases, and does nothing twice: it prepares the rows, the steps shared out; walks over them, the states shared out,
// each range of them adding to rows of its own; adds these up in order and finishes them, the steps shared out again.
#pragma once
#include "selective_scan/scan_sequences.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

constexpr int kMostRanges = 4;            // each has rows of the whole length
constexpr int64_t kLittleWork = 1 << 21;  // steps times states, of all channels: not worth three phases

template <class T>
int64_t most_ranges(const Sizes<T>& s) {
  const int64_t blocks = s.padded_states / kStates<T>, work = s.batch * s.tiles * kTile * s.padded_states * s.length;
  return work < kLittleWork ? 1 : blocks < kMostRanges ? blocks : kMostRanges;
}

template <class T>
struct RangeRows {
  Sizes<T> s;
  int ranges, shared, own;  // rows a step: those of all ranges, and those of each
  Split steps;              // tasks of the first and the last phase; slices are entries of the batch
  T *rows = nullptr, *largest_dt = nullptr;

  RangeRows(const Sizes<T>& sizes, int count, int threads, int shared_rows, int own_rows)
      : s(sizes),
        ranges(count),
        shared(shared_rows),
        own(own_rows),
        steps(s.batch, s.tiles, threads, s.length / kScanCheckpoint) {}

  bool used() const { return ranges > 1; }
  int64_t bytes() const { return used() ? Workspace::bytes<T>(count()) + Workspace::bytes<T>(chunks()) : 0; }
  void take(Workspace& memory) {
    if (!used()) return;
    rows = memory.take<T>(count());
    largest_dt = memory.take<T>(chunks());
  }

  // Row `which` of the steps from `start` on, as [steps][kTile].
  T* row(int which, int64_t batch, int64_t tile, int64_t start) const {
    return rows + (((which * s.batch + batch) * s.tiles + tile) * s.length + start) * kTile;
  }
  T* own_row(int which, int range, int64_t batch, int64_t tile, int64_t start) const {
    return row(shared + range * own + which, batch, tile, start);
  }
  // Adds those of the other ranges to those of the first.
  void add_up(int which, int64_t batch, int64_t tile, int64_t start, int steps) const {
    T* to = own_row(which, 0, batch, tile, start);
    for (int range = 1; range < ranges; ++range) {
      const T* from = own_row(which, range, batch, tile, start);
      for (int64_t j = 0; j < steps * kTile; j += kLanes<T>) store<T>(to + j, load<T>(to + j) + load<T>(from + j));
    }
  }

  // The largest |dt| of each chunk; packed sequences take that of the two chunks that they may touch.
  T& largest_of(int64_t batch, int64_t tile, int64_t start) const {
    return largest_dt[(batch * s.tiles + tile) * chunks_of_entry() + start / kScanCheckpoint];
  }
  T largest_within(int64_t batch, int64_t tile, int64_t start, int steps) const {
    const T a = largest_of(batch, tile, start), b = largest_of(batch, tile, start + steps - 1);
    return a > b ? a : b;
  }

  // The slice of the sums that a task of the last phase adds to; all of one batch entry lie side by side.
  int steps_slice(int task) const {
    return task / steps.segments / steps.parts * steps.segments + task % steps.segments;
  }
  // Calls f(batch, tile, start, steps) for the chunks of a task of the first or the last phase.
  template <class F>
  void each_chunk(int task, F f) const {
    const int segment = task % steps.segments, part = task / steps.segments % steps.parts;
    const int64_t batch = task / steps.segments / steps.parts;
    const int64_t end = bound(chunks_of_entry(), segment + 1, steps.segments);
    for (int64_t chunk = bound(chunks_of_entry(), segment, steps.segments); chunk < end; ++chunk)
      for (int64_t i = bound(s.tiles, part, steps.parts); i < bound(s.tiles, part + 1, steps.parts); ++i) {
        const int64_t start = chunk * kScanCheckpoint, rest = s.length - start;
        f(batch, i, start, int(rest < kScanCheckpoint ? rest : kScanCheckpoint));
      }
  }

 private:
  int64_t chunks_of_entry() const { return (s.length + kScanCheckpoint - 1) / kScanCheckpoint; }
  int64_t chunks() const { return s.batch * s.tiles * chunks_of_entry(); }
  int64_t count() const { return (shared + ranges * own) * s.batch * s.tiles * s.length * kTile; }
};

// A task of a pass' first phase.
template <class Pass>
void prepare_rows(const Pass& pass, int task) {
  Workspace memory(Pass::Scratch::bytes());
  typename Pass::Scratch scratch(memory);
  pass.ranges.each_chunk(task, [&](int64_t b, int64_t i, int64_t start, int steps) {
    scratch.use(pass.ranges, 0, b, i, start);
    pass.ranges.largest_of(b, i, start) =
        pass.prepare(b, chunk_steps(pass.scan, pass.s, start, steps), steps, pass.s.tile(i), scratch);
  });
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
