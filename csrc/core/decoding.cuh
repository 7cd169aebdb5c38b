// What the kernels of decoding share: index tensors read where they lie, and a few numbers at a time from anywhere.
#pragma once
#include "core/device.cuh"

namespace transmamba::cuda {

// Element i of int32 or int64 indices, or i itself where none are given.
__device__ __forceinline__ int64_t row_index(const Tensor& indices, int64_t i) {
  if (!given(indices)) return i;
  const int64_t at = i * indices.stride[0];
  return indices.dtype == DType::i64 ? static_cast<const int64_t*>(indices.data)[at]
                                     : static_cast<const int32_t*>(indices.data)[at];
}

// values[i] = element at(i) of x, or 0 where at(i) is negative. All are on their way before the first is waited for.
template <int K, class At>
__device__ __forceinline__ void gather(const Tensor& x, At at, float (&values)[K]) {
  visit(x.dtype, [&](auto element) {
    using T = decltype(element);
    const T* p = static_cast<const T*>(x.data);
    T found[K];
#pragma unroll
    for (int i = 0; i < K; ++i) found[i] = at(i) < 0 ? from_float<T>(0.0f) : p[at(i)];
#pragma unroll
    for (int i = 0; i < K; ++i) values[i] = to_float(found[i]);
  });
}
// Element at(i) of x = values[i], but nothing where at(i) is negative.
template <int K, class At>
__device__ __forceinline__ void scatter(const Tensor& x, At at, const float (&values)[K]) {
  visit(x.dtype, [&](auto element) {
    using T = decltype(element);
    T* p = static_cast<T*>(x.data);
#pragma unroll
    for (int i = 0; i < K; ++i)
      if (at(i) >= 0) p[at(i)] = from_float<T>(values[i]);
  });
}

}  // namespace transmamba::cuda
