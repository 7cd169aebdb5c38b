// What a block of the backward pass holds in shared memory, and what it does there once per tile: before the adjoint
// walks over the tile, dt, dt u and g; after it du, ddelta, dz and the sums of dD and ddelta_bias.
//
// Inputs are read twice, before and after the walk: from the second-level cache, for a few instructions a number, where
// keeping them would take the shared memory of another block.
#pragma once
#include "selective_scan/scan_tile.cuh"

namespace transmamba::cuda {

struct BackwardViews : ScanViews {
  View dout, dlast_state, du, ddelta, dz, dinitial_state;
  bool add_u, add_delta, add_z;  // add to what du, ddelta, dz hold
  // Blocks take units, of `chunk_steps` steps of a sequence each: it whole or, so that there are more blocks, a chunk.
  int64_t chunks, units, chunk_steps;  // of a sequence; of all
  const float* checkpoints;            // (places, E, N)
  // Partial sums, float32 and contiguous, of single units: (units, E, N), where dB and dC are only those of (E, N), and
  // (units, E). Null: not wanted.
  View dA, channel_dB, channel_dC;
  float *dD, *dbias;
  // Of single blocks: (b, G, tiles of a group, L, N) or, constant over time, (b, G, units of the entry, tiles, N).
  float *dB, *dC;
};

// What a block takes, reads and writes: in shared memory, as registers are few.
struct BackwardBlock {
  ChannelTile tile;
  int64_t unit, sequence, batch;  // its entry in the partial sums, in the states, and in all else
  int64_t length, checkpoint;     // steps; the place of its first checkpoint
  Plane u, delta, dout, z, B, C, du, ddelta, dz;
  Plane dB, dC;   // rows of float32
  bool in_words;  // all that are read and written piece by piece

  __device__ BackwardBlock(const BackwardViews& s, const Walk& w, const ChannelTile& tile, int64_t unit)
      : tile(tile),
        unit(unit),
        sequence(w.index),
        batch(w.batch),
        length(w.length),
        checkpoint(w.checkpoint),
        u(channels_of(s.u, w.batch, tile, w.tokens)),
        delta(channels_of(s.delta, w.batch, tile, w.times)),
        dout(channels_of(s.dout, w.batch, tile, w.tokens)),
        z(channels_of(s.z, w.batch, tile, w.tokens)),
        B(states_of(s.B, w.batch, tile, w.times, s.channel_B)),
        C(states_of(s.C, w.batch, tile, w.times, s.channel_C)),
        du(channels_of(s.du, w.batch, tile, w.tokens)),
        ddelta(channels_of(s.ddelta, w.batch, tile, w.times)),
        dz(channels_of(s.dz, w.batch, tile, w.tokens)),
        dB(rows_of(s.dB, s.constant_B, s, w, tile, unit)),
        dC(rows_of(s.dC, s.constant_C, s, w, tile, unit)),
        in_words(u.in_words() && delta.in_words() && dout.in_words() && z.in_words() && du.in_words() &&
                 ddelta.in_words() && dz.in_words()) {}

 private:
  __device__ static Plane rows_of(float* data, bool constant, const BackwardViews& s, const Walk& w,
                                  const ChannelTile& tile, int64_t unit) {
    if (!data) return {};
    const int64_t tiles = gridDim.x / s.groups, in_entry = s.units / s.batch, row = s.states * sizeof(float);
    int64_t place = w.batch * s.groups + tile.group;
    if (constant) place = place * in_entry + unit % in_entry;
    char* rows = reinterpret_cast<char*>(data) + (place * tiles + blockIdx.x % tiles) * (constant ? 1 : s.length) * row;
    return {rows, constant ? 0 : row, sizeof(float), DType::f32, w.times};
  }
};

// Channels of a thread and of a block, and steps of a tile and of a span, the steps whose states are in registers.
template <class Layout, bool ByChannel>
struct BackwardTile {
  static constexpr int kChannels = Layout::kLanes == 4 || Layout::kLanes == 16 ? 2 : 1;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kWidth = kThreads / Layout::kLanes * kChannels;
  static constexpr int kSteps = Layout::kLanes == 32 ? 8 : kScanCheckpoint;
  static constexpr int kBlocks = Layout::kLanes == 32 ? 2 : 3;  // on a multiprocessor, as far as registers go
  static constexpr int kSpan = 4, kSpans = kSteps / kSpan;

  static constexpr int kRow = 2 * kWidth;                                                     // of dt and dt u
  static constexpr int kSumRow = 2 * Layout::kPadded;                                         // of dB and dC
  static constexpr int kSumSteps = Layout::kLanes == 32 ? 4 : Layout::kLanes == 16 ? 8 : 16;  // added up at a time
  static constexpr int kRows = ByChannel && kWidth > kSteps ? kWidth : kSteps;
  static constexpr int kCoefficients = kRows * Layout::kPadded;
  static constexpr int kStates = kChannels * Layout::kStates * kThreads;  // of one step

