// Between tensors of any layout and dtype and a block's tile of floats: pieces of eight neighbouring elements.
//
// A piece lies along the columns of one row or along the rows of one column, whichever are neighbours in memory, and is
// moved in words of 16 bytes where it is complete and aligned, and element by element where not. What it holds is
// loaded first and converted later, so that many loads are under way at a time.
#pragma once
#include <cstring>

#include "core/device.cuh"
#include "core/tensor.h"

namespace transmamba::cuda {

constexpr int kPiece = 8;

// The row in memory of every step of a walk.
struct Steps {
  int64_t first = 0;
  int sign = 1;                   // -1: backwards
  const int32_t* list = nullptr;  // or anywhere

  __device__ int64_t operator[](int64_t step) const { return list ? list[step] : first + sign * step; }
  __device__ Steps from(int64_t step) const {
    return list ? Steps{first, sign, list + step} : Steps{first + sign * step, sign, nullptr};
  }
};

__host__ __device__ inline int size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// A matrix in memory: steps and, side by side, columns.
struct Plane {
  char* data = nullptr;           // of step 0, with a list of row 0, and column 0; null: there is none
  int64_t row = 0, column = 0;    // strides in bytes, of steps and of columns
  const int32_t* list = nullptr;  // the row of every step, where it is not the step itself
  DType dtype = DType::f32;

  Plane() = default;
  __device__ Plane(char* data, int64_t row, int64_t column, DType dtype, const Steps& steps)
      : data(data + steps.first * row), row(steps.sign * row), column(column), list(steps.list), dtype(dtype) {}

  __device__ explicit operator bool() const { return data; }
  __device__ int size() const { return size_of(dtype); }
  // Which way its neighbours in memory lie: along a list there are none.
  __device__ bool along_steps() const { return column != size() && (row == size() || row == -size()) && !list; }
  // Whether eight neighbouring columns from a multiple of eight on are aligned words of 16 bytes, in every row.
  __device__ bool in_words() const {
    return !data || (column == size() && row % 16 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0);
  }
  __device__ Plane from(int64_t step) const {
    Plane rest = *this;
    if (list)
      rest.list += step;
    else
      rest.data += step * row;
    return rest;
  }
};

struct Piece {
  int step, column;  // of its first element, in the tile
  int count;         // of elements that exist, at most kPiece
  bool along_steps;
};

// One along the columns that exists in full, of a plane in words: nothing is left to ask.
struct WholePiece {
  int step, column;
  static constexpr int count = kPiece;
  static constexpr bool along_steps = false;
};

// The pieces of a tile, of which `steps` and `columns` exist.
template <int Steps, int Columns>
struct Pieces {
  static constexpr unsigned kAcross = (Columns + kPiece - 1) / kPiece;  // side by side in one step
  static constexpr unsigned kMost = Steps * kAcross;
  static_assert(Steps % kPiece == 0, "a tile is whole pieces long");

  bool along_steps;
  int steps, columns;

  __device__ unsigned count() const { return along_steps ? Steps / kPiece * Columns : kMost; }
  // One without any element, too.
  __device__ Piece operator[](unsigned i) const {
    Piece p;
    p.along_steps = along_steps;
    p.step = int(along_steps ? i / Columns * kPiece : i / kAcross);
    p.column = int(along_steps ? i % Columns : i % kAcross * kPiece);
    const int rest_steps = steps - p.step, rest_columns = columns - p.column;
    p.count = (along_steps ? rest_columns : rest_steps) <= 0 ? 0 : along_steps ? rest_steps : rest_columns;
    return p;
  }
};

// Calls f(piece) for a thread's share of them.
template <int Steps, int Columns, class F>
__device__ __forceinline__ void each_piece(bool along_steps, int steps, int columns, F f) {
  const Pieces<Steps, Columns> pieces{along_steps, steps, columns};
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < pieces.count(); i += blockDim.x) f(pieces[i]);
}

template <int Steps, int Columns, class F>
__device__ __forceinline__ void each_whole_piece(F f) {
#pragma unroll 1
  for (int i = threadIdx.x; i < Steps * Columns / kPiece; i += blockDim.x)
    f(WholePiece{i / (Columns / kPiece), i % (Columns / kPiece) * kPiece});
}

// -- a piece in memory -----------------------------------------------------------------------------------------

// As it lies in memory: numbers of 16 bits are two to a word.
struct Raw {
  uint32_t words[kPiece];
};

// Where the elements of a piece are: the first one, and from one to the next, in bytes.
struct Elements {
  char* first;
  int64_t next;

  __device__ Elements(const Plane& x, const Piece& p)
      : first(x.data + (x.list ? x.list[p.step] : p.step) * x.row + p.column * x.column),
        next(p.along_steps ? x.row : x.column) {}
  // The 16-byte words that hold a whole piece, or null.
  __device__ char* words(int count, int size) const {
    char* lowest = next < 0 ? first + (kPiece - 1) * next : first;
    const bool neighbours = next == size || next == -size;
    return count >= kPiece && neighbours && reinterpret_cast<uintptr_t>(lowest) % 16 == 0 ? lowest : nullptr;
  }
};

__device__ inline void reverse(Raw& raw, int size) {
  const Raw x = raw;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    const uint32_t pair = x.words[(kPiece / 2 - 1 - i) & (kPiece / 2 - 1)];
    raw.words[i] = size == 4 ? x.words[kPiece - 1 - i] : pair << 16 | pair >> 16;
  }
}

