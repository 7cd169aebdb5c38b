// Tiles of a tensor as rows of contiguous numbers: one row a time step, `kTile` channels wide.
//
// A tile that already lies so in memory (channel-last, the compute type, all channels present) is used where it is;
// any other layout, dtype or rest goes through a small buffer. Per instruction set, like simd.h.
#pragma once
#include "core/simd.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

constexpr int kTile = 16;  // channels of a tile: a whole number of vectors of every instruction set

// (channels, time) of one batch entry. Time may run backwards: its stride is then negative.
struct Plane {
  char* data;
  int64_t channel, time;  // strides in elements
  DType dtype;

  Plane at(int64_t c, int64_t t) const {
    return {data + (c * channel + t * time) * item_size(dtype), channel, time, dtype};
  }
};

TM_INLINE Plane plane(const Tensor& x, int64_t batch, bool reverse) {
  const int64_t start = batch * x.stride[0] + (reverse ? (x.shape[2] - 1) * x.stride[2] : 0);
  return {static_cast<char*>(x.data) + start * item_size(x.dtype), x.stride[1], reverse ? -x.stride[2] : x.stride[2],
          x.dtype};
}

template <class T>
struct Rows {
  T* data;
  int64_t stride;  // from one row to the next

  T* operator[](int64_t step) const { return data + step * stride; }
};

// -- numbers in memory, to the compute type and back -----------------------------------------------------------

struct Bf16 {
  uint16_t bits;
};

template <class T>
struct Convert {
  template <class S>
  TM_INLINE T read(S x) {
    return T(x);
  }
  TM_INLINE T read(Bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float r;
    memcpy(&r, &bits, 4);
    return T(r);
  }
  template <class S>
  TM_INLINE void write(T x, S& to) {
    to = S(x);
  }
  TM_INLINE void write(T x, Bf16& to) {  // round to nearest, ties to even; quiet not-a-numbers
    const float f = float(x);
    uint32_t bits;
    memcpy(&bits, &f, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to.bits = uint16_t(f != f ? (bits >> 16) | 0x40u : rounded);
  }
};

// Calls f with a value of the type stored in memory.
template <class F>
TM_INLINE void visit(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(Bf16{});
  }
}

// Reads `count` numbers a `stride` apart, as T.
template <class T>
TM_INLINE void read(const void* data, DType dtype, int64_t stride, int64_t count, T* to, int64_t to_stride = 1) {
  visit(dtype, [&](auto kind) {
    const auto* from = static_cast<const decltype(kind)*>(data);
    for (int64_t i = 0; i < count; ++i) to[i * to_stride] = Convert<T>::read(from[i * stride]);
  });
}
template <class T>
TM_INLINE void write(const T* from, void* data, DType dtype, int64_t stride, int64_t count, int64_t from_stride = 1) {
  visit(dtype, [&](auto kind) {
    auto* to = static_cast<decltype(kind)*>(data);
    for (int64_t i = 0; i < count; ++i) Convert<T>::write(from[i * from_stride], to[i * stride]);
  });
}

// The same along time, where neighbours often are side by side.
template <class T>
TM_INLINE void read_line(const Plane& x, int64_t count, T* to) {
  if (x.time == 1) return read<T>(x.data, x.dtype, 1, count, to);
  if (x.time == -1) return read<T>(x.data, x.dtype, -1, count, to);
  read<T>(x.data, x.dtype, x.time, count, to);
}
template <class T>
TM_INLINE void write_line(const T* from, const Plane& x, int64_t count) {
  if (x.time == 1) return write<T>(from, x.data, x.dtype, 1, count);
  if (x.time == -1) return write<T>(from, x.data, x.dtype, -1, count);
  write<T>(from, x.data, x.dtype, x.time, count);
}

// A vector of numbers side by side, converted in registers.
template <class T>
TM_INLINE Vec<T> load_as(const T* p) {
  return load<T>(p);
}
template <class T>
TM_INLINE void store_as(T* p, Vec<T> x) {
  store<T>(p, x);
}
using Bf16Vector = uint16_t __attribute__((vector_size(kVectorBytes / 2)));
using Bf16Unaligned = uint16_t __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
using FloatBits = uint32_t __attribute__((vector_size(kVectorBytes)));
template <class T>
TM_INLINE Vec<float> load_as(const Bf16* p) {
  const Bf16Vector x = *reinterpret_cast<const Bf16Unaligned*>(p);
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(TRANSMAMBA_VECTOR_BYTES)  // gcc widens half by half
  return (Vec<float>)((FloatBits)__builtin_ia32_pmovzxwd256((short __attribute__((vector_size(16))))x) << 16);
#else
  return (Vec<float>)(__builtin_convertvector(x, FloatBits) << 16);
#endif
}
template <class T>
TM_INLINE void store_as(Bf16* p, Vec<float> x) {  // rounds as Convert does
  const FloatBits bits = (FloatBits)x;
  const FloatBits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const FloatBits kept = x == x ? rounded : (bits >> 16) | 0x40u;
  *reinterpret_cast<Bf16Unaligned*>(p) = __builtin_convertvector(kept, Bf16Vector);
}

