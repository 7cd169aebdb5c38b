// What both passes of several scans share: which rows they go through, and rows prepared for the blocks.
//
// Directions that share their parameters walk over a tile that is prepared over its whole length, token by token: their
// decays are computed once. All others, and sequences too long for the cache, are gathered in the order of the walk
// first, a window at a time, and walked straight.
#pragma once
#include "multi_scan/multi_scan.h"
#include "selective_scan/scan_sums.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct Walks {
  const MultiScan& scan;
  Sizes<T> sizes[kMaxDirections];  // same but for what depends on the shapes of B and C
  int64_t length, window, windows, outputs;
  bool whole;   // a window is the whole sequence, in the order of the tokens
  int sources;  // sets of rows to prepare: one, where the directions share them

  Walks(const MultiScan& all, bool merged, bool by_windows) : scan(all), outputs(merged ? 1 : all.count) {
    int64_t groups = 1;
    for (int k = 0; k < scan.count; ++k) {
      sizes[k] = Sizes<T>(scan.directions[k]);
      if (sizes[k].groups > groups) groups = sizes[k].groups;
    }
    for (int k = 0; k < scan.count; ++k) sizes[k].use_groups(groups);
    length = sizes[0].length;
    whole = scan.shared && scan.permute_params && !by_windows && length <= kWholeSequence;
    window = whole ? length : kScanCheckpoint;
    windows = (length + window - 1) / window;
    sources = whole ? 1 : scan.count;
  }
  const Sizes<T>& size() const { return sizes[0]; }
  int end(int source) const { return sources < scan.count ? scan.count : source + 1; }
  int set(int source) const { return scan.shared ? 0 : source; }  // of parameters
  int output(int direction) const { return outputs == 1 ? 0 : direction; }
  int64_t most_states() const {
    int64_t most = 0;
    for (int k = 0; k < scan.count; ++k) most = sizes[k].padded_states > most ? sizes[k].padded_states : most;
    return most;
  }

  const int32_t* order(int direction) const {
    return static_cast<const int32_t*>(scan.orders.data) + direction * scan.orders.stride[0];
  }
};

// Of one window: the tokens of its steps, and the rows of delta, B and C.
struct Lists {
  const int32_t *tokens, *times;
};
template <class T>
TM_INLINE Lists lists(const Walks<T>& walks, const int32_t* straight, int direction, int64_t start) {
  if (walks.whole) return {straight, straight};
  const int32_t* order = walks.order(direction) + start;
  return {order, walks.scan.permute_params ? order : straight + start};
}

// The state that direction k starts window w of tile i with, [N][kTile].
template <class T>
TM_INLINE T* checkpoint(const Walks<T>& walks, const Tensor& all, int64_t b, int k, int64_t w, int64_t i) {
  const Sizes<T>& s = walks.size();
  const int64_t window = (b * walks.scan.count + k) * walks.windows + w;
  return static_cast<T*>(all.data) + (window * s.tiles + i) * s.states * kTile;
}

// One entry (.., k, ..) of a second axis, as a tensor without it.
TM_INLINE Tensor entry(Tensor x, int64_t k) {
  x.data = static_cast<char*>(x.data) + k * x.stride[1] * item_size(x.dtype);
  for (int i = 1; i + 1 < x.rank; ++i) {
    x.shape[i] = x.shape[i + 1];
    x.stride[i] = x.stride[i + 1];
  }
  --x.rank;
  return x;
}

// B or C of one batch entry and group, over the whole length.
template <class T>
TM_INLINE Coefficients<T> stage_all(const Tensor& x, const Sizes<T>& s, int64_t batch, int64_t group, T* buffer) {
  if (x.rank == 2) return {};  // one row a channel: among the parameters
  return stage_coefficients<T>(x, s, batch, group, 0, int(s.length), false, buffer);
}

// The coefficients of a window's rows, side by side.
template <class T>
TM_INLINE Coefficients<T> gather(const Coefficients<T>& M, const int32_t* rows, int steps, int64_t states, T* buffer) {
  if (M.step == 0) return M;  // constant over time, or one row a channel
  for (int t = 0; t < steps; ++t) memcpy(buffer + t * states, M.data + rows[t] * M.step, sizeof(T) * states);
  return {buffer, states};
}

// Rows of one window, [window][kTile].
template <class T>
struct WindowRows {
  T *dt, *dtu, *slope;  // slope of the softplus; only for the backward pass
};

