// What both passes of the causal convolution share: sizes, packed weights, and blocks staged in the compute type.
//
// Time is counted within a sequence in the direction of the convolution: from 0 in x, and from 1 - W to -1 in
// initial_state.
#pragma once
#include <initializer_list>

#include "causal_conv1d/causal_conv1d.h"
#include "causal_conv1d/conv_blocks.h"
#include "core/parallel.h"
#include "core/sequences.h"
#include "core/split.h"
#include "core/workspace.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

constexpr int kSteps = 8;       // time steps of a block of channels used where it lies in memory,
constexpr int kStrip = 2048;    // and its channels
constexpr int kTileSteps = 64;  // time steps of a tile of channels in buffers
constexpr int kLine = 2048;     // time steps of a block of one channel, a whole number of vectors
constexpr int kSegment = 512;   // fewest time steps worth a task of their own

// How the tensors lie in memory: neighbouring channels side by side, neighbouring times, or neither (or not alike).
enum class Layout { strips, lines, other };

inline Layout common_layout(std::initializer_list<Tensor> tensors) {
  const DType dtype = tensors.begin()->dtype;
  bool strips = true, lines = true;
  for (const Tensor& x : tensors) {
    if (!x) continue;
    strips = strips && x.stride[1] == 1 && x.dtype == dtype;
    lines = lines && (x.stride[2] == 1 || x.stride[2] == 0);
  }
  return strips ? Layout::strips : lines ? Layout::lines : Layout::other;
}

inline int block_steps(Layout layout) {
  return layout == Layout::strips ? kSteps : layout == Layout::lines ? kLine : kTileSteps;
}

struct Block {
  const Sequence& sequence;
  int64_t channel, time;  // of its first element
  int channels, steps;
};

// A block in buffers is rows of kTile channels, or one line of steps; in both cases the vectors are taken in order.
struct Grid {
  int rows, channels;  // of vectors
  int64_t row;         // in numbers
};

template <class T>
struct Convolution {
  const CausalConv1d& conv;
  Sequences sequences{conv.x, conv.offsets};
  int64_t batch = conv.x.shape[0], channels = conv.x.shape[1], length = conv.x.shape[2];
  int width = int(conv.weight.shape[1]);
  int past = width - 1;  // time steps that an output sees besides its own
  int64_t tiles = (channels + kTile - 1) / kTile, padded = tiles * kTile;
  T *weight = nullptr, *bias = nullptr;  // [width][padded], [padded]; zeros in the padding

  int64_t packed_bytes() const { return Workspace::bytes<T>(width * padded) + Workspace::bytes<T>(padded); }
  void pack(Workspace& memory) {
    weight = memory.take<T>(width * padded);
    bias = memory.take<T>(padded);
    memset(weight, 0, sizeof(T) * width * padded);
    memset(bias, 0, sizeof(T) * padded);
    const Tensor& w = conv.weight;
    for (int k = 0; k < width; ++k)
      read<T>(static_cast<char*>(w.data) + k * w.stride[1] * item_size(w.dtype), w.dtype, w.stride[0], channels,
              weight + k * padded);
    if (conv.bias) read<T>(conv.bias.data, conv.bias.dtype, conv.bias.stride[0], channels, bias);
  }

  Plane at(const Tensor& x, const Block& block) const {
    return plane(x, block.sequence, conv.reverse).at(block.channel, block.time);
  }
  // (channel, 0) of a state.
  static Plane state_at(const Tensor& state, const Block& block) {
    return plane(state, block.sequence.index, false).at(block.channel, 0);
  }

  // The filter of a block of channels where they lie, or of one channel spread over vectors in `buffer`.
  Filter<T> filter(int64_t channel) const { return {weight + channel, padded, bias + channel, width}; }
  Filter<T> line_filter(int64_t channel, T* buffer) const {
    for (int k = 0; k <= width; ++k)
      store<T>(buffer + k * kLanes<T>, splat<T>(k < width ? weight[k * padded + channel] : bias[channel]));
    return {buffer, kLanes<T>, buffer + width * kLanes<T>, width};
  }

