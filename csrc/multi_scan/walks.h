// What both passes of a multi-scan share: rows of one tile over the whole length, in the order of the tokens.
#pragma once
#include "multi_scan/multi_scan.h"
#include "selective_scan/scan_sums.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct Walks {
  const MultiScan& scan;
  Sizes<T> s;
  int64_t count, outputs;  // of directions; of results, one where they are added up

  Walks(const MultiScan& all, const Tensor& out)
      : scan(all), s(all), count(all.count()), outputs(out.rank == 3 ? 1 : count) {}

  int64_t rows() const { return s.length * kTile; }
  int64_t block() const { return s.length * kChains<T> * kLanes<T>; }
  int64_t output(int64_t direction) const { return outputs == 1 ? 0 : direction; }
  Along order(int64_t direction) const {
    return {static_cast<const int32_t*>(scan.orders.data) + direction * scan.orders.stride[0]};
  }
  Rows<const T> read(const Tensor& x, int64_t b, const Tile& tile, T* buffer) const {
    return read_rows<T>(plane(x, b, false).at(tile.channel, 0), int(s.length), tile.channels, buffer);
  }
  Coefficients<T> stage(const Tensor& x, int64_t b, int64_t group, T* buffer) const {
    if (x.rank == 2) return {};  // one row a channel: among the parameters
    return stage_coefficients<T>(x, s, b, group, Steps{0, 1}, int(s.length), buffer);
  }
};

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

// The states of every direction, [count][padded_states][kTile]; zeros where x is not given.
template <class T>
TM_INLINE void pack_directions(const Tensor& x, const Walks<T>& walks, const Tile& tile, int64_t batch, T* to) {
  const int64_t size = walks.s.tile_states();
  if (!x) return void(memset(to, 0, sizeof(T) * walks.count * size));
  for (int64_t k = 0; k < walks.count; ++k) pack_states<T>(entry(x, k), walks.s, tile, to + k * size, batch);
}
template <class T>
TM_INLINE void unpack_directions(const T* from, const Tensor& x, const Walks<T>& walks, const Tile& tile,
                                 int64_t batch) {
  for (int64_t k = 0; x && k < walks.count; ++k)
    unpack_states<T>(from + k * walks.s.tile_states(), entry(x, k), walks.s.all_states(), tile, batch);
}

// dt = softplus(delta + bias) and, with Slope, its derivative; dtu = dt u; y = scale D u for every output.
// Returns the largest |dt|.
template <class T, bool Slope>
TM_INLINE T prepare(const Walks<T>& walks, Rows<const T> u, Rows<const T> delta, const T* bias, const T* D, T* dt,
                    T* slope, T* dtu, T* y) {
  constexpr int V = kVectors<T>, W = kLanes<T>;
  const Vec<T> scale = splat(T(walks.count / walks.outputs));  // each direction has its skip
  Vec<T> largest = splat(T(0));
  for (int64_t t = 0; t < walks.s.length; ++t) {
    prefetch(u[t]);
    prefetch(delta[t]);
    Vec<T> dt_t[V], slope_t[V];
    for (int v = 0; v < V; ++v) dt_t[v] = load<T>(delta[t] + v * W) + load<T>(bias + v * W);
    for (int v = 0; v < V; ++v) slope_t[v] = splat(T(1));
    if (walks.scan.softplus) softplus<T, Slope>(dt_t, slope_t);
    for (int v = 0; v < V; ++v) {
      const int64_t at = t * kTile + v * W;
      const Vec<T> u_t = load<T>(u[t] + v * W), skip = scale * load<T>(D + v * W) * u_t;
      largest = max(abs<T>(dt_t[v]), largest);
      store<T>(dt + at, dt_t[v]);
      store<T>(dtu + at, dt_t[v] * u_t);
      if constexpr (Slope) store<T>(slope + at, slope_t[v]);
      for (int64_t o = 0; o < walks.outputs; ++o) store<T>(y + o * walks.rows() + at, skip);
    }
  }
  return largest_lane<T>(largest);
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
