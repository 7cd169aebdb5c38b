// The inner loops of the causal convolution, over a small block that lies in the nearest caches.
//
// A block is a grid of vectors: `rows` by the vectors in `channels`. Channel-last, a row is a time step; along time, a
// row is one vector of steps of one channel. S is the type in memory, T the one computed in; Width is the number of
// taps where it is compiled in, or 0.
#pragma once
#include "core/rows.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

// What the filter reads: tap k of row r, from the time step W - 1 before the row's own on.
// Streamed: from far memory, so that the rows to come are asked for early.
template <class S, bool Streamed = false>
struct Strip {
  using Stored = S;
  static constexpr bool streamed = Streamed;
  const S* data;
  int64_t row;

  const S* at(int r, int k) const { return data + (r + k) * row; }
  void advance(int rows) { data += rows * row; }
};
template <class T>
struct Line {
  using Stored = T;
  static constexpr bool streamed = false;
  const T* data;

  const T* at(int r, int k) const { return data + r * kLanes<T> + k; }
  void advance(int rows) { data += rows * kLanes<T>; }
};

template <class T>
struct Filter {
  const T* weight;
  int64_t tap;  // from the weights of one tap to those of the next
  const T* bias;
  int width;

  Filter flipped(const T* no_bias) const { return {weight + (width - 1) * tap, -tap, no_bias, width}; }
};

enum class After { nothing, silu, silu_slope };

constexpr int kRows = 4;      // rows in lockstep
constexpr int kLockstep = 2;  // of them, as many exponentials: more would not fit the registers

template <class T, int R, int Width, After after, class Window, class Grad, class Out>
TM_INLINE void convolve_rows(int channels, Window x, Filter<T> filter, const Grad* dout, int64_t dout_row, Out* out,
                             int64_t out_row) {
  const int width = Width ? Width : filter.width;
  for (int c = 0; c < channels; c += kLanes<T>) {
    Vec<T> y[R];
    const Vec<T> bias = load<T>(filter.bias + c);
    for (int r = 0; r < R; ++r) y[r] = bias;
    if constexpr (Window::streamed)
      for (int r = 0; r < R; ++r) __builtin_prefetch(x.at(R + r, width - 1) + c);
    for (int k = 0; k < width; ++k) {
      const Vec<T> w = load<T>(filter.weight + k * filter.tap + c);
      for (int r = 0; r < R; ++r) y[r] += w * load_as<T>(x.at(r, k) + c);
    }
    constexpr int K = R < kLockstep ? R : kLockstep;
    for (int first = 0; first < R; first += K) {
      if constexpr (after != After::nothing) {
        Vec<T> s[K];
        for (int k = 0; k < K; ++k) s[k] = y[first + k];
        sigmoid<T, K>(s);
        for (int k = 0; k < K; ++k) {
          Vec<T>& p = y[first + k];
          if constexpr (after == After::silu)
            p = p * s[k];
          else  // silu'(p) = s (1 + p (1 - s))
            p = load_as<T>(dout + (first + k) * dout_row + c) * (s[k] * (splat(T(1)) + p - p * s[k]));
        }
      }
      for (int k = 0; k < K; ++k) store_as<T>(out + (first + k) * out_row + c, y[first + k]);
    }
  }
}

// out = the filter over x, then `after`: its silu, or dout times the silu's slope.
template <class T, int Width, After after, class Window, class Grad, class Out>
static __attribute__((noinline)) void convolve(int rows, int channels, Window x, Filter<T> filter, const Grad* dout,
                                               int64_t dout_row, Out* out, int64_t out_row) {
  for (; rows >= kRows; rows -= kRows) {
    convolve_rows<T, kRows, Width, after>(channels, x, filter, dout, dout_row, out, out_row);
    x.advance(kRows);
    dout += kRows * dout_row;
    out += kRows * out_row;
  }
  for (; rows > 0; --rows) {
    convolve_rows<T, 1, Width, after>(channels, x, filter, dout, dout_row, out, out_row);
    x.advance(1);
    dout += dout_row;
    out += out_row;
  }
}

// dweight_k += sum over the rows of g x_k, dbias += sum of g; one row of channels a tap.
template <class T, int Width, class Window>
static __attribute__((noinline)) void add_up_gradients(int rows, int channels, int width, Window x, const T* g,
                                                       int64_t g_row, T* dweight, int64_t dweight_tap, T* dbias) {
  constexpr int K = Width ? Width : 1;  // taps at a time
  for (int c = 0; c < channels; c += kLanes<T>) {
    Vec<T> total = load<T>(dbias + c);
    for (int r = 0; r < rows; ++r) total += load<T>(g + r * g_row + c);
    store<T>(dbias + c, total);
    for (int first = 0; first < width; first += K) {
      Vec<T> sums[K];
      for (int k = 0; k < K; ++k) sums[k] = splat(T(0));
      for (int r = 0; r < rows; ++r) {
        const Vec<T> g_r = load<T>(g + r * g_row + c);
        for (int k = 0; k < K; ++k) sums[k] += g_r * load_as<T>(x.at(r, first + k) + c);
      }
      for (int k = 0; k < K; ++k) {
        T* to = dweight + (first + k) * dweight_tap + c;
        store<T>(to, load<T>(to) + sums[k]);
      }
    }
  }
}

// The widths compiled in. Double serves gradient checks: one loop is enough.
template <int Value>
struct Width {
  static constexpr int value = Value;
};
template <class T, class F>
TM_INLINE void choose_width(int width, F f) {
  if constexpr (sizeof(T) == 4) {
    switch (width) {
      case 2: return f(Width<2>{});
      case 3: return f(Width<3>{});
      case 4: return f(Width<4>{});
    }
  }
  f(Width<0>{});
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
