// What a block of a selective scan holds and how it comes by it, in both passes.
//
// A block takes the channels of one tile, all of one group, and walks over one sequence, a tile of steps at a time. The
// tile of B and of C lies in shared memory as floats, and so do dt and dt u. Of a tile that is not full the rest is
// zeros: a step with dt = 0 and B = 0 leaves the state as it is.
#pragma once
#include "core/pieces.cuh"
#include "selective_scan/scan_views.h"

namespace transmamba::cuda {

constexpr int64_t kLargestGridY = 65535;  // blocks beyond it take several sequences

// How the states of a channel are shared out: kLanes neighbouring threads have kStates each. Where there are fewer than
// kPadded, the rest is zeros.
template <int States, int Lanes>
struct StateLayout {
  static constexpr int kStates = States, kLanes = Lanes, kPadded = States * Lanes;
  static constexpr int kVector = States < 4 ? States : 4;  // states of a thread that are neighbours

  // The number of a lane's i-th state. Lanes read neighbouring vectors: no two the same bank.
  __device__ static constexpr int state(int lane, int i) {
    return (i / kVector * Lanes + lane) * kVector + i % kVector;
  }
};

// Calls f(StateLayout) with the one for this number of states.
template <class F>
void visit_layout(int64_t states, F f) {
  if (states == 1) return f(StateLayout<1, 1>());
  if (states <= 4) return f(StateLayout<4, 1>());
  if (states <= 16) return f(StateLayout<4, 4>());
  if (states <= 64) return f(StateLayout<4, 16>());
  return f(StateLayout<8, 32>());
}

// -- where a block is -----------------------------------------------------------------------------------------------

struct ChannelTile {
  int64_t group, first;  // its first channel
  int channels;
};

inline int64_t tiles_of(const ScanViews& s, int width) {
  return s.groups * ((s.channels / s.groups + width - 1) / width);
}

template <int Width>
__device__ ChannelTile channel_tile(const ScanViews& s, int64_t index) {
  const int64_t size = s.channels / s.groups, tiles = (size + Width - 1) / Width;
  const int64_t group = index / tiles, inside = index % tiles * Width, rest = size - inside;
  return {group, group * size + inside, int(rest < Width ? rest : Width)};
}

// A sequence in the direction of time.
struct Walk {
  int64_t index, batch;  // its entry in the states, and in all else
  int64_t length;
  Steps tokens, times;                 // rows of u, z and out; of delta, B and C
  int64_t checkpoint, end_checkpoint;  // the places of its first and of the next sequence's first
};

__device__ inline Walk walk(const ScanViews& s, int64_t index) {
  Walk w{};
  w.index = index;
  int64_t start = 0;
  if (s.offsets) {
    start = s.offsets[index];
    w.length = s.offsets[index + 1] - start;
    // In tensors whose size does not depend on the offsets: floor(x) + 1 + floor(y) >= ceil(x + y).
    w.checkpoint = start / kScanCheckpoint + index;
    w.end_checkpoint = (start + w.length) / kScanCheckpoint + index + 1;
  } else {
    const int64_t chunks = (s.length + kScanCheckpoint - 1) / kScanCheckpoint;
    w.batch = index;
    w.length = s.length;
    w.checkpoint = index * chunks;
    w.end_checkpoint = w.checkpoint + chunks;
  }
  const Steps straight = s.reverse ? Steps{start + w.length - 1, -1, nullptr} : Steps{start, 1, nullptr};
  const Steps ordered{0, 1, s.order + start};
  w.tokens = s.order ? ordered : straight;
  w.times = s.order && s.permute_params ? ordered : straight;
  return w;
}

// The steps [chunk * steps, (chunk + 1) * steps) of it, as far as they exist.
__device__ inline Walk chunk_of(Walk w, int64_t steps, int64_t chunk) {
  const int64_t start = chunk * steps, rest = w.length - start;
  if (rest > steps) {
    w.length = steps;
    w.end_checkpoint = w.checkpoint + (start + steps) / kScanCheckpoint;
  } else {
    w.length = rest;
  }
  w.tokens = w.tokens.from(start);
  w.times = w.times.from(start);
  w.checkpoint += start / kScanCheckpoint;
  return w;
}

// -- tiles in memory ------------------------------------------------------------------------------------------------

// The channels of a tile, step by step.
__device__ inline Plane channels_of(const View& x, int64_t batch, const ChannelTile& tile, const Steps& steps) {
  const int size = size_of(x.dtype);
  if (!x.data) return {};
  return {x.data + (batch * x.batch + tile.first * x.channel) * size, x.row * size, x.channel * size, x.dtype, steps};
}
// The states of B or C, step by step or, of (E, N), channel by channel.
__device__ inline Plane states_of(const View& x, int64_t batch, const ChannelTile& tile, const Steps& steps,
                                  bool by_channel) {
  const int size = size_of(x.dtype);
  const int64_t first = batch * x.batch + tile.group * x.group + (by_channel ? tile.first * x.channel : 0);
  return {x.data + first * size, (by_channel ? x.channel : x.row) * size, x.state * size, x.dtype,
          by_channel ? Steps{} : steps};
}

// Calls f for a thread's share of the pieces of a tile: whole ones, which take a third of the instructions, or any.
template <class Tile, class Block, class F>
__device__ __forceinline__ void each_tile_piece(const Block& block, int steps, F f) {
  if constexpr (Tile::kWidth % kPiece == 0)
    if (block.in_words && steps == Tile::kSteps && block.tile.channels == Tile::kWidth)
      return each_whole_piece<Tile::kSteps, Tile::kWidth>(f);
  each_piece<Tile::kSteps, Tile::kWidth>(block.u.along_steps(), steps, block.tile.channels, f);
}

// The coefficients of a tile: those of its steps or, where they are one row a channel, of its channels.
template <class Layout, class Tile>
__device__ __forceinline__ void stage_coefficients(const ScanViews& s, const Plane& B, const Plane& C, int channels,
                                                   int64_t start, int steps, float* memory) {
  using All = Pieces<Tile::kRows, Layout::kPadded>;
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < 2 * All::kMost; i += blockDim.x) {
    const bool is_C = i >= All::kMost;
    const bool by_channel = is_C ? s.channel_C : s.channel_B;
    const Plane from = (is_C ? C : B).from(by_channel ? 0 : start);
    const All pieces{from.along_steps(), by_channel ? channels : steps, int(s.states)};
    const unsigned place = i - is_C * All::kMost;
    if (place >= pieces.count()) continue;
    const Piece p = pieces[place];
    put<Layout::kPadded, Layout::kPadded>(memory + (is_C ? Tile::kC : Tile::kB), p, unpack(load(from, p), from.dtype));
  }
}

