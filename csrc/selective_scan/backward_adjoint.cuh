// The walk of the backward pass over a tile, in the registers of a thread; see kernel_backward.cuh.
#pragma once
#include "core/transposed_sum.cuh"
#include "selective_scan/backward_tile.cuh"

namespace transmamba::cuda {

// The states of one thread. With ByChannel a coefficient may have one row a channel instead of one a step.
template <class Layout, bool ByChannel>
struct Adjoint {
  using Tile = BackwardTile<Layout, ByChannel>;
  using Sizes = StepSizes<Tile::kChannels>;
  static constexpr int K = Tile::kChannels, N = Layout::kStates, kSpan = Tile::kSpan;
  using State = float[K][N];

  const BackwardViews& s;
  float* memory;
  const int lane = threadIdx.x % Layout::kLanes;         // among those of its channels
  const int channel = threadIdx.x / Layout::kLanes * K;  // the first of them in the tile
  State A, lambda, dA;                                   // A in units of log2
  float dB[ByChannel ? K : 1][N], dC[ByChannel ? K : 1][N];

  __device__ void start(const ChannelTile& tile) {
    load_states<Layout>(s.A, 0, tile, channel, lane, s.states, A);
#pragma unroll
    for (int c = 0; c < K; ++c)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        A[c][n] *= kLog2E;
        lambda[c][n] = dA[c][n] = 0.0f;
        if constexpr (ByChannel) dB[c][n] = dC[c][n] = 0.0f;
      }
  }

  // B or C, as its states are shared out.
  __device__ __forceinline__ void coefficient(int place, bool by_channel, int step, int c, float (&to)[N]) const {
    if (c == 0 || ByChannel)
      read_states<Layout>(memory + place + (ByChannel && by_channel ? channel + c : step) * Layout::kPadded, lane, to);
  }

