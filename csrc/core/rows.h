// Tiles of a tensor as rows of contiguous numbers: one row a time step, `kTile` channels wide.
//
// A tile that already lies so in memory (channel-last, the compute type, all channels present) is used where it is;
// any other layout, dtype or rest goes through a small buffer. Per instruction set, like simd.h.
#pragma once
#include "core/convert.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

constexpr int kTile = 16;  // channels of a tile: a whole number of vectors of every instruction set

// Where neighbouring steps stand: side by side, forwards or backwards from `first`, or anywhere, in a list.
struct Steps {
  int64_t first;
  int sign;  // 1 or -1
  const int32_t* list = nullptr;

  int64_t operator[](int64_t step) const { return list ? list[step] : first + sign * step; }
};
// `count` steps of an order from `start` on: a list where they do not stand side by side.
TM_INLINE Steps steps_of(const int32_t* order, int64_t start, int count) {
  const int32_t* list = order + start;
  const int sign = count > 1 && list[1] < list[0] ? -1 : 1;
  for (int t = 1; t < count; ++t)
    if (list[t] != list[0] + sign * t) return {0, 1, list};
  return {list[0], sign};
}

// (channels, time) of one batch entry. Time may run backwards, its stride is then negative, or jump along a list.
struct Plane {
  char* data;
  int64_t channel, time;  // strides in elements
  DType dtype;
  const int32_t* list = nullptr;

  Plane at(int64_t c, int64_t t) const {
    const int64_t steps = list ? 0 : t;
    return {data + (c * channel + steps * time) * item_size(dtype), channel, time, dtype, list ? list + t : nullptr};
  }
  // Of a plane that is no list itself.
  Plane along(const Steps& steps) const {
    const Plane p = at(0, steps.first);
    return {p.data, channel, steps.sign * time, dtype, steps.list};
  }
};

TM_INLINE Plane plane(const Tensor& x, int64_t batch, bool reverse) {
  const int64_t start = batch * x.stride[0] + (reverse ? (x.shape[2] - 1) * x.stride[2] : 0);
  return {static_cast<char*>(x.data) + start * item_size(x.dtype), x.stride[1], reverse ? -x.stride[2] : x.stride[2],
          x.dtype};
}
TM_INLINE Plane plane(const Tensor& x, int64_t batch, const Steps& steps) {
  return plane(x, batch, false).along(steps);
}

template <class T>
struct Rows {
  T* data;
  int64_t stride;  // from one row to the next
  const int32_t* list = nullptr;

  T* operator[](int64_t step) const { return data + (list ? list[step] : step) * stride; }
};

// Asks for the same rows of the next tile while this one is computed.
template <class S>
TM_INLINE void prefetch(const S* row) {
  __builtin_prefetch(row + kTile);
}
// For the same lines of the next tile, into the second cache: lines a power of two apart drive each other out of the
// first one.
template <class S>
TM_INLINE void prefetch_line(const S* line) {
  __builtin_prefetch(line, 0, 2);
}

// -- lines of numbers ------------------------------------------------------------------------------------------

// Reads `count` numbers a `stride` apart, as T.
template <class T>
static __attribute__((noinline)) void read(const void* data, DType dtype, int64_t stride, int64_t count, T* to) {
  visit(dtype, [&](auto kind) {
    using S = decltype(kind);
    const S* from = static_cast<const S*>(data);
    int64_t i = 0;
    if constexpr (kConvertsVectors<T, S>)
      if (stride == 1)
        for (; i + kLanes<T> <= count; i += kLanes<T>) store<T>(to + i, load_as<T>(from + i));
    if (stride == -1)  // a loop of its own, for the compiler to vectorise
      for (; i < count; ++i) to[i] = convert<T>(from[-i]);
    for (; i < count; ++i) to[i] = convert<T>(from[i * stride]);
  });
}
template <class T>
static __attribute__((noinline)) void write(const T* from, void* data, DType dtype, int64_t stride, int64_t count) {
  visit(dtype, [&](auto kind) {
    using S = decltype(kind);
    S* to = static_cast<S*>(data);
    int64_t i = 0;
    if constexpr (kConvertsVectors<T, S>)
      if (stride == 1)
        for (; i + kLanes<T> <= count; i += kLanes<T>) store_as<T>(to + i, load<T>(from + i));
    if (stride == -1)
      for (; i < count; ++i) convert<T>(from[i], to[-i]);
    for (; i < count; ++i) convert<T>(from[i], to[i * stride]);
  });
}

// The same along time.
template <class T>
TM_INLINE void read_line(const Plane& x, int64_t count, T* to) {
  read<T>(x.data, x.dtype, x.time, count, to);
}
template <class T>
TM_INLINE void write_line(const T* from, const Plane& x, int64_t count) {
  write<T>(from, x.data, x.dtype, x.time, count);
}

// -- tiles -----------------------------------------------------------------------------------------------------

// In-register transpose of a square of vectors. Blocks of 16 bytes change places between rows a Distance apart, and of
// half that, and so on; then what lies in the blocks does, by perfect shuffles. Either costs an instruction a row.
template <class T, int Distance = kLanes<T> / 2>
TM_INLINE void transpose(Vec<T> (&r)[kLanes<T>]) {
  constexpr int n = kLanes<T>, block = 16 / int(sizeof(T));
  IntVec<T> low, high;
  if constexpr (Distance >= block) {
    for (int i = 0; i < n; ++i) {
      low[i] = i & Distance ? i - Distance + n : i;
      high[i] = low[i] + Distance;
    }
    for (int i = 0; i < n; ++i) {
      if (i & Distance) continue;
      const Vec<T> x = r[i], y = r[i + Distance];
      r[i] = __builtin_shuffle(x, y, low);
      r[i + Distance] = __builtin_shuffle(x, y, high);
    }
    transpose<T, Distance / 2>(r);
  } else {
    for (int i = 0; i < n; ++i) {
      low[i] = i / block * block + i % block / 2 + (i % 2 ? n : 0);
      high[i] = low[i] + block / 2;
    }
    for (int step = 1; step < block; step *= 2) {
      Vec<T> s[n];
      for (int i = 0; i < n; i += 2) {
        const int from = i / block * block + i % block / 2;
        s[i] = __builtin_shuffle(r[from], r[from + block / 2], low);
        s[i + 1] = __builtin_shuffle(r[from], r[from + block / 2], high);
      }
      for (int i = 0; i < n; ++i) r[i] = s[i];
    }
  }
}

// Calls f(channel, step) for squares of vectors that cover them all; the last in time may overlap the one before.
template <class T, class F>
TM_INLINE void each_square(int steps, int channels, F f) {
  constexpr int n = kLanes<T>;
  for (int c = 0; c < channels; c += n)
    for (int t = 0; t < steps; t += n) f(c, t + n <= steps ? t : steps - n);
}

// How a tile in memory can be taken: as rows of vectors, as squares of them, or number by number.
enum class Access { rows, squares, numbers };
template <class T, class S>
TM_INLINE Access access(const Plane& x, int steps) {
  if (!kConvertsVectors<T, S>) return Access::numbers;
  if (x.channel == 1) return Access::rows;
  return (x.time == 1 || x.time == -1) && steps >= kLanes<T> ? Access::squares : Access::numbers;
}

