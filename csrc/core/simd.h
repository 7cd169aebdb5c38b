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
// The largest number of a vector of none below 0; not-a-numbers are passed over.
template <class T>
TM_INLINE T largest_lane(Vec<T> v) {
  T largest = 0;
  for (int i = 0; i < kLanes<T>; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}
// The larger and the smaller one; y where either is not a number.
template <class V>
TM_INLINE V max(V x, V y) {
  return x > y ? x : y;
}
template <class V>
TM_INLINE V min(V x, V y) {
  return x < y ? x : y;
}
// x as a value that the compiler cannot see through. max and min are one instruction each, but gcc makes them two where
// it knows one side to be a constant.
template <class V>
TM_INLINE V opaque(V x) {
#if defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#endif
  return x;
}
template <class T>
TM_INLINE Vec<T> abs(Vec<T> x) {
  constexpr auto kSign = sizeof(T) == 4 ? int64_t(INT32_MAX) : INT64_MAX;
  using Int = IntVec<T>;
  return (Vec<T>)((Int)x & (decltype(Int{}[0] + 0))kSign);
}

// The exact powers 2^(i / lanes) for i in [0, lanes), less their share of the exponent that exp2 adds back.
TM_INLINE Vec<float> exp2_table() {
  constexpr int kShift = 23 - __builtin_ctz(kLanes<float>);
  IntVec<float> bits;
  for (int i = 0; i < kLanes<float>; ++i) {
    const float power = float(__builtin_exp2(double(i) / kLanes<float>));
    int32_t b;
    memcpy(&b, &power, 4);
    bits[i] = b - (i << kShift);
  }
  return (Vec<float>)bits;
}

// 2^x for K vectors in lockstep: chained one after the other they would wait for each other.
// Float: x is split at the nearest multiple of 2^-b. Where a vector can be looked up by a vector, b is the logarithm of
// the number of lanes: one lookup of 2^-b multiples and a cubic; elsewhere b = 0 and a quintic. All polynomials have
// p(0) = 1, because an error of the decay at 1 would be multiplied by the gain 1 / (1 - decay) of the recurrence.
// Relative error below 2e-7. Clamp saturates to 0 and infinity; without it x must stay in (-126, 127). Not-a-number
// stays not-a-number.
template <bool Clamp, int K>
TM_INLINE void exp2(Vec<float> (&x)[K]) {
  using V = Vec<float>;
  using I = IntVec<float>;
  constexpr bool kLookup = kLanes<float> >= 8;
  constexpr int kBits = kLookup ? __builtin_ctz(kLanes<float>) : 0;
  const V magic = splat(12582912.0f / (1 << kBits));  // 1.5 * 2^(23 - b): adding it leaves round(2^b x) in the low bits
  V t[K], p[K];
  if constexpr (Clamp) {
    const V least = opaque(splat(-127.0f)), most = opaque(splat(128.0f));
    for (int k = 0; k < K; ++k) x[k] = max(least, x[k]);
    for (int k = 0; k < K; ++k) x[k] = min(most, x[k]);
  }
  for (int k = 0; k < K; ++k) t[k] = x[k] + magic;
  for (int k = 0; k < K; ++k) x[k] = x[k] - (t[k] - magic);
  if constexpr (kLookup) {
    const V table = exp2_table();
    for (int k = 0; k < K; ++k) p[k] = splat(0.0554962233f) * x[k] + splat(0.240257636f);
    for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(0.693147242f);
    for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(1.0f);
    for (int k = 0; k < K; ++k) x[k] = p[k] * (V)((I)__builtin_shuffle(table, (I)t[k]) + ((I)t[k] << (23 - kBits)));
  } else {
    for (int k = 0; k < K; ++k) p[k] = splat(0.001326472731307149f) * x[k] + splat(0.009671512991189957f);
    for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(0.05550733581185341f);
    for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(0.24022242426872253f);
    for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(0.6931470036506653f);
    for (int k = 0; k < K; ++k) p[k] = p[k] * x[k] + splat(1.0f);
    for (int k = 0; k < K; ++k) x[k] = (V)((I)p[k] + ((I)t[k] << 23));
  }
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

template <class T, int K>
TM_INLINE void sigmoid(Vec<T> (&x)[K]) {
  for (int k = 0; k < K; ++k) x[k] = x[k] * splat(-kLog2E<T>);
  exp2<true, K>(x);
  for (int k = 0; k < K; ++k) x[k] = splat(T(1)) / (splat(T(1)) + x[k]);
}
template <class T>
TM_INLINE Vec<T> sigmoid(Vec<T> x) {
  Vec<T> r[1] = {x};
  sigmoid<T, 1>(r);
  return r[0];
}

// log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e)); relative error below 6e-9 before rounding.
template <int K>
TM_INLINE void log1p_unit(Vec<float> (&e)[K]) {
  Vec<float> q[K], p[K];
  for (int k = 0; k < K; ++k) e[k] = e[k] / (e[k] + splat(2.0f));
  for (int k = 0; k < K; ++k) q[k] = e[k] * e[k];
  for (int k = 0; k < K; ++k) p[k] = splat(0.280119925737381f) * q[k] + splat(0.28001803159713745f);
  for (int k = 0; k < K; ++k) p[k] = p[k] * q[k] + splat(0.4002152681350708f);
  for (int k = 0; k < K; ++k) p[k] = p[k] * q[k] + splat(0.666664183139801f);
  for (int k = 0; k < K; ++k) p[k] = p[k] * q[k] + splat(2.0f);
  for (int k = 0; k < K; ++k) e[k] = e[k] * p[k];
}
template <int K>
TM_INLINE void log1p_unit(Vec<double> (&e)[K]) {
  for (int k = 0; k < K; ++k)
    for (int i = 0; i < kLanes<double>; ++i) e[k][i] = __builtin_log1p(e[k][i]);
}
// softplus(x) = max(x, 0) + log(1 + exp(-|x|)), exact to rounding over the whole range; with Slope also its
// derivative, the sigmoid, from the same exponential.
template <class T, bool Slope, int K>
TM_INLINE void softplus(Vec<T> (&x)[K], Vec<T> (&slope)[K]) {
  Vec<T> e[K];
  for (int k = 0; k < K; ++k) e[k] = abs<T>(x[k]) * splat(-kLog2E<T>);
  exp2<true, K>(e);
  if constexpr (Slope) {
    for (int k = 0; k < K; ++k) slope[k] = (x[k] < splat(T(0)) ? e[k] : splat(T(1))) / (splat(T(1)) + e[k]);
  }
  for (int k = 0; k < K; ++k) x[k] = x[k] < splat(T(0)) ? splat(T(0)) : x[k];
  log1p_unit<K>(e);
  for (int k = 0; k < K; ++k) x[k] += e[k];
}

// Runs a kernel in the type it computes in. Double serves gradient checks: it is compiled for the baseline instruction
// set alone (a third less to compile), and isa.h sends it there.
#if defined(TRANSMAMBA_DOUBLE)
constexpr bool kDouble = true;
#else
constexpr bool kDouble = false;
#endif
template <template <class> class Pass, class Arguments>
TM_INLINE void run_pass(const Arguments& arguments) {
  if constexpr (kDouble) {
    if (arguments.dtype() == DType::f64) return Pass<double>{arguments}.run();
  }
  Pass<float>{arguments}.run();
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
