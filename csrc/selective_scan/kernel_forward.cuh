// The forward pass of the selective scan on a GPU.
//
// A thread has a few channels times a few states in registers and walks over a tile of steps, four at a time: the
// exponentials of four steps are independent and hide the latency of the recurrence, and the sums over the lanes that
// share a channel take half of the shuffles. Exponentials bind: one for each state and step, the rest fits beside them.
#pragma once
#include "core/transposed_sum.cuh"
#include "selective_scan/scan_tile.cuh"

namespace transmamba::cuda {

struct ForwardViews : ScanViews {
  View out, addend, last_state;
  View checkpoints;  // (places, E, N)
};

// What a block reads and writes of a sequence: in shared memory, as registers are few.
struct ForwardPlanes {
  Plane u, delta, B, C, z, addend, out;

  __device__ ForwardPlanes(const ForwardViews& s, const Walk& w, const ChannelTile& tile)
      : u(channels_of(s.u, w.batch, tile, w.tokens)),
        delta(channels_of(s.delta, w.batch, tile, w.times)),
        B(states_of(s.B, w.batch, tile, w.times, s.channel_B)),
        C(states_of(s.C, w.batch, tile, w.times, s.channel_C)),
        z(channels_of(s.z, w.batch, tile, w.tokens)),
        addend(channels_of(s.addend, w.batch, tile, w.tokens)),
        out(channels_of(s.out, w.batch, tile, w.tokens)) {}
};

// Channels of a thread and of a block, and steps of a tile.
template <class Layout>
struct ForwardTile {
  static constexpr int kChannels = Layout::kLanes == 1 ? 1 : Layout::kLanes == 16 ? 4 : 2;
  static constexpr int kWidth = Layout::kLanes <= 4 ? 64 : Layout::kLanes == 16 ? 32 : 16;
  static constexpr int kSteps = Layout::kLanes <= 16 ? 32 : 16;
  static constexpr int kThreads = kWidth / kChannels * Layout::kLanes;
  static constexpr int kUnroll = 4;  // steps whose sums over the lanes are taken together

  static constexpr int kRow = 2 * kWidth;     // of dt and dtu
  static constexpr int kSumRow = kWidth + 8;  // of y; its pairs of channels and steps hit every bank once
  static constexpr int kRows = kSteps > kWidth ? kSteps : kWidth;  // of coefficients
  static constexpr int kCoefficients = kRows * Layout::kPadded;

  // In shared memory, one after the other.
  static constexpr int kB = kSteps * kRow, kC = kB + kCoefficients, kY = kC + kCoefficients,
                       kBias = kY + kSteps * kSumRow, kD = kBias + kWidth, kPlanes = kD + kWidth;
  static constexpr int kBytes = kPlanes * sizeof(float) + sizeof(ForwardPlanes);
};

// dt = softplus(delta + bias) and dtu = dt u, zeros where there is nothing.
template <class Tile>
__device__ __forceinline__ void stage_steps(const Plane& u, const Plane& delta, const float* bias, bool with_softplus,
                                            int steps, int channels, float* to) {
  each_piece<Tile::kSteps, Tile::kWidth>(u.along_steps(), steps, channels, [&](const Piece& p) {
    const Raw raw_u = load(u, p), raw_delta = load(delta, p);
    const Floats x = unpack(raw_u, u.dtype);
    Floats dt = unpack(raw_delta, delta.dtype);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const float sum = dt[i] + bias[p.along_steps ? p.column : p.column + i];
      dt[i] = i < p.count ? with_softplus ? softplus(sum) : sum : 0.0f;
    }
    Floats dtu;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) dtu[i] = dt[i] * x[i];
    put_pairs<Tile>(to, p, dt, dtu);
  });
}

// h <- exp2(dt A) h + dtu B ; y = <C, h>, over the steps of a tile. With ByChannel a coefficient may have one row a
// channel instead of one a step.
template <class Layout, bool ByChannel>
__device__ __forceinline__ void walk_tile(const ScanViews& s, const float* memory, float* y, int steps, int channel,
                                          int lane, const float (&A)[ForwardTile<Layout>::kChannels][Layout::kStates],
                                          float (&h)[ForwardTile<Layout>::kChannels][Layout::kStates]) {
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
          read_states<Layout>(C + row_of(s.channel_C, t + k, c), lane, c_t);
        }
        const float size = sizes[StepSizes<K>::dt(c)], input = sizes[StepSizes<K>::dtu(c)];
#pragma unroll
        for (int n = 0; n < N; ++n) {
          h[c][n] = fmaf(exp2(size * A[c][n]), h[c][n], input * b[n]);
          sum[k * K + c] = n ? fmaf(h[c][n], c_t[n], sum[k * K + c]) : h[c][n] * c_t[n];
        }
      }
    }
    transposed_sum<sums, Layout::kLanes>(sum, lane);
    if (lane < sums) {
      if constexpr (kept == 2 && K == 2) {
        *reinterpret_cast<float2*>(y) = make_float2(sum[0], sum[1]);
      } else {
#pragma unroll
        for (int i = 0; i < kept; ++i) y[i / K * Tile::kSumRow + i % K] = sum[i];
      }
    }
    dt += Tile::kUnroll * Tile::kRow;
    y += Tile::kUnroll * Tile::kSumRow;
  }
}