// Copies `steps` rows of `channels` channels from x on to rows that lie `row` apart.
template <class T>
static __attribute__((noinline)) void gather(const Plane& x, int steps, int channels, T* to, int64_t row) {
  constexpr int n = kLanes<T>;
  visit(x.dtype, [&](auto kind) {
    using S = decltype(kind);
    const auto at = [&](int64_t c, int64_t t) {
      return reinterpret_cast<const S*>(x.data) + c * x.channel + t * x.time;
    };
    const Access way = access<T, S>(x, steps);
    const int whole = way == Access::numbers ? 0 : channels / n * n;
    if constexpr (kConvertsVectors<T, S>) {
      if (way == Access::rows) {
        for (int t = 0; t < steps; ++t) {
          prefetch(at(0, t));
          for (int c = 0; c < whole; c += n) store<T>(to + t * row + c, load_as<T>(at(c, t)));
        }
      } else {
        each_square<T>(steps, whole, [&](int c, int t) {
          const int first = x.time == 1 ? t : t + n - 1;  // in memory
          Vec<T> r[n];
          for (int i = 0; i < n; ++i) {
            prefetch_line(at(c + i + kTile, first));
            r[i] = load_as<T>(at(c + i, first));
          }
          transpose<T>(r);
          for (int i = 0; i < n; ++i) store<T>(to + (first + i * x.time) * row + c, r[i]);
        });
      }
    }
    for (int c = whole; c < channels; ++c)
      for (int t = 0; t < steps; ++t) to[t * row + c] = convert<T>(*at(c, t));
  });
}
// Copies rows to x, the other way round.
template <class T>
static __attribute__((noinline)) void scatter(Rows<T> from, const Plane& x, int steps, int channels) {
  constexpr int n = kLanes<T>;
  visit(x.dtype, [&](auto kind) {
    using S = decltype(kind);
    const auto at = [&](int64_t c, int64_t t) { return reinterpret_cast<S*>(x.data) + c * x.channel + t * x.time; };
    const Access way = access<T, S>(x, steps);
    const int whole = way == Access::numbers ? 0 : channels / n * n;
    if constexpr (kConvertsVectors<T, S>) {
      if (way == Access::rows) {
        for (int t = 0; t < steps; ++t)
          for (int c = 0; c < whole; c += n) store_as<T>(at(c, t), load<T>(from[t] + c));
      } else {
        each_square<T>(steps, whole, [&](int c, int t) {
          const int first = x.time == 1 ? t : t + n - 1;
          Vec<T> r[n];
          for (int i = 0; i < n; ++i) r[i] = load<T>(from[first + i * x.time] + c);
          transpose<T>(r);
          for (int i = 0; i < n; ++i) {
            prefetch_line(at(c + i + kTile, first));
            store_as<T>(at(c + i, first), r[i]);
          }
        });
      }
    }
    for (int c = whole; c < channels; ++c)
      for (int t = 0; t < steps; ++t) convert<T>(from[t][c], *at(c, t));
  });
}

// Calls f(plane, step, count) for the steps of x that lie a stride apart: all of them or, along a list, each by itself.
template <class F>
TM_INLINE void each_run(const Plane& x, int steps, F f) {
  if (!x.list) return f(x, 0, steps);
  for (int t = 0; t < steps; ++t)
    f(Plane{x.data + x.list[t] * x.time * item_size(x.dtype), x.channel, x.time, x.dtype}, t, 1);
}

template <class T>
TM_INLINE bool direct(const Plane& x, int channels) {
  return x.dtype == kDType<T> && x.channel == 1 && channels == kTile;
}

// `steps` rows of `channels` channels from x on, as [steps][kTile] with zeros beyond the channels.
template <class T>
TM_INLINE Rows<const T> read_rows(const Plane& x, int steps, int channels, T* buffer) {
  if (direct<T>(x, channels)) return {reinterpret_cast<const T*>(x.data), x.time, x.list};
  if (channels < kTile) memset(buffer, 0, sizeof(T) * steps * kTile);
  each_run(x, steps,
           [&](const Plane& run, int t, int count) { gather<T>(run, count, channels, buffer + t * kTile, kTile); });
  return {buffer, kTile};
}

// Rows to compute into; write_rows carries them to x where they are not x's own memory.
template <class T>
TM_INLINE Rows<T> rows_for(const Plane& x, int channels, T* buffer) {
  if (direct<T>(x, channels)) return {reinterpret_cast<T*>(x.data), x.time, x.list};
  return {buffer, kTile};
}
template <class T>
TM_INLINE void write_rows(const Plane& x, Rows<T> rows, int steps, int channels) {
  if (direct<T>(x, channels)) return;
  each_run(x, steps,
           [&](const Plane& run, int t, int count) { scatter<T>({rows[t], rows.stride}, run, count, channels); });
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
