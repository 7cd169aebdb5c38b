// The inner loops of the selective scan: a few states of one tile of channels over rows of time, in registers.
//
// The decays are computed first, row by row; a walk over them is the recurrence. Walks that differ in nothing but their
// order share the decays: they are half of the work.
//
// B and C come as one number a state and row (broadcast over the channels) or, with ChannelB and ChannelC, as one row
// of channels a state, constant over time. A is in units of log2: exp(dt A_natural) = exp2(dt A).
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

// The row that a step of the walk stands on: the same number, or the one in a list.
struct Straight {
  TM_INLINE int64_t at(Straight, int step) { return step; }
};
struct Along {
  const int32_t* rows;
  TM_INLINE int64_t at(Along order, int step) { return order.rows[step]; }
};

template <class T>
struct Coefficients {
  const T* data;
  int64_t step;  // from one row to the next
};

// The coefficient of state n and channel vector v in a row.
template <class T, bool PerChannel>
TM_INLINE Vec<T> coefficient(const Coefficients<T>& M, int64_t row, int n, int v) {
  if constexpr (PerChannel) return load<T>(M.data + n * kTile + v * kLanes<T>);
  return splat<T>(M.data[row * M.step + n]);
}

// decays = exp2(dt A), [rows][kChains] vectors. No row waits for another.
template <class T, bool Clamp>
static __attribute__((noinline)) void decay_block(int64_t rows, const T* __restrict dt, const T* __restrict A,
                                                  T* __restrict decays) {
  constexpr int V = kVectors<T>, K = kChains<T>, W = kLanes<T>;
  Vec<T> a[K];
  for (int k = 0; k < K; ++k) a[k] = load<T>(A + k * W);
  for (int64_t r = 0; r < rows; ++r) {
    Vec<T> decay[K];
    for (int k = 0; k < K; ++k) decay[k] = load<T>(dt + r * kTile + k % V * W) * a[k];
    exp2<Clamp, K>(decay);
    for (int k = 0; k < K; ++k) store<T>(decays + (r * K + k) * W, decay[k]);
  }
}

// h <- decay h + dtu B ; with Read y += C h; with Keep every h is kept, the first included: [steps + 1][kChains].
template <class T, bool ChannelB, bool ChannelC, bool Read, bool Keep, class Order>
static __attribute__((noinline)) void walk_block(int steps, Order order, const T* __restrict decays,
                                                 const T* __restrict dtu, T* __restrict y, Coefficients<T> B,
                                                 Coefficients<T> C, const T* state, T* end) {
  constexpr int S = kStates<T>, V = kVectors<T>, K = kChains<T>, W = kLanes<T>;
  Vec<T> h[K];
  for (int k = 0; k < K; ++k) h[k] = load<T>(state + k * W);
  for (int t = 0; t < steps; ++t) {
    const int64_t r = Order::at(order, t);
    if constexpr (Keep)
      for (int k = 0; k < K; ++k) store<T>(end + (t * K + k) * W, h[k]);
    for (int k = 0; k < K; ++k)
      h[k] = load<T>(decays + (r * K + k) * W) * h[k] +
             coefficient<T, ChannelB>(B, r, k / V, k % V) * load<T>(dtu + r * kTile + k % V * W);
    if constexpr (Read) {
      for (int v = 0; v < V; ++v) {
        Vec<T> sum = load<T>(y + r * kTile + v * W);
        for (int n = 0; n < S; ++n) sum += coefficient<T, ChannelC>(C, r, n, v) * h[n * V + v];
        store<T>(y + r * kTile + v * W, sum);
      }
    }
  }
  for (int k = 0; k < K; ++k) store<T>(end + ((Keep ? steps * K : 0) + k) * W, h[k]);
}

// What an adjoint walk reads and adds to; all are [rows][kTile].
template <class T>
struct AdjointRows {
  const T *dt, *dtu, *g;   // g = d(out) silu(z)
  T *lambda_B, *lambda_A;  // += <lambda, B> and <lambda, A exp2(dt A) h_{t-1}> with A in log2 units
};

// Walks back over the states that walk_block kept. dB and dC hold one vector of partial sums a row and state
// ([rows][kStates][lanes]), or with ChannelB and ChannelC a row of channels a state.
template <class T, bool ChannelB, bool ChannelC, class Order>
static __attribute__((noinline)) void adjoint_block(int steps, Order order, const AdjointRows<T>& tile,
                                                    const T* __restrict decays, const T* __restrict states,
                                                    Coefficients<T> B, Coefficients<T> C, const T* __restrict A,
                                                    T* __restrict adjoint, T* __restrict dA, T* __restrict dB,
                                                    T* __restrict dC) {
  constexpr int S = kStates<T>, V = kVectors<T>, K = kChains<T>, W = kLanes<T>;
  const T* __restrict dt = tile.dt;
  const T* __restrict dtu = tile.dtu;
  const T* __restrict g = tile.g;
  Vec<T> a[K], lambda[K], da[K], db[K], dc[K];  // db, dc: per-channel sums; unused ones vanish
  for (int k = 0; k < K; ++k) a[k] = load<T>(A + k * W);
  for (int k = 0; k < K; ++k) lambda[k] = load<T>(adjoint + k * W);
  for (int k = 0; k < K; ++k) da[k] = load<T>(dA + k * W);
  for (int k = 0; k < K; ++k) db[k] = dc[k] = splat(T(0));
  for (int t = steps - 1; t >= 0; --t) {
    const int64_t r = Order::at(order, t);
    Vec<T> along_B[V], along_A[V];
    for (int v = 0; v < V; ++v) along_B[v] = load<T>(tile.lambda_B + r * kTile + v * W);
    for (int v = 0; v < V; ++v) along_A[v] = load<T>(tile.lambda_A + r * kTile + v * W);
    for (int n = 0; n < S; ++n) {
      Vec<T> sum_b = splat(T(0)), sum_c = splat(T(0));
      if constexpr (!ChannelB) sum_b = load<T>(dB + (r * S + n) * W);
      if constexpr (!ChannelC) sum_c = load<T>(dC + (r * S + n) * W);
      for (int v = 0; v < V; ++v) {
        const int k = n * V + v;
        const Vec<T> g_t = load<T>(g + r * kTile + v * W);
        const Vec<T> dtu_t = load<T>(dtu + r * kTile + v * W);
        const Vec<T> h = load<T>(states + ((t + 1) * K + k) * W);
        lambda[k] += coefficient<T, ChannelC>(C, r, n, v) * g_t;
        (ChannelC ? dc[k] : sum_c) += g_t * h;
        (ChannelB ? db[k] : sum_b) += dtu_t * lambda[k];
        along_B[v] += coefficient<T, ChannelB>(B, r, n, v) * lambda[k];
        lambda[k] *= load<T>(decays + (r * K + k) * W);
        const Vec<T> q = lambda[k] * load<T>(states + (t * K + k) * W);
        da[k] += q * load<T>(dt + r * kTile + v * W);
        along_A[v] += q * a[k];
      }
      if constexpr (!ChannelB) store<T>(dB + (r * S + n) * W, sum_b);
      if constexpr (!ChannelC) store<T>(dC + (r * S + n) * W, sum_c);
    }
    for (int v = 0; v < V; ++v) store<T>(tile.lambda_B + r * kTile + v * W, along_B[v]);
    for (int v = 0; v < V; ++v) store<T>(tile.lambda_A + r * kTile + v * W, along_A[v]);
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