template <class T>
constexpr DType kDType = sizeof(T) == 4 ? DType::f32 : DType::f64;

// -- tiles -----------------------------------------------------------------------------------------------------

// In-register transpose of a square of vectors, by log2(lanes) perfect shuffles of the rows.
template <class T>
TM_INLINE void transpose(Vec<T> (&r)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  IntVec<T> low, high;
  for (int i = 0; i < n; ++i) {
    low[i] = i / 2 + (i % 2 ? n : 0);
    high[i] = low[i] + n / 2;
  }
  for (int step = 1; step < n; step *= 2) {
    Vec<T> s[n];
    for (int i = 0; i < n / 2; ++i) {
      s[2 * i] = __builtin_shuffle(r[i], r[i + n / 2], low);
      s[2 * i + 1] = __builtin_shuffle(r[i], r[i + n / 2], high);
    }
    for (int i = 0; i < n; ++i) r[i] = s[i];
  }
}

template <class T>
TM_INLINE bool direct(const Plane& x, int channels) {
  return x.dtype == kDType<T> && x.channel == 1 && channels == kTile;
}

// `steps` rows of `channels` channels from x on, as [steps][kTile] with zeros beyond the channels.
template <class T>
TM_INLINE Rows<const T> read_rows(const Plane& x, int steps, int channels, T* buffer) {
  if (direct<T>(x, channels)) return {reinterpret_cast<const T*>(x.data), x.time};
  constexpr int n = kLanes<T>;
  if (channels < kTile) memset(buffer, 0, sizeof(T) * steps * kTile);
  int t = 0;
  if ((x.time == 1 || x.time == -1) && x.dtype == kDType<T> && channels == kTile) {
    for (; t + n <= steps; t += n) {  // channel-first: squares of n channels by n steps
      for (int c = 0; c < kTile; c += n) {
        Vec<T> r[n];
        for (int i = 0; i < n; ++i)
          r[i] = load<T>(reinterpret_cast<const T*>(x.at(c + i, x.time == 1 ? t : t + n - 1).data));
        transpose<T>(r);
        for (int i = 0; i < n; ++i) store<T>(buffer + (x.time == 1 ? t + i : t + n - 1 - i) * kTile + c, r[i]);
      }
    }
  }
  if (x.channel == 1) {
    for (; t < steps; ++t) read<T>(x.at(0, t).data, x.dtype, 1, channels, buffer + t * kTile);
  } else {
    for (int c = 0; c < channels; ++c)
      read<T>(x.at(c, t).data, x.dtype, x.time, steps - t, buffer + t * kTile + c, kTile);
  }
  return {buffer, kTile};
}

// Rows to compute into; write_rows carries them to x where they are not x's own memory.
template <class T>
TM_INLINE Rows<T> rows_for(const Plane& x, int channels, T* buffer) {
  if (direct<T>(x, channels)) return {reinterpret_cast<T*>(x.data), x.time};
  return {buffer, kTile};
}
template <class T>
TM_INLINE void write_rows(const Plane& x, Rows<T> rows, int steps, int channels) {
  if (direct<T>(x, channels)) return;
  constexpr int n = kLanes<T>;
  int t = 0;
  if ((x.time == 1 || x.time == -1) && x.dtype == kDType<T> && channels == kTile) {
    for (; t + n <= steps; t += n) {
      for (int c = 0; c < kTile; c += n) {
        Vec<T> r[n];
        for (int i = 0; i < n; ++i) r[i] = load<T>(rows[x.time == 1 ? t + i : t + n - 1 - i] + c);
        transpose<T>(r);
        for (int i = 0; i < n; ++i) store<T>(reinterpret_cast<T*>(x.at(c + i, x.time == 1 ? t : t + n - 1).data), r[i]);
      }
    }
  }
  if (x.channel == 1) {
    for (; t < steps; ++t) write<T>(rows[t], x.at(0, t).data, x.dtype, 1, channels);
  } else {
    for (int c = 0; c < channels; ++c) write<T>(rows[t] + c, x.at(c, t).data, x.dtype, x.time, steps - t, rows.stride);
  }
}

// Asks for the same rows of the next tile while this one is computed.
template <class T>
TM_INLINE void prefetch(const T* row) {
  __builtin_prefetch(row + kTile);
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
