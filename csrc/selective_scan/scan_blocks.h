// The inner loops of the selective scan: a few states of one tile of channels over a chunk of time, in registers.
//
// B and C come as one number a state and time step (broadcast over the channels) or, with ChannelB and ChannelC, as
// one row of channels a state, constant over time. A is in units of log2: exp(dt A_natural) = exp2(dt A).
#pragma once
#include "core/rows.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
constexpr int kVectors = kTile / kLanes<T>;  // vectors of channels in a tile
template <class T>
constexpr int kStates = kVectors<T> < 4 ? 4 / kVectors<T> : 1;  // states in lockstep: four chains hide the latency
template <class T>
constexpr int kChains = kVectors<T> * kStates<T>;

template <class T>
struct Coefficients {
  const T* data;
  int64_t step;  // from one time step to the next
};

// The coefficient of state n and channel vector v at time t.
template <class T, bool PerChannel>
TM_INLINE Vec<T> coefficient(const Coefficients<T>& M, int t, int n, int v) {
  if constexpr (PerChannel) return load<T>(M.data + n * kTile + v * kLanes<T>);
  return splat<T>(M.data[t * M.step + n]);
}

// h <- exp2(dt A) h + dtu B ; y += C h, over `steps` rows of dt, dtu, y.
template <class T, bool Clamp, bool ChannelB, bool ChannelC>
static __attribute__((noinline)) void forward_block(int steps, const T* __restrict dt, const T* __restrict dtu,
                                                    T* __restrict y, Coefficients<T> B, Coefficients<T> C,
                                                    const T* __restrict A, T* __restrict state) {
  constexpr int S = kStates<T>, V = kVectors<T>, K = kChains<T>, W = kLanes<T>;
  Vec<T> h[K], a[K];
  for (int k = 0; k < K; ++k) h[k] = load<T>(state + k * W);
  for (int k = 0; k < K; ++k) a[k] = load<T>(A + k * W);
  for (int t = 0; t < steps; ++t) {
    Vec<T> decay[K];
    for (int k = 0; k < K; ++k) decay[k] = load<T>(dt + t * kTile + k % V * W) * a[k];
    exp2<Clamp, K>(decay);
    for (int k = 0; k < K; ++k)
      h[k] = decay[k] * h[k] + coefficient<T, ChannelB>(B, t, k / V, k % V) * load<T>(dtu + t * kTile + k % V * W);
    for (int v = 0; v < V; ++v) {
      Vec<T> sum = load<T>(y + t * kTile + v * W);
      for (int n = 0; n < S; ++n) sum += coefficient<T, ChannelC>(C, t, n, v) * h[n * V + v];
      store<T>(y + t * kTile + v * W, sum);
    }
  }
  for (int k = 0; k < K; ++k) store<T>(state + k * W, h[k]);
}

// What a backward block reads and writes; all rows are [steps][kTile], all states [kStates][kTile].
template <class T>
struct BackwardTile {
  const T *dt, *dtu, *g;   // g = d(out) silu(z)
  T* y;                    // += <C, h>; only with NeedY
  T *lambda_B, *lambda_A;  // += <lambda, B> and <lambda, A exp2(dt A) h_{t-1}> with A in log2 units
  T *decay, *states;       // scratch, [steps][kChains] and [steps + 1][kChains] vectors
};

