// What both passes of the selective scan share: sizes, the split into tasks, and parameters packed for the blocks.
#pragma once
#include "core/split.h"
#include "core/workspace.h"
#include "selective_scan/scan_blocks.h"
#include "selective_scan/selective_scan.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

struct Tile {
  int64_t group, channel;  // its first channel
  int channels;
};

struct StateRange {
  int64_t first, end;
};

template <class T>
struct Sizes {
  int64_t batch, channels, length, states, padded_states, groups, group_channels, group_tiles, tiles;
  bool channel_B, channel_C;  // (E, N): one value a channel, none a time step

  Sizes() = default;
  template <class Scan>  // a SelectiveScan, or one direction of several
  explicit Sizes(const Scan& s)
      : batch(s.u.shape[0]), channels(s.u.shape[1]), length(s.u.shape[2]), states(s.A.shape[1]) {
    padded_states = padded(states);
    channel_B = s.B.rank == 2;
    channel_C = s.C.rank == 2;
    groups = 1;
    if (s.B.rank == 4) groups = s.B.shape[1];
    if (s.C.rank == 4 && s.C.shape[1] > groups) groups = s.C.shape[1];
    use_groups(groups);
  }
  void use_groups(int64_t number) {
    groups = number;
    group_channels = channels / groups;
    group_tiles = (group_channels + kTile - 1) / kTile;
    tiles = groups * group_tiles;
  }
  Tile tile(int64_t index) const {
    const int64_t group = index / group_tiles, inside = index % group_tiles * kTile, rest = group_channels - inside;
    return {group, group * group_channels + inside, int(rest < kTile ? rest : kTile)};
  }
  int64_t tile_states() const { return padded_states * kTile; }

  int64_t padded(int64_t n) const { return (n + kStates<T> - 1) / kStates<T> * kStates<T>; }
  StateRange all_states() const { return {0, states}; }
  // One of `count` ranges of the states: of whole blocks, but for the end.
  StateRange range(int index, int count) const {
    const int64_t blocks = padded_states / kStates<T>, end = bound(blocks, index + 1, count) * kStates<T>;
    return {bound(blocks, index, count) * kStates<T>, end < states ? end : states};
  }
};

template <class T>
constexpr int64_t kDecays = int64_t(kScanCheckpoint) * kChains<T> * kLanes<T>;  // numbers that one chunk's decays take

// (E, N) or one batch entry of (b, E, N), packed as [padded_states][kTile] for one tile, zeros in the padding.
template <class T>
TM_INLINE void pack_states(const char* data, DType dtype, int64_t channel, int64_t state, const Sizes<T>& sizes,
                           const Tile& tile, T* to) {
  memset(to, 0, sizeof(T) * sizes.tile_states());
  for (int64_t n = 0; n < sizes.states; ++n)
    read<T>(data + (tile.channel * channel + n * state) * item_size(dtype), dtype, channel, tile.channels,
            to + n * kTile);
}
template <class T>
TM_INLINE void pack_states(const Tensor& x, const Sizes<T>& sizes, const Tile& tile, T* to, int64_t batch = 0) {
  const int r = x.rank - 2;  // the strides of (E, N) are the last two
  pack_states<T>(static_cast<char*>(x.data) + (r ? batch * x.stride[0] : 0) * item_size(x.dtype), x.dtype, x.stride[r],
                 x.stride[r + 1], sizes, tile, to);
}
template <class T>
TM_INLINE void unpack_states(const T* from, const Tensor& x, const StateRange& range, const Tile& tile,
                             int64_t batch = 0) {
  const int r = x.rank - 2;
  char* data =
      static_cast<char*>(x.data) + ((r ? batch * x.stride[0] : 0) + tile.channel * x.stride[r]) * item_size(x.dtype);
  for (int64_t n = range.first; n < range.end; ++n)
    write<T>(from + n * kTile, data + n * x.stride[r + 1] * item_size(x.dtype), x.dtype, x.stride[r], tile.channels);
}
// (E) or one batch entry of (b, E), as [kTile]; zeros where x is not given.
template <class T>
TM_INLINE void pack_channels(const Tensor& x, const Tile& tile, T* to, int64_t batch = 0) {
  memset(to, 0, sizeof(T) * kTile);
  if (!x) return;
  const int r = x.rank - 1;
  read<T>(
      static_cast<char*>(x.data) + ((r ? batch * x.stride[0] : 0) + tile.channel * x.stride[r]) * item_size(x.dtype),
      x.dtype, x.stride[r], tile.channels, to);
}