__device__ __forceinline__ uint4* words_of(const Plane& x, const WholePiece& p) {
  return reinterpret_cast<uint4*>(x.data + (x.list ? x.list[p.step] : p.step) * x.row + p.column * x.size());
}
__device__ __forceinline__ Raw load(const Plane& x, const WholePiece& p) {
  const uint4* from = words_of(x, p);
  const uint4 low = from[0];
  uint4 high = low;
  if (x.size() == 4) high = from[1];
  return {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
}
__device__ __forceinline__ void store(const Plane& x, const WholePiece& p, const Raw& raw) {
  uint4* to = words_of(x, p);
  to[0] = make_uint4(raw.words[0], raw.words[1], raw.words[2], raw.words[3]);
  if (x.size() == 4) to[1] = make_uint4(raw.words[4], raw.words[5], raw.words[6], raw.words[7]);
}

// Zeros beyond its elements.
__device__ inline Raw load(const Plane& x, const Piece& p) {
  Raw raw = {};
  if (p.count <= 0) return raw;
  const Elements at(x, p);
  if (const char* words = at.words(p.count, x.size())) {
    const uint4* from = reinterpret_cast<const uint4*>(words);
    const uint4 low = from[0];
    const uint4 high = x.size() == 4 ? from[1] : low;
    raw = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    if (at.next < 0) reverse(raw, x.size());
    return raw;
  }
  const char* from = at.first;
#pragma unroll
  for (int i = 0; i < kPiece; ++i, from += at.next) {
    if (i >= p.count) break;
    if (x.size() == 4)
      raw.words[i] = *reinterpret_cast<const uint32_t*>(from);
    else
      raw.words[i / 2] |= uint32_t(*reinterpret_cast<const uint16_t*>(from)) << i % 2 * 16;
  }
  return raw;
}

__device__ inline void store(const Plane& x, const Piece& p, Raw raw) {
  if (p.count <= 0) return;
  const Elements at(x, p);
  if (char* words = at.words(p.count, x.size())) {
    if (at.next < 0) reverse(raw, x.size());
    uint4* to = reinterpret_cast<uint4*>(words);
    to[0] = make_uint4(raw.words[0], raw.words[1], raw.words[2], raw.words[3]);
    if (x.size() == 4) to[1] = make_uint4(raw.words[4], raw.words[5], raw.words[6], raw.words[7]);
    return;
  }
  char* to = at.first;
#pragma unroll
  for (int i = 0; i < kPiece; ++i, to += at.next) {
    if (i >= p.count) break;
    if (x.size() == 4)
      *reinterpret_cast<uint32_t*>(to) = raw.words[i];
    else
      *reinterpret_cast<uint16_t*>(to) = uint16_t(raw.words[i / 2] >> i % 2 * 16);
  }
}

// -- its numbers -----------------------------------------------------------------------------------------------

struct Floats {
  float values[kPiece];

  __device__ float& operator[](int i) { return values[i]; }
  __device__ float operator[](int i) const { return values[i]; }
};

__device__ inline float half_of(uint32_t bits) {
  const uint16_t low = uint16_t(bits);
  __half half;
  memcpy(&half, &low, sizeof half);
  return to_float(half);
}
template <class T>
__device__ uint32_t bits_of(T number) {
  uint16_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

__device__ inline Floats unpack(const Raw& raw, DType dtype) {
  Floats x;
  if (dtype == DType::f32) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] = __int_as_float(int(raw.words[i]));
  } else if (dtype == DType::bf16) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i)
      x[i] = __int_as_float(int(i % 2 ? raw.words[i / 2] & 0xffff0000u : raw.words[i / 2] << 16));
  } else {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] = half_of(raw.words[i / 2] >> i % 2 * 16);
  }
  return x;
}

__device__ inline Raw pack(const Floats& x, DType dtype) {
  Raw raw = {};
  if (dtype == DType::f32) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) raw.words[i] = uint32_t(__float_as_int(x[i]));
  } else if (dtype == DType::bf16) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) raw.words[i / 2] |= bits_of(from_float<__nv_bfloat16>(x[i])) << i % 2 * 16;
  } else {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) raw.words[i / 2] |= bits_of(from_float<__half>(x[i])) << i % 2 * 16;
  }
  return raw;
}

// -- its place in a tile of floats, [steps][Stride] ------------------------------------------------------------

template <int Columns, int Stride, class P>
__device__ void put(float* tile, const P& p, const Floats& x) {
  static_assert(Columns < kPiece || (Columns % kPiece == 0 && Stride % 4 == 0), "pieces are whole, and aligned");
  float* to = tile + p.step * Stride + p.column;
  if (p.along_steps) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) to[i * Stride] = x[i];
  } else if (Columns < kPiece) {
#pragma unroll
    for (int i = 0; i < Columns && i < kPiece; ++i) to[i] = x[i];
  } else {
    reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
  }
}

template <int Stride, class P>
__device__ Floats get(const float* tile, const P& p) {
  static_assert(Stride % 4 == 0, "rows are aligned");
  const float* from = tile + p.step * Stride + p.column;
  if (p.along_steps) {
    Floats x;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] = from[i * Stride];
    return x;
  }
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  return {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
}

// Of a row of floats, one a column.
template <class P>
__device__ Floats get_row(const float* row, const P& p) {
  if (!p.along_steps) return get<kPiece>(row + p.column, WholePiece{0, 0});
  Floats x;
  for (float& value : x.values) value = row[p.column];
  return x;
}

}  // namespace transmamba::cuda