  // Numbers a staged block takes, the past included; whole vectors of a line.
  int64_t staged() const {
    const int64_t rows = int64_t(past + kTileSteps) * kTile, line = past + kLine + kLanes<T>;
    return rows > line ? rows : line;
  }
  static Grid grid(const Block& block, bool line) {
    constexpr int n = kLanes<T>;
    if (line) return {(block.steps + n - 1) / n, n, n};
    return {block.steps, kTile, kTile};
  }

  // seen from `past` steps before the block to its end: rows of kTile channels, or a line with zeros up to a vector.
  void stage_seen(const Block& block, bool line, T* buffer) const {
    const int64_t first = block.time - past, end = block.time + block.steps;
    const int before = int(first >= 0 ? 0 : end < 0 ? end - first : -first);  // steps in the initial state
    const int64_t row = line ? 1 : kTile;
    if (before > 0) {
      memset(buffer, 0, sizeof(T) * before * row);
      if (conv.initial_state) {
        const Plane state = state_at(conv.initial_state, block);
        for (int t = 0; t < before; ++t)
          read<T>(state.at(0, first + past + t).data, state.dtype, state.channel, block.channels, buffer + t * row);
      }
    }
    Block rest = block;
    rest.time = first + before;
    rest.steps = int(end - rest.time);
    stage(conv.x, rest, line, buffer + before * row);
  }

  void stage(const Tensor& x, const Block& block, bool line, T* buffer) const {
    if (block.steps <= 0) return;
    const Plane from = at(x, block);
    if (line) {
      read_line<T>(from, block.steps, buffer);
      memset(buffer + block.steps, 0, sizeof(T) * kLanes<T>);
      return;
    }
    const Rows<const T> rows = read_rows<T>(from, block.steps, block.channels, buffer);
    if (rows.data != buffer)
      for (int t = 0; t < block.steps; ++t) memcpy(buffer + t * kTile, rows[t], sizeof(T) * kTile);
  }
  void unstage(T* buffer, const Tensor& x, const Block& block, bool line) const {
    const Plane to = at(x, block);
    if (line) return write_line<T>(buffer, to, block.steps);
    if (!direct<T>(to, block.channels)) return write_rows<T>(to, {buffer, kTile}, block.steps, block.channels);
    for (int t = 0; t < block.steps; ++t) memcpy(to.at(0, t).data, buffer + t * kTile, sizeof(T) * kTile);
  }

  // Calls f(sequence, from, to, first, end) for the sequences in the steps [from, to) of a batch entry and channels
  // [first, end). Packed lines go channel by channel: the next sequence is what follows in memory.
  template <class F>
  void each_sequence(Layout layout, int64_t b, int64_t from, int64_t to, int64_t first, int64_t end, F f) const {
    const int64_t taken = layout == Layout::lines && conv.offsets.count ? 1 : end - first;
    for (int64_t channel = first; channel < end; channel += taken)
      sequences.each(b, from, to, conv.reverse, [&](const Sequence& sequence, int64_t start, int64_t stop) {
        f(sequence, start, stop, channel, channel + taken);
      });
  }

  // Calls f(block, staged) for every block of channels [first, end) over the same steps; `staged` asks for buffers.
  template <class F>
  void each_block(Layout layout, const Sequence& sequence, int64_t first, int64_t end, int64_t time, int steps,
                  bool staged, F f) const {
    for (int64_t c = first; c < end;) {
      const int64_t rest = end - c, whole = (rest < kStrip ? rest : kStrip) / kTile * kTile;
      const bool in_place = layout == Layout::strips && !staged && whole > 0;
      const int taken = in_place ? int(whole) : layout == Layout::lines ? 1 : int(rest < kTile ? rest : kTile);
      f(Block{sequence, c, time, taken, steps}, !in_place);
      c += taken;
    }
  }
};

// Calls f with a pointer type's element for tensors of one layout: the compute type or 16 bits.
template <class T, class F>
TM_INLINE void visit_stored(DType dtype, F f) {
  if constexpr (sizeof(T) == 4) {
    if (dtype == DType::bf16) return f(Bf16{});
    if (dtype == DType::f16) return f(F16{});
  }
  f(T{});
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