  // One span forward: states[k] is the state before its step k.
  __device__ __forceinline__ void recompute(int start, float (&decay)[kSpan][K][N],
                                            float (&states)[kSpan + 1][K][N]) const {
#pragma unroll
    for (int k = 0; k < kSpan; ++k) {
      float sizes[2 * K], B[N];
      load_vector(memory + (start + k) * Tile::kRow + 2 * channel, sizes);
#pragma unroll
      for (int c = 0; c < K; ++c) {
        coefficient(Tile::kB, s.channel_B, start + k, c, B);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          decay[k][c][n] = exp2(sizes[Sizes::dt(c)] * A[c][n]);
          states[k + 1][c][n] = fmaf(decay[k][c][n], states[k][c][n], sizes[Sizes::dtu(c)] * B[n]);
        }
      }
    }
  }

  // The state that span i starts from, as walk() has kept it.
  __device__ __forceinline__ void keep_state(int i, State& state) const {
    each_kept(i, state, [](float* kept, float (&part)[Layout::kVector]) { store_vector(kept, part); });
  }
  __device__ __forceinline__ void kept_state(int i, State& state) const {
    each_kept(i, state, [](const float* kept, float (&part)[Layout::kVector]) { load_vector(kept, part); });
  }
  template <class F>
  __device__ __forceinline__ void each_kept(int i, State& state, F f) const {
    constexpr int V = Layout::kVector;
    float* kept = memory + Tile::kSpanStates + i * Tile::kStates + threadIdx.x * V;
#pragma unroll
    for (int c = 0; c < K; ++c)
#pragma unroll
      for (int n = 0; n < N; n += V)
        f(kept + (c * N + n) * Tile::kThreads, reinterpret_cast<float (&)[V]>(state[c][n]));
  }

  // Walks over spans from the tile's first on and, with Keep, keeps the states that they start from.
  template <bool Keep>
  __device__ __forceinline__ void walk(int spans, State& state) const {
#pragma unroll 1
    for (int i = 0; i < spans; ++i) {
      float decay[kSpan][K][N], states[kSpan + 1][K][N];
      if (Keep) keep_state(i, state);
      copy(state, states[0]);
      recompute(i * kSpan, decay, states);
      copy(states[kSpan], state);
    }
  }
  __device__ static __forceinline__ void copy(const State& from, State& to) {
#pragma unroll
    for (int c = 0; c < K; ++c)
#pragma unroll
      for (int n = 0; n < N; ++n) to[c][n] = from[c][n];
  }

  // y_t = <C_t, h_t> of a span, in this thread those from transposed_index on.
  __device__ __forceinline__ void outputs(int start, const float (&states)[kSpan + 1][K][N],
                                          float (&y)[kSpan * K]) const {
#pragma unroll
    for (int k = 0; k < kSpan; ++k) {
      float C[N];
#pragma unroll
      for (int c = 0; c < K; ++c) {
        coefficient(Tile::kC, s.channel_C, start + k, c, C);
        y[k * K + c] = C[0] * states[k + 1][c][0];
#pragma unroll
        for (int n = 1; n < N; ++n) y[k * K + c] = fmaf(C[n], states[k + 1][c][n], y[k * K + c]);
      }
    }
    transposed_sum<kSpan * K, Layout::kLanes>(y, lane);
  }
  __device__ __forceinline__ void keep_outputs(int start, const float (&y)[kSpan * K]) const {
    constexpr int count = kSpan * K, kept = count > Layout::kLanes ? count / Layout::kLanes : 1;
    const int first = transposed_index<count, Layout::kLanes>(lane);
    float* to = memory + Tile::kG + (start + first / K) * Tile::kWidth + channel + first % K;
    if (lane < count) {
#pragma unroll
      for (int i = 0; i < kept; ++i) to[i / K * Tile::kWidth + i % K] = y[i];
    }
  }

  // One step backward; `sums` are this warp's row of dB and dC.
  __device__ __forceinline__ void step(int t, const State& decay, const State& before, const State& after,
                                       float* sums) {
    float sizes[2 * K], g[K], B[N], C[N], rows[2 * N], along[2 * K];
    load_vector(memory + t * Tile::kRow + 2 * channel, sizes);
    load_vector(memory + Tile::kG + t * Tile::kWidth + channel, g);
#pragma unroll
    for (int c = 0; c < K; ++c) {
      coefficient(Tile::kB, s.channel_B, t, c, B);
      coefficient(Tile::kC, s.channel_C, t, c, C);
      const float dt = sizes[Sizes::dt(c)], dtu = sizes[Sizes::dtu(c)];
      float &along_A = along[Sizes::dt(c)], &along_B = along[Sizes::dtu(c)];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float l = fmaf(g[c], C[n], lambda[c][n]);
        rows[n] = c ? fmaf(l, dtu, rows[n]) : l * dtu;
        rows[N + n] = c ? fmaf(g[c], after[c][n], rows[N + n]) : g[c] * after[c][n];
        if constexpr (ByChannel) {
          dB[c][n] = fmaf(l, dtu, dB[c][n]);
          dC[c][n] = fmaf(g[c], after[c][n], dC[c][n]);
        }
        lambda[c][n] = decay[c][n] * l;
        const float q = lambda[c][n] * before[c][n];
        dA[c][n] = fmaf(q, dt, dA[c][n]);
        along_A = n ? fmaf(q, A[c][n], along_A) : q * A[c][n];
        along_B = n ? fmaf(l, B[n], along_B) : l * B[n];
      }
    }

    transposed_sum<2 * K, Layout::kLanes>(along, lane);
    constexpr int kept = 2 * K > Layout::kLanes ? 2 * K / Layout::kLanes : 1;
    float* to = memory + t * Tile::kRow + 2 * channel + transposed_index<2 * K, Layout::kLanes>(lane);
    __syncwarp();  // the lanes of the channels have read what is overwritten here
    if (lane < 2 * K) {
#pragma unroll
      for (int i = 0; i < kept; ++i) to[i] = along[i];
    }
    keep_rows(rows, sums);
  }

  // lambda through one step backward, nothing else; adds up dt.
  __device__ __forceinline__ void step_alone(int t, float (&size)[K]) {
    float sizes[2 * K], g[K], C[N];
    load_vector(memory + t * Tile::kRow + 2 * channel, sizes);
    load_vector(memory + Tile::kG + t * Tile::kWidth + channel, g);
#pragma unroll
    for (int c = 0; c < K; ++c) {
      coefficient(Tile::kC, s.channel_C, t, c, C);
      const float dt = sizes[Sizes::dt(c)];
      size[c] += dt;
#pragma unroll
      for (int n = 0; n < N; ++n) lambda[c][n] = exp2(dt * A[c][n]) * fmaf(g[c], C[n], lambda[c][n]);
    }
  }

  __device__ __forceinline__ void keep_rows(float (&rows)[2 * N], float* sums) const {
    constexpr int L = Layout::kLanes, groups = kWarp / L, count = 2 * N, kept = count > groups ? count / groups : 1;
    constexpr int vector = kept < Layout::kVector ? kept : Layout::kVector;
    const int in_warp = threadIdx.x % kWarp, first = transposed_index<count, groups, L>(in_warp);
    transposed_sum<count, groups, L>(rows, in_warp);
    float* to = sums + first / N * Layout::kPadded + Layout::state(lane, first % N);
    if (in_warp / L < count) {
#pragma unroll
      for (int i = 0; i < kept; i += vector)
        store_vector(to + i / N * Layout::kPadded + Layout::state(0, i % N),
                     reinterpret_cast<float (&)[vector]>(rows[i]));
    }
  }

  // One span backward, from the state before it; `sums` are this warp's rows of dB and dC.
  __device__ __forceinline__ void span(int start, const State& from, float* sums) {
    float decay[kSpan][K][N], states[kSpan + 1][K][N], y[kSpan * K];
    copy(from, states[0]);
    recompute(start, decay, states);
    if (s.dz.data) outputs(start, states, y);
#pragma unroll
    for (int k = kSpan - 1; k >= 0; --k) step(start + k, decay[k], states[k], states[k + 1], sums + k * Tile::kSumRow);
    if (s.dz.data) keep_outputs(start, y);
  }
};

}  // namespace transmamba::cuda
