// What a block of the forward pass holds in shared memory, and what it does with a tile of steps.
//
// A thread has a few channels times a few states in registers and walks over the tile four steps at a time: the
// exponentials of four steps are independent and hide the latency of the recurrence, and the sums over the lanes that
// share a channel take half of the shuffles. Exponentials bind: one for each state and step, the rest fits beside them.
#pragma once
#include "core/transposed_sum.cuh"
#include "selective_scan/scan_tile.cuh"

namespace transmamba::cuda {

struct ForwardViews : ScanViews {
  View out, addend, last_state;
  View checkpoints;  // (places, E, N)
  // A sequence in chunks of so many steps, each of which starts from its own entry of initial_state; `chunks` is 1 and
  // `chunk_steps` the length where it is whole.
  int64_t chunks, chunk_steps;
  View ends;      // (sequences * chunks, E, N): given, states are walked and left here, nothing else is
  float* totals;  // and here, (sequences * chunks, E), the sums of dt
};

// Where a block is and what it reads and writes there: in shared memory, as registers are few.
struct ForwardBlock {
  ChannelTile tile;
  Walk walk;  // over a sequence or a chunk of it
  bool last;  // of the chunks
  int64_t unit;
  Plane u, delta, B, C, z, addend, out;
  bool in_words;  // all that are read and written piece by piece

  __device__ ForwardBlock(const ForwardViews& s, const ChannelTile& channels, int64_t place)
      : tile(channels),
        walk(chunk_of(transmamba::cuda::walk(s, place / s.chunks), s.chunk_steps, place % s.chunks)),
        last(place % s.chunks == s.chunks - 1),
        unit(place),
        u(channels_of(s.u, walk.batch, tile, walk.tokens)),
        delta(channels_of(s.delta, walk.batch, tile, walk.times)),
        B(states_of(s.B, walk.batch, tile, walk.times, s.channel_B)),
        C(states_of(s.C, walk.batch, tile, walk.times, s.channel_C)),
        z(channels_of(s.z, walk.batch, tile, walk.tokens)),
        addend(channels_of(s.addend, walk.batch, tile, walk.tokens)),
        out(channels_of(s.out, walk.batch, tile, walk.tokens)),
        in_words(u.in_words() && delta.in_words() && z.in_words() && addend.in_words() && out.in_words()) {}
};

// Channels of a thread and of a block, and steps of a tile.
template <class Layout>
struct ForwardTile {
  static constexpr int kChannels = Layout::kLanes == 1 ? 1 : Layout::kLanes == 16 ? 4 : 2;
  static constexpr int kWidth = Layout::kLanes <= 4 ? 64 : Layout::kLanes == 16 ? 32 : 16;
  static constexpr int kSteps = Layout::kLanes <= 16 ? 32 : 16;
  static constexpr int kThreads = kWidth / kChannels * Layout::kLanes;
  static constexpr int kBlocks = Layout::kLanes == 16 ? 3 : 512 / kThreads;  // on a multiprocessor, for the registers
  static constexpr int kUnroll = Layout::kLanes == 32 ? 2 : 4;  // steps whose sums over the lanes are taken together

  static constexpr int kRow = 2 * kWidth;     // of dt and dtu
  static constexpr int kSumRow = kWidth + 8;  // of y; its pairs of channels and steps hit every bank once
  static constexpr int kRows = kSteps > kWidth ? kSteps : kWidth;  // of coefficients
  static constexpr int kCoefficients = kRows * Layout::kPadded;

  // In shared memory, one after the other.
  static constexpr int kB = kSteps * kRow, kC = kB + kCoefficients, kY = kC + kCoefficients,
                       kBias = kY + kSteps * kSumRow, kD = kBias + kWidth, kBlock = kD + kWidth;
  static constexpr int kBytes = kBlock * sizeof(float) + sizeof(ForwardBlock);
};

// dt = softplus(delta + bias) and dtu = dt u of the steps from `start` on, zeros where there is nothing.
template <class Tile>
__device__ __forceinline__ void stage_steps(const ForwardBlock& block, bool with_softplus, int64_t start, int steps,
                                            float* memory) {
  const Plane u = block.u.from(start), delta = block.delta.from(start);
  each_tile_piece<Tile>(block, steps, [&](const auto& p) {
    const Raw raw_u = load(u, p), raw_delta = load(delta, p);
    const Floats x = unpack(raw_u, u.dtype), bias = get_row(memory + Tile::kBias, p);
    Floats dt = unpack(raw_delta, delta.dtype), dtu;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const float sum = dt[i] + bias[i];
      dt[i] = i < p.count ? with_softplus ? softplus(sum) : sum : 0.0f;
      dtu[i] = dt[i] * x[i];
    }
    put_pairs<Tile>(memory, p, dt, dtu);
  });
}