// The states of a lane, of a row of a tile of coefficients.
template <class Layout>
__device__ __forceinline__ void read_states(const float* row, int lane, float (&to)[Layout::kStates]) {
  if constexpr (Layout::kVector == 4) {
#pragma unroll
    for (int i = 0; i < Layout::kStates; i += 4) {
      const float4 x = *reinterpret_cast<const float4*>(row + Layout::state(lane, i));
      to[i] = x.x;
      to[i + 1] = x.y;
      to[i + 2] = x.z;
      to[i + 3] = x.w;
    }
  } else {
    to[0] = row[lane];
  }
}

// An entry of (E) or (b, E); 0 where it is not given.
__device__ inline float number(const View& x, int64_t batch, int64_t channel) {
  return x.data ? load(x.data, x.dtype, batch * x.batch + channel * x.channel) : 0.f;
}

// The state (E, N) or (b, E, N) of a thread: Channels neighbouring channels from `channel` of the tile on, zeros
// beyond.
template <class Layout, int Channels>
__device__ void load_states(const View& x, int64_t batch, const ChannelTile& tile, int channel, int lane,
                            int64_t states, float (&to)[Channels][Layout::kStates]) {
#pragma unroll
  for (int c = 0; c < Channels; ++c) {
    const int64_t first = batch * x.batch + (tile.first + channel + c) * x.channel;
#pragma unroll
    for (int i = 0; i < Layout::kStates; ++i) to[c][i] = 0.0f;
    if (x.data && channel + c < tile.channels)
      visit(x.dtype, [&](auto element) {
        const auto* from = reinterpret_cast<const decltype(element)*>(x.data) + first;
#pragma unroll
        for (int i = 0; i < Layout::kStates; ++i)
          if (const int n = Layout::state(lane, i); n < states) to[c][i] = to_float(from[n * x.state]);
      });
  }
}
// The same to float32 memory.
template <class Layout, int Channels>
__device__ void store_states(const float (&from)[Channels][Layout::kStates], const View& x, int64_t batch,
                             const ChannelTile& tile, int channel, int lane, int64_t states) {
#pragma unroll
  for (int c = 0; c < Channels; ++c) {
    float* to = reinterpret_cast<float*>(x.data) + batch * x.batch + (tile.first + channel + c) * x.channel;
#pragma unroll
    for (int i = 0; i < Layout::kStates; ++i) {
      const int n = Layout::state(lane, i);
      if (channel + c < tile.channels && n < states) to[n * x.state] = from[c][i];
    }
  }
}

