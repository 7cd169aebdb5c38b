// What device code of all kernels shares: numbers in memory, elementary functions, sums over lanes, shared memory.
//
// Everything is computed in float32. A tensor's dtype is known at run time only: `visit` branches on it outside of the
// loop over elements, so that kernels are not compiled once per dtype. Compiled with subnormal numbers flushed to zero,
// where exp2f, __log2f and __fdividef are an instruction or two each.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/tensor.h"

namespace transmamba::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The block's dynamic shared memory, aligned to 16 bytes. There is no other: what a test poisons is all there is.
template <class T>
__device__ __forceinline__ T* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#else
  return static_cast<T*>(cuda_emulation::shared_memory());
#endif
}

__device__ __forceinline__ bool given(const Tensor& x) { return x.rank >= 0; }

// -- numbers in memory ------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half(x);
}

// Calls f with a value of the type stored in memory; decltype tells which. Of the floating types float64 is refused in
// Python.
template <class F>
__device__ __forceinline__ void visit(DType dtype, F f) {
  if (dtype == DType::f32) {
    f(float{});
  } else if (dtype == DType::bf16) {
    f(__nv_bfloat16{});
  } else {
    f(__half{});
  }
}

// Element i of a tensor of any dtype, for what is read or written rarely.
__device__ __forceinline__ float load(const void* data, DType dtype, int64_t i) {
  float x = 0;
  visit(dtype, [&](auto element) { x = to_float(static_cast<const decltype(element)*>(data)[i]); });
  return x;
}
__device__ __forceinline__ void store(void* data, DType dtype, int64_t i, float x) {
  visit(dtype, [&](auto element) {
    using T = decltype(element);
    static_cast<T*>(data)[i] = from_float<T>(x);
  });
}

// K neighbouring elements in as few accesses as possible, of at most 16 bytes each. `is_aligned` tells where that may
// be.
template <int K, class T>
constexpr int kAccessBytes = K * int(sizeof(T)) < 16 ? K * int(sizeof(T)) : 16;

template <int K, class T>
__device__ __forceinline__ bool is_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % kAccessBytes<K, T> == 0;
}

template <int K, class T>
struct alignas(kAccessBytes<K, T>) Access {
  T values[kAccessBytes<K, T> / sizeof(T)];
};

template <int K, class T>
__device__ __forceinline__ void load_vector(const T* p, float (&x)[K]) {
  constexpr int kEach = kAccessBytes<K, T> / sizeof(T);
  const auto* pieces = reinterpret_cast<const Access<K, T>*>(p);
#pragma unroll
  for (int i = 0; i < K / kEach; ++i) {
    const Access<K, T> piece = pieces[i];
#pragma unroll
    for (int j = 0; j < kEach; ++j) x[i * kEach + j] = to_float(piece.values[j]);
  }
}
template <int K, class T>
__device__ __forceinline__ void store_vector(T* p, const float (&x)[K]) {
  constexpr int kEach = kAccessBytes<K, T> / sizeof(T);
  auto* pieces = reinterpret_cast<Access<K, T>*>(p);
#pragma unroll
  for (int i = 0; i < K / kEach; ++i) {
    Access<K, T> piece;
#pragma unroll
    for (int j = 0; j < kEach; ++j) piece.values[j] = from_float<T>(x[i * kEach + j]);
    pieces[i] = piece;
  }
}

// -- elementary functions, defined as those of the CPU kernels (simd.h) -----------------------------------------------

constexpr float kLog2E = 1.442695040888963407f;
constexpr float kLn2 = 0.693147180559945309f;

// 2^x to 2 ulp, exact at 0; 0 and infinity beyond the range.
__device__ __forceinline__ float exp2(float x) { return exp2f(x); }

// 1 / x to 1 ulp; 0 from 2^126.
__device__ __forceinline__ float reciprocal(float x) { return __fdividef(1.0f, x); }

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp2(-kLog2E * x)); }

__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
// silu(x), and in `slope` its derivative.
__device__ __forceinline__ float silu(float x, float& slope) {
  const float s = sigmoid(x), y = x * s;
  slope = s + y * (1.0f - s);
  return y;
}

// softplus(x) = max(x, 0) + log(1 + exp(-|x|)), without a threshold: relative precision over the whole range. The
// logarithm is e P(e) of e in [0, 1], to 2e-7 of itself; a reciprocal would take from the unit that exponentials need.
__device__ __forceinline__ float softplus_of(float x, float e) {
  float p = fmaf(5.23269596e-3f, e, -2.95052510e-2f);
  p = fmaf(p, e, 7.82259852e-2f);
  p = fmaf(p, e, -0.136632502f);
  p = fmaf(p, e, 0.191060096f);
  p = fmaf(p, e, -0.248429835f);
  p = fmaf(p, e, 0.333190978f);
  p = fmaf(p, e, -0.499994934f);
  p = fmaf(p, e, 0.999999940f);
  return fmaf(p, e, x < 0.0f ? 0.0f : x);
}
__device__ __forceinline__ float softplus(float x) { return softplus_of(x, exp2(-kLog2E * fabsf(x))); }
// softplus(x), and in `slope` its derivative, the sigmoid, of the same exponential.
__device__ __forceinline__ float softplus(float x, float& slope) {
  const float e = exp2(-kLog2E * fabsf(x));
  slope = (x < 0.0f ? e : 1.0f) * reciprocal(1.0f + e);
  return softplus_of(x, e);
}

// -- lanes of a warp, all of which have to come -----------------------------------------------------------------------

// The sum over each aligned group of Lanes lanes, a power of two, in all of them; always in the same order.
template <int Lanes>
__device__ __forceinline__ float lane_sum(float x) {
#pragma unroll
  for (int bit = 1; bit < Lanes; bit *= 2) x += __shfl_xor_sync(kAllLanes, x, bit);
  return x;
}

}  // namespace transmamba::cuda