// The parameters of one task's tiles.
template <class T>
struct Parameters {
  T *A = nullptr, *B = nullptr, *C = nullptr;  // [tiles][padded_states][kTile]; A in log2 units; B, C only per channel
  T* largest_A = nullptr;                      // [tiles]
  int64_t first = 0;

  static int64_t bytes(const Sizes<T>& s, int64_t tiles) {
    return (1 + s.channel_B + s.channel_C) * Workspace::bytes<T>(tiles * s.tile_states()) + Workspace::bytes<T>(tiles);
  }
  Parameters() = default;
  template <class Scan>
  Parameters(const Scan& scan, const Sizes<T>& s, int64_t first_tile, int64_t end_tile, Workspace& memory)
      : first(first_tile) {
    const int64_t tiles = end_tile - first_tile, size = s.tile_states();
    A = memory.take<T>(tiles * size);
    if (s.channel_B) B = memory.take<T>(tiles * size);
    if (s.channel_C) C = memory.take<T>(tiles * size);
    largest_A = memory.take<T>(tiles);
    for (int64_t i = 0; i < tiles; ++i) {
      const Tile tile = s.tile(first + i);
      pack_states<T>(scan.A, s, tile, A + i * size);
      if (B) pack_states<T>(scan.B, s, tile, B + i * size);
      if (C) pack_states<T>(scan.C, s, tile, C + i * size);
      T largest = 0;
      for (int64_t j = 0; j < size; ++j) {
        T& a = A[i * size + j];
        a *= kLog2E<T>;
        const T magnitude = a < 0 ? -a : a;
        largest = magnitude <= largest ? largest : magnitude;  // a not-a-number stays
      }
      largest_A[i] = largest;
    }
  }
};

// B or C of one batch entry and group in the rows of a chunk, as rows of padded_states numbers.
template <class T>
TM_INLINE Coefficients<T> stage_coefficients(const Tensor& x, const Sizes<T>& s, int64_t batch, int64_t group,
                                             const Steps& rows, int steps, T* buffer) {
  const int r = x.rank - 2;
  const int64_t state = x.stride[r], offset = r == 2 && x.shape[1] > 1 ? group * x.stride[1] : 0;
  const bool constant = x.shape[r + 1] == 1 && s.length != 1;
  char* data = static_cast<char*>(x.data) + (batch * x.stride[0] + offset) * item_size(x.dtype);
  Plane from{data, state, constant ? 0 : x.stride[r + 1], x.dtype};
  if (!constant) from = from.along(rows);
  if (!from.list && x.dtype == kDType<T> && state == 1 && s.states == s.padded_states)
    return {reinterpret_cast<const T*>(from.data), from.time};
  const int count = constant ? 1 : steps;
  if (s.states != s.padded_states) memset(buffer, 0, sizeof(T) * count * s.padded_states);
  each_run(from, count, [&](const Plane& run, int t, int length) {
    gather<T>(run, length, int(s.states), buffer + t * s.padded_states, s.padded_states);
  });
  return {buffer, constant ? 0 : s.padded_states};
}

// The steps of one chunk: those of the tokens, and those of delta, B and C.
struct ChunkSteps {
  Steps tokens, times;
};
template <class T>
TM_INLINE ChunkSteps chunk_steps(const SelectiveScan& scan, const Sizes<T>& s, int64_t start, int count) {
  const Steps straight{scan.reverse ? s.length - 1 - start : start, scan.reverse ? -1 : 1};
  if (!scan.order) return {straight, straight};
  const Steps walked = steps_of(static_cast<const int32_t*>(scan.order.data), start, count);
  return {walked, scan.permute_params ? walked : straight};
}

// Those of the states from n on: time's rows or, where the tile's channels have their own, a row a state.
template <bool PerChannel, class T>
TM_INLINE Coefficients<T> from_state(const Coefficients<T>& rows, const T* channels, int64_t tile, int64_t n) {
  if constexpr (PerChannel) return {channels + tile + n * kTile, 0};
  return {rows.data + n, rows.step};
}

// Picks the block compiled for these options: f is called with std::bool_constant-like values.
template <bool Value>
struct Choice {
  static constexpr bool value = Value;
};
template <class F>
TM_INLINE void choose(bool a, F f) {
  if (a)
    f(Choice<true>{});
  else
    f(Choice<false>{});
}

// The same for the clamp of exp2, which double's does not need: half as much to compile.
template <class T, class F>
TM_INLINE void choose_clamp(bool clamp, F f) {
  if constexpr (sizeof(T) == 8)
    f(Choice<false>{});
  else
    choose(clamp, f);
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