// Recomputes the states of the chunk from its checkpoint, then walks it backwards. dB and dC hold one vector of
// partial sums a time step and state ([steps][kStates][lanes]), or with ChannelB and ChannelC a row of channels.
template <class T, bool Clamp, bool ChannelB, bool ChannelC, bool NeedY>
static __attribute__((noinline)) void backward_block(int steps, const BackwardTile<T>& tile, Coefficients<T> B,
                                                     Coefficients<T> C, const T* __restrict A,
                                                     const T* __restrict checkpoint, T* __restrict adjoint,
                                                     T* __restrict dA, T* __restrict dB, T* __restrict dC) {
  constexpr int S = kStates<T>, V = kVectors<T>, K = kChains<T>, W = kLanes<T>;
  const T* __restrict dt = tile.dt;
  const T* __restrict dtu = tile.dtu;
  const T* __restrict g = tile.g;
  T* __restrict y = tile.y;
  T* __restrict decays = tile.decay;
  T* __restrict states = tile.states;

  Vec<T> a[K];
  for (int k = 0; k < K; ++k) a[k] = load<T>(A + k * W);
  {
    Vec<T> h[K];
    for (int k = 0; k < K; ++k) h[k] = load<T>(checkpoint + k * W);
    for (int k = 0; k < K; ++k) store<T>(states + k * W, h[k]);
    for (int t = 0; t < steps; ++t) {
      Vec<T> decay[K];
      for (int k = 0; k < K; ++k) decay[k] = load<T>(dt + t * kTile + k % V * W) * a[k];
      exp2<Clamp, K>(decay);
      for (int k = 0; k < K; ++k) store<T>(decays + (t * K + k) * W, decay[k]);
      for (int k = 0; k < K; ++k)
        h[k] = decay[k] * h[k] + coefficient<T, ChannelB>(B, t, k / V, k % V) * load<T>(dtu + t * kTile + k % V * W);
      for (int k = 0; k < K; ++k) store<T>(states + ((t + 1) * K + k) * W, h[k]);
      if constexpr (NeedY) {
        for (int v = 0; v < V; ++v) {
          Vec<T> sum = load<T>(y + t * kTile + v * W);
          for (int n = 0; n < S; ++n) sum += coefficient<T, ChannelC>(C, t, n, v) * h[n * V + v];
          store<T>(y + t * kTile + v * W, sum);
        }
      }
    }
  }

  Vec<T> lambda[K], da[K], db[K], dc[K];  // db, dc: per-channel sums; unused ones vanish
  for (int k = 0; k < K; ++k) lambda[k] = load<T>(adjoint + k * W);
  for (int k = 0; k < K; ++k) da[k] = load<T>(dA + k * W);
  for (int k = 0; k < K; ++k) db[k] = dc[k] = splat(T(0));
  for (int t = steps - 1; t >= 0; --t) {
    Vec<T> along_B[V], along_A[V];
    for (int v = 0; v < V; ++v) along_B[v] = load<T>(tile.lambda_B + t * kTile + v * W);
    for (int v = 0; v < V; ++v) along_A[v] = load<T>(tile.lambda_A + t * kTile + v * W);
    for (int n = 0; n < S; ++n) {
      Vec<T> sum_b = splat(T(0)), sum_c = splat(T(0));
      if constexpr (!ChannelB) sum_b = load<T>(dB + (t * S + n) * W);
      if constexpr (!ChannelC) sum_c = load<T>(dC + (t * S + n) * W);
      for (int v = 0; v < V; ++v) {
        const int k = n * V + v;
        const Vec<T> g_t = load<T>(g + t * kTile + v * W);
        const Vec<T> dtu_t = load<T>(dtu + t * kTile + v * W);
        const Vec<T> h = load<T>(states + ((t + 1) * K + k) * W);
        lambda[k] += coefficient<T, ChannelC>(C, t, n, v) * g_t;
        (ChannelC ? dc[k] : sum_c) += g_t * h;
        (ChannelB ? db[k] : sum_b) += dtu_t * lambda[k];
        along_B[v] += coefficient<T, ChannelB>(B, t, n, v) * lambda[k];
        lambda[k] *= load<T>(decays + (t * K + k) * W);
        const Vec<T> q = lambda[k] * load<T>(states + (t * K + k) * W);
        da[k] += q * load<T>(dt + t * kTile + v * W);
        along_A[v] += q * a[k];
      }
      if constexpr (!ChannelB) store<T>(dB + (t * S + n) * W, sum_b);
      if constexpr (!ChannelC) store<T>(dC + (t * S + n) * W, sum_c);
    }
    for (int v = 0; v < V; ++v) store<T>(tile.lambda_B + t * kTile + v * W, along_B[v]);
    for (int v = 0; v < V; ++v) store<T>(tile.lambda_A + t * kTile + v * W, along_A[v]);
  }
  for (int k = 0; k < K; ++k) store<T>(adjoint + k * W, lambda[k]);
  for (int k = 0; k < K; ++k) store<T>(dA + k * W, da[k]);
  if constexpr (ChannelB)
    for (int k = 0; k < K; ++k) store<T>(dB + k * W, load<T>(dB + k * W) + db[k]);
  if constexpr (ChannelC)
    for (int k = 0; k < K; ++k) store<T>(dC + k * W, load<T>(dC + k * W) + dc[k]);
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
