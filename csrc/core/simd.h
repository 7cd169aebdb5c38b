// Vectors of the instruction set being compiled, and the elementary functions the kernels need.
//
// Written with the compiler's vector extensions; no intrinsics. Include it only from sources that are compiled once
// per instruction set: everything lives in an anonymous namespace, so that no inline function compiled for one
// instruction set can be linked into another.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/tensor.h"

#if !defined(TRANSMAMBA_ISA)
#error "simd.h is for sources compiled per instruction set: define TRANSMAMBA_ISA"
#endif

namespace transmamba::TRANSMAMBA_ISA {
namespace {

#define TM_INLINE static inline __attribute__((always_inline))

#if defined(TRANSMAMBA_VECTOR_BYTES)
constexpr int kVectorBytes = TRANSMAMBA_VECTOR_BYTES;
#elif defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = float __attribute__((vector_size(kVectorBytes)));
  using unaligned = float __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  using integer = int32_t __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  using type = double __attribute__((vector_size(kVectorBytes)));
  using unaligned = double __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  using integer = int64_t __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
using IntVec = typename VectorOf<T>::integer;
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
TM_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
template <class T>
TM_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}
template <class T>
TM_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};  // x - 0 is x, -0 included; the compiler emits one broadcast
}
template <class T>
TM_INLINE T sum(Vec<T> v) {
  T total = 0;
  for (int i = 0; i < kLanes<T>; ++i) total += v[i];
  return total;
}
// The larger one; y where either is not a number.
template <class V>
TM_INLINE V max(V x, V y) {
  return x > y ? x : y;
}
template <class T>
TM_INLINE Vec<T> abs(Vec<T> x) {
  constexpr auto kSign = sizeof(T) == 4 ? int64_t(INT32_MAX) : INT64_MAX;
  using Int = IntVec<T>;
  return (Vec<T>)((Int)x & (decltype(Int{}[0] + 0))kSign);
}

// 2^x for K vectors in lockstep: chained one after the other they would wait for each other.
// Float: round to nearest, then a polynomial of degree 5 with p(0) = 1, because an error of the decay at 1 would be
// multiplied by the gain 1 / (1 - decay) of the recurrence; relative error below 1.2e-7. Clamp saturates to 0 and
// infinity; without it x must stay in (-126, 127). Not-a-number stays not-a-number.
template <bool Clamp, int K>
TM_INLINE void exp2(Vec<float> (&x)[K]) {
  using V = Vec<float>;
  using I = IntVec<float>;
  const V magic = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  V t[K], p[K];
  if constexpr (Clamp) {
    for (int k = 0; k < K; ++k) x[k] = splat(-127.0f) > x[k] ? splat(-127.0f) : x[k];
    for (int k = 0; k < K; ++k) x[k] = splat(128.0f) < x[k] ? splat(128.0f) : x[k];
  }
  for (int k = 0; k < K; ++k) t[k] = x[k] + magic;
  for (int k = 0; k < K; ++k) x[k] = x[k] - (t[k] - magic);
  for (int k = 0; k < K; ++k) p[k] = splat(0.001326472731307149f) * x[k] + splat(0.009671512991189957f);
  for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(0.05550733581185341f);
  for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(0.24022242426872253f);
  for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(0.6931470036506653f);
  for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(1.0f);
  for (int k = 0; k < K; ++k) x[k] = (V)((I)p[k] + ((I)t[k] << 23));
}
// Double serves gradient checks: the library's exp2, a lane at a time.
template <bool, int K>
TM_INLINE void exp2(Vec<double> (&x)[K]) {
  for (int k = 0; k < K; ++k)
    for (int i = 0; i < kLanes<double>; ++i) x[k][i] = __builtin_exp2(x[k][i]);
}

template <class T>
constexpr T kLog2E = T(1.442695040888963407);
template <class T>
constexpr T kLn2 = T(0.693147180559945309);

template <class T>
TM_INLINE Vec<T> exp(Vec<T> x) {
  Vec<T> r[1] = {x * splat(kLog2E<T>)};
  exp2<true, 1>(r);
  return r[0];
}
template <class T>
TM_INLINE Vec<T> sigmoid(Vec<T> x) {
  return splat(T(1)) / (splat(T(1)) + exp<T>(-x));
}

// log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e)); relative error below 6e-9 before rounding.
TM_INLINE Vec<float> log1p_unit(Vec<float> e) {
  const Vec<float> s = e / (e + splat(2.0f));
  const Vec<float> q = s * s;
  Vec<float> p = splat(0.280119925737381f) * q + splat(0.28001803159713745f);
  p = p * q + splat(0.4002152681350708f);
  p = p * q + splat(0.666664183139801f);
  p = p * q + splat(2.0f);
  return p * s;
}
TM_INLINE Vec<double> log1p_unit(Vec<double> e) {
  for (int i = 0; i < kLanes<double>; ++i) e[i] = __builtin_log1p(e[i]);
  return e;
}
// softplus(x) = max(x, 0) + log(1 + exp(-|x|)), exact to rounding over the whole range.
template <class T>
TM_INLINE Vec<T> softplus(Vec<T> x) {
  return (x < splat(T(0)) ? splat(T(0)) : x) + log1p_unit(exp<T>(-abs<T>(x)));
}
// softplus and its derivative, the sigmoid, from one exponential.
template <class T>
TM_INLINE Vec<T> softplus(Vec<T> x, Vec<T>& derivative) {
  const Vec<T> e = exp<T>(-abs<T>(x));
  const Vec<T> r = splat(T(1)) / (splat(T(1)) + e);
  derivative = x < splat(T(0)) ? e * r : r;
  return (x < splat(T(0)) ? splat(T(0)) : x) + log1p_unit(e);
}

// Subnormal numbers cost a hundred cycles on some CPUs and a decaying state is full of them: flush them to zero
// while a kernel runs, on the threads it runs on.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
  ~FlushSubnormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  unsigned saved_;
#else
  FlushSubnormals() {}
  ~FlushSubnormals() {}
#endif
};

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