  // In shared memory, one after the other. dt and dt u give way to <lambda, A decay h> and <lambda, B> and these to
  // ddelta and D's gradient, g gives way to y.
  static constexpr int kG = kSteps * kRow, kB = kG + kSteps * kWidth, kC = kB + kCoefficients,
                       kSpanStates = kC + kCoefficients,      // what spans start from, but the last
      kWarpSums = kSpanStates + (kSpans - 1) * kStates,       // [warp][step][B, C][state]
      kTotals = kWarpSums + kWarps * kSumSteps * kSumRow,     // of dB and dC over time, a thread's
      kChannelTotals = kTotals + kThreads * Layout::kVector,  // of ddelta and dD over time, as dt and dt u
      kBias = kChannelTotals + kRow, kD = kBias + kWidth, kBlock = kD + kWidth;
  static constexpr int kBytes = kBlock * sizeof(float) + sizeof(BackwardBlock);
  static_assert(kBlock % 4 == 0, "aligned");
};

template <class Tile>
__device__ __forceinline__ BackwardBlock* block_of(float* memory) {
  return reinterpret_cast<BackwardBlock*>(memory + Tile::kBlock);
}

template <class P>
__device__ __forceinline__ void store_added(const Plane& to, const P& p, Floats x, bool add) {
  if (add) {
    const Floats before = unpack(load(to, p), to.dtype);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] += before[i];
  }
  store(to, p, pack(x, to.dtype));
}

// dt = softplus(delta + bias), dtu = dt u and g = dout silu(z) of the steps from `start` on, zeros where there is
// nothing.
template <class Tile>
__device__ __forceinline__ void stage_adjoint(const BackwardViews& s, const BackwardBlock& block, int64_t start,
                                              int steps, float* memory) {
  const Plane u = block.u.from(start), delta = block.delta.from(start), dout = block.dout.from(start),
              z = block.z.from(start);
  each_tile_piece<Tile>(block, steps, [&](const auto& p) {
    const Raw raw_u = load(u, p), raw_delta = load(delta, p), raw_g = load(dout, p);
    Raw raw_z{};
    if (z) raw_z = load(z, p);
    const Floats u_t = unpack(raw_u, u.dtype), bias = get_row(memory + Tile::kBias, p);
    Floats dt = unpack(raw_delta, delta.dtype), g = unpack(raw_g, dout.dtype), dtu;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) dt[i] += bias[i];
    if (s.softplus) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i) dt[i] = softplus(dt[i]);
    }
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      if (i >= p.count) dt[i] = 0.0f;
      dtu[i] = dt[i] * u_t[i];
    }
    if (z) {
      const Floats z_t = unpack(raw_z, z.dtype);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) g[i] *= silu(z_t[i]);
    }
    put_pairs<Tile>(memory, p, dt, dtu);
    put<Tile::kWidth, Tile::kWidth>(memory + Tile::kG, p, g);
  });
}

// du = dt <lambda, B> + D g ; ddelta = (<lambda, A decay h> + u <lambda, B>) softplus'(delta + bias) ;
// dz = dout y silu'(z). Leaves ddelta and D's gradient in place of the sums they come from.
template <class Tile>
__device__ __forceinline__ void finish_adjoint(const BackwardViews& s, const BackwardBlock& block, int64_t start,
                                               int steps, float* memory) {
  const Plane u = block.u.from(start), delta = block.delta.from(start), dout = block.dout.from(start),
              z = block.z.from(start);
  each_tile_piece<Tile>(block, steps, [&](const auto& p) {
    if (p.count <= 0) return;
    const Raw raw_u = load(u, p), raw_delta = load(delta, p), raw_g = load(dout, p);
    Raw raw_z{};
    if (z) raw_z = load(z, p);
    const Floats u_t = unpack(raw_u, u.dtype), D = get_row(memory + Tile::kD, p);
    Floats g = unpack(raw_g, dout.dtype);
    if (z) {
      const Floats z_t = unpack(raw_z, z.dtype), y = get<Tile::kWidth>(memory + Tile::kG, p);
      Floats dz;
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        float slope;
        const float gate = silu(z_t[i], slope);
        dz[i] = g[i] * fmaf(D[i], u_t[i], y[i]) * slope;
        g[i] *= gate;
      }
      if (block.dz) store_added(block.dz.from(start), p, dz, s.add_z);
    }
    const Floats bias = get_row(memory + Tile::kBias, p);
    Floats dt = unpack(raw_delta, delta.dtype), slope, along_A, along_B, du, ddelta, dD;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      dt[i] += bias[i];
      slope[i] = 1.0f;
    }
    if (s.softplus) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i) dt[i] = softplus(dt[i], slope[i]);
    }
    get_pairs<Tile>(memory, p, along_A, along_B);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      du[i] = fmaf(along_B[i], dt[i], D[i] * g[i]);
      ddelta[i] = fmaf(along_B[i], u_t[i], along_A[i] * kLn2) * slope[i];  // A is in units of log2
      dD[i] = g[i] * u_t[i];
    }
    if (block.du) store_added(block.du.from(start), p, du, s.add_u);
    if (block.ddelta) store_added(block.ddelta.from(start), p, ddelta, s.add_delta);
    put_pairs<Tile>(memory, p, ddelta, dD);
  });
}

// The sums of both over the steps of the tile.
template <class Tile>
__device__ __forceinline__ void sum_over_steps(int steps, float* memory) {
  for (int i = threadIdx.x; i < Tile::kRow; i += Tile::kThreads) {
    float sum = memory[Tile::kChannelTotals + i];
#pragma unroll 4
    for (int k = 0; k < steps; ++k) sum += memory[k * Tile::kRow + i];
    memory[Tile::kChannelTotals + i] = sum;
  }
}

}  // namespace transmamba::cuda