// -- dt ---------------------------------------------------------------------------------------------------------------

// dt and dt u of a channel and step lie together, those of two channels side by side where a thread has two or more.
template <int Channels>
struct StepSizes {
  static constexpr int kPair = Channels < 2 ? 1 : 2;
  __device__ static int dt(int channel) { return channel / kPair * 2 * kPair + channel % kPair; }
  __device__ static int dtu(int channel) { return dt(channel) + kPair; }
};

// Two numbers of each element of a piece to and from where dt and dt u are.
template <class Tile, class P>
__device__ void put_pairs(float* tile, const P& p, const Floats& x, const Floats& y) {
  using Sizes = StepSizes<Tile::kChannels>;
  float* row = tile + p.step * Tile::kRow;
  if (p.along_steps) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      row[i * Tile::kRow + Sizes::dt(p.column)] = x[i];
      row[i * Tile::kRow + Sizes::dtu(p.column)] = y[i];
    }
  } else {
    float4* quads = reinterpret_cast<float4*>(row + 2 * p.column);
#pragma unroll
    for (int i = 0; i < kPiece && i < Tile::kWidth; i += 2)
      quads[i / 2] =
          Sizes::kPair == 2 ? make_float4(x[i], x[i + 1], y[i], y[i + 1]) : make_float4(x[i], y[i], x[i + 1], y[i + 1]);
  }
}
template <class Tile, class P>
__device__ void get_pairs(const float* tile, const P& p, Floats& x, Floats& y) {
  using Sizes = StepSizes<Tile::kChannels>;
  const float* row = tile + p.step * Tile::kRow;
  if (p.along_steps) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      x[i] = row[i * Tile::kRow + Sizes::dt(p.column)];
      y[i] = row[i * Tile::kRow + Sizes::dtu(p.column)];
    }
  } else {
    const float4* quads = reinterpret_cast<const float4*>(row + 2 * p.column);
#pragma unroll
    for (int i = 0; i < kPiece; i += 2) {
      const float4 quad = quads[i % Tile::kWidth / 2];  // beyond a narrow tile there is nothing: any number will do
      x[i] = quad.x;
      x[i + 1] = Sizes::kPair == 2 ? quad.y : quad.z;
      y[i] = Sizes::kPair == 2 ? quad.z : quad.y;
      y[i + 1] = quad.w;
    }
  }
}

}  // namespace transmamba::cuda