// h <- exp2(dt A) h + dtu B over the steps of a tile, and with Read y = <C, h>, else `total` += dt. With ByChannel a
// coefficient may have one row a channel instead of one a step.
template <class Layout, bool ByChannel, bool Read>
__device__ __forceinline__ void walk_tile(const ScanViews& s, const float* memory, float* y, int steps, int channel,
                                          int lane, const float (&A)[ForwardTile<Layout>::kChannels][Layout::kStates],
                                          float (&h)[ForwardTile<Layout>::kChannels][Layout::kStates],
                                          float (&total)[ForwardTile<Layout>::kChannels]) {
  using Tile = ForwardTile<Layout>;
  constexpr int K = Tile::kChannels, N = Layout::kStates, sums = Tile::kUnroll * K;
  constexpr int kept = sums > Layout::kLanes ? sums / Layout::kLanes : 1;
  const int first = transposed_index<sums, Layout::kLanes>(lane);
  const float* dt = memory + 2 * channel;
  const float *B = memory + Tile::kB, *C = memory + Tile::kC;
  y += first / K * Tile::kSumRow + channel + first % K;
  const auto row_of = [&](bool by_channel, int step, int c) {
    return (ByChannel && by_channel ? channel + c : step) * Layout::kPadded;
  };
#pragma unroll 1
  for (int t = 0; t < steps; t += Tile::kUnroll) {
    float sum[sums];
#pragma unroll
    for (int k = 0; k < Tile::kUnroll; ++k) {
      float sizes[2 * K], b[N], c_t[N];
#pragma unroll
      for (int i = 0; i < 2 * K; i += 2 * StepSizes<K>::kPair)
        if constexpr (K == 1) {
          const float2 x = *reinterpret_cast<const float2*>(dt + k * Tile::kRow);
          sizes[0] = x.x;
          sizes[1] = x.y;
        } else {
          const float4 x = *reinterpret_cast<const float4*>(dt + k * Tile::kRow + i);
          sizes[i] = x.x;
          sizes[i + 1] = x.y;
          sizes[i + 2] = x.z;
          sizes[i + 3] = x.w;
        }
#pragma unroll
      for (int c = 0; c < K; ++c) {
        if (c == 0 || ByChannel) {
          read_states<Layout>(B + row_of(s.channel_B, t + k, c), lane, b);
          if (Read) read_states<Layout>(C + row_of(s.channel_C, t + k, c), lane, c_t);
        }
        const float size = sizes[StepSizes<K>::dt(c)], input = sizes[StepSizes<K>::dtu(c)];
#pragma unroll
        for (int n = 0; n < N; ++n) {
          h[c][n] = fmaf(exp2(size * A[c][n]), h[c][n], input * b[n]);
          if (Read) sum[k * K + c] = n ? fmaf(h[c][n], c_t[n], sum[k * K + c]) : h[c][n] * c_t[n];
        }
        if (!Read) total[c] += size;
      }
    }
    if constexpr (Read) {
      transposed_sum<sums, Layout::kLanes>(sum, lane);
      if (lane < sums) {
        if constexpr (kept == 2 && K == 2) {
          *reinterpret_cast<float2*>(y) = make_float2(sum[0], sum[1]);
        } else {
#pragma unroll
          for (int i = 0; i < kept; ++i) y[i / K * Tile::kSumRow + i % K] = sum[i];
        }
      }
    }
    dt += Tile::kUnroll * Tile::kRow;
    y += Tile::kUnroll * Tile::kSumRow;
  }
}

// out = (y + D u + addend) silu(z)
template <class Tile>
__device__ __forceinline__ void finish_steps(const ForwardBlock& block, bool with_D, int64_t start, int steps,
                                             const float* memory) {
  const Plane u = block.u.from(start), z = block.z.from(start), addend = block.addend.from(start),
              out = block.out.from(start);
  each_tile_piece<Tile>(block, steps, [&](const auto& p) {
    if (p.count <= 0) return;
    Raw raw_u{}, raw_z{}, raw_addend{};
    if (with_D) raw_u = load(u, p);
    if (z) raw_z = load(z, p);
    if (addend) raw_addend = load(addend, p);
    Floats sum = get<Tile::kSumRow>(memory + Tile::kY, p);
    if (with_D) {
      const Floats x = unpack(raw_u, u.dtype);
      const float* D = memory + Tile::kD + p.column;  // one by one: registers are few here
#pragma unroll
      for (int i = 0; i < kPiece; ++i) sum[i] = fmaf(D[p.along_steps ? 0 : i], x[i], sum[i]);
    }
    if (addend) {
      const Floats x = unpack(raw_addend, addend.dtype);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) sum[i] += x[i];
    }
    if (z) {
      const Floats x = unpack(raw_z, z.dtype);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) sum[i] *= silu(x[i]);
    }
    store(out, p, pack(sum, out.dtype));
  });
}

}  // namespace transmamba::cuda