// dt = softplus(delta + bias), dtu = dt u; returns the largest |dt|.
template <class T, bool Slope>
TM_INLINE T prepare(bool apply_softplus, int steps, Lists rows, Rows<const T> u, Rows<const T> delta, const T* bias,
                    const WindowRows<T>& to) {
  constexpr int V = kVectors<T>, W = kLanes<T>;
  Vec<T> largest = splat(T(0));
  for (int t = 0; t < steps; ++t) {
    const T *u_t = u[rows.tokens[t]], *delta_t = delta[rows.times[t]];
    prefetch(u_t);
    prefetch(delta_t);
    Vec<T> dt[V], slope[V];
    for (int v = 0; v < V; ++v) dt[v] = load<T>(delta_t + v * W) + load<T>(bias + v * W);
    for (int v = 0; v < V; ++v) slope[v] = splat(T(1));
    if (apply_softplus) softplus<T, Slope>(dt, slope);
    for (int v = 0; v < V; ++v) {
      largest = max(abs<T>(dt[v]), largest);
      store<T>(to.dt + t * kTile + v * W, dt[v]);
      store<T>(to.dtu + t * kTile + v * W, dt[v] * load<T>(u_t + v * W));
      if constexpr (Slope) store<T>(to.slope + t * kTile + v * W, slope[v]);
    }
  }
  T most = 0;
  for (int i = 0; i < W; ++i) most = largest[i] > most ? largest[i] : most;
  return most;
}

// y += D u
template <class T>
TM_INLINE void skip(int64_t length, Rows<const T> u, const T* D, T* y) {
  constexpr int W = kLanes<T>;
  for (int64_t t = 0; t < length; ++t)
    for (int v = 0; v < kTile; v += W) {
      T* to = y + t * kTile + v;
      store<T>(to, load<T>(to) + load<T>(D + v) * load<T>(u[t] + v));
    }
}

// Rows of tokens to a window's rows, and back.
template <class T>
TM_INLINE void gather_rows(int steps, const int32_t* tokens, const T* from, T* to) {
  for (int t = 0; t < steps; ++t) memcpy(to + t * kTile, from + int64_t(tokens[t]) * kTile, sizeof(T) * kTile);
}
template <class T>
TM_INLINE void scatter_rows(int steps, const int32_t* tokens, const T* from, T* to) {
  for (int t = 0; t < steps; ++t) memcpy(to + int64_t(tokens[t]) * kTile, from + t * kTile, sizeof(T) * kTile);
}

// What a window of the backward pass adds to du, ddelta and the sum of ddelta_bias.
template <class T>
TM_INLINE void add_rows(int steps, Lists rows, Rows<const T> u, const WindowRows<T>& from, const T* along_B,
                        const T* along_A, Rows<T> du, Rows<T> ddelta, T* dbias) {
  constexpr int W = kLanes<T>;
  for (int v = 0; v < kTile; v += W) {
    Vec<T> sum_bias = load<T>(dbias + v);
    for (int t = 0; t < steps; ++t) {
      const int64_t j = t * kTile + v;
      T *du_t = du[rows.tokens[t]] + v, *ddelta_t = ddelta[rows.times[t]] + v;
      const Vec<T> lambda_B = load<T>(along_B + j), u_t = load<T>(u[rows.tokens[t]] + v);
      const Vec<T> d = (lambda_B * u_t + load<T>(along_A + j) * splat(kLn2<T>)) * load<T>(from.slope + j);
      store<T>(du_t, load<T>(du_t) + lambda_B * load<T>(from.dt + j));
      store<T>(ddelta_t, load<T>(ddelta_t) + d);
      sum_bias += d;
    }
    store<T>(dbias + v, sum_bias);
  }
}

// What the skip D u adds to du and dD.
template <class T>
TM_INLINE void add_skip(int64_t length, Rows<const T> u, const T* D, const T* g, Rows<T> du, T* dD) {
  constexpr int W = kLanes<T>;
  for (int v = 0; v < kTile; v += W) {
    Vec<T> sum = load<T>(dD + v);
    for (int64_t t = 0; t < length; ++t) {
      const Vec<T> g_t = load<T>(g + t * kTile + v);
      store<T>(du[t] + v, load<T>(du[t] + v) + load<T>(D + v) * g_t);
      sum += g_t * load<T>(u[t] + v);
    }
    store<T>(dD + v, sum);
  }
}

// The state that a direction starts from, [padded_states][kTile].
template <class T>
TM_INLINE void start_state(const Tensor& x, const Sizes<T>& sizes, const Tile& tile, int64_t batch, T* to) {
  if (x)
    pack_states<T>(x, sizes, tile, to, batch);
  else
    memset(to, 0, sizeof(T) * sizes.tile_states());
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