// out = (y + D u + addend) silu(z)
template <class Tile>
__device__ __forceinline__ void finish_steps(const Plane& out, const Plane& u, const Plane& z, const Plane& addend,
                                             const float* y, const float* D, bool with_D, int steps, int channels) {
  each_piece<Tile::kSteps, Tile::kWidth>(out.along_steps(), steps, channels, [&](const Piece& p) {
    if (p.count <= 0) return;
    Raw raw_u{}, raw_z{}, raw_addend{};
    if (with_D) raw_u = load(u, p);
    if (z) raw_z = load(z, p);
    if (addend) raw_addend = load(addend, p);
    Floats sum = get<Tile::kSumRow>(y, p);
    if (with_D) {
      const Floats x = unpack(raw_u, u.dtype);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) sum[i] = fmaf(D[p.along_steps ? p.column : p.column + i], x[i], sum[i]);
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

template <class Layout>
__global__ void __launch_bounds__(ForwardTile<Layout>::kThreads, 512 / ForwardTile<Layout>::kThreads)
    scan_forward_kernel(ForwardViews s) {
  using Tile = ForwardTile<Layout>;
  constexpr int K = Tile::kChannels, N = Layout::kStates;
  float* memory = shared_memory<float>();
  float *y = memory + Tile::kY, *bias = memory + Tile::kBias, *D = memory + Tile::kD;
  ForwardPlanes& planes = *reinterpret_cast<ForwardPlanes*>(memory + Tile::kPlanes);
  const ChannelTile tile = channel_tile<Tile::kWidth>(s, blockIdx.x);
  const int lane = threadIdx.x % Layout::kLanes, channel = threadIdx.x / Layout::kLanes * K;

  float A[K][N], h[K][N];
  load_states<Layout>(s.A, 0, tile, channel, lane, s.states, A);
#pragma unroll
  for (int c = 0; c < K; ++c)
#pragma unroll
    for (int n = 0; n < N; ++n) A[c][n] *= kLog2E;

  for (int64_t index = blockIdx.y; index < s.sequences; index += gridDim.y) {
    const Walk w = walk(s, index);
    load_states<Layout>(s.initial_state, index, tile, channel, lane, s.states, h);
    __syncthreads();  // the sequence before has been finished
    if (threadIdx.x == 0) planes = ForwardPlanes(s, w, tile);
    for (int c = threadIdx.x; c < Tile::kWidth; c += blockDim.x) {
      const bool there = c < tile.channels;
      bias[c] = there ? number(s.delta_bias, w.batch, tile.first + c) : 0.0f;
      D[c] = there ? number(s.D, 0, tile.first + c) : 0.0f;
    }
    __syncthreads();
    for (int64_t start = 0; start < w.length; start += Tile::kSteps) {
      const int64_t rest = w.length - start;
      const int steps = int(rest < Tile::kSteps ? rest : Tile::kSteps);
      stage_steps<Tile>(planes.u.from(start), planes.delta.from(start), bias, s.softplus, steps, tile.channels, memory);
      stage_coefficients<Layout, Tile>(s, planes.B, planes.C, tile.channels, start, steps, memory);
      __syncthreads();
      if (s.checkpoints.data && start % kScanCheckpoint == 0)
        store_states<Layout>(h, s.checkpoints, w.checkpoint + start / kScanCheckpoint, tile, channel, lane, s.states);
      if (s.channel_B || s.channel_C)
        walk_tile<Layout, true>(s, memory, y, steps, channel, lane, A, h);
      else
        walk_tile<Layout, false>(s, memory, y, steps, channel, lane, A, h);
      __syncthreads();
      finish_steps<Tile>(planes.out.from(start), planes.u.from(start), planes.z.from(start), planes.addend.from(start),
                         y, D, s.D.data, steps, tile.channels);
    }
    if (s.last_state.data) store_states<Layout>(h, s.last_state, index, tile, channel, lane, s.states);
    if (s.checkpoints.data) {  // the same bits for the same arguments, where nothing is kept too
#pragma unroll
      for (int c = 0; c < K; ++c)
#pragma unroll
        for (int n = 0; n < N; ++n) h[c][n] = 0.0f;
      const int64_t used = (w.length + kScanCheckpoint - 1) / kScanCheckpoint;
      for (int64_t place = w.checkpoint + used; place < w.end_checkpoint; ++place)
        store_states<Layout>(h, s.checkpoints, place, tile, channel, lane, s.states);
    }
  }
}

}  // namespace transmamba::cuda
