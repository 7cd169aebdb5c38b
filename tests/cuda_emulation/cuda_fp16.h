// Stands in for CUDA's own header: float16, rounded to nearest even.
#pragma once
#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half x) {
  _Float16 number;
  std::memcpy(&number, &x.bits, 2);
  return float(number);
}
inline __half __float2half(float x) {
  const _Float16 number = _Float16(x);
  __half y;
  std::memcpy(&y.bits, &number, 2);
  return y;
}
inline __half __float2half_rn(float x) { return __float2half(x); }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }
