// Numbers in memory and the type computed in, one at a time or a vector in registers. Per instruction set, like simd.h.
//
// Reading 16-bit numbers is exact, subnormals and infinities included, and so where FlushSubnormals is in force: what
// is subnormal in float16 is not in float32. Writing rounds to nearest, ties to even, beyond the range to infinity.
// Not-a-numbers stay such, and are quiet when written.
#pragma once
#include <type_traits>

#include "core/simd.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
template <class S>
constexpr bool kIs16Bit = std::is_same_v<S, Bf16> || std::is_same_v<S, F16>;

template <class T>
constexpr DType kDType = sizeof(T) == 4 ? DType::f32 : DType::f64;

// Calls f with a value of the type stored in memory.
template <class F>
TM_INLINE void visit(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(Bf16{});
    case DType::f16: return f(F16{});
    case DType::i32: return;  // no kernel computes with indices
  }
}

// -- bits, by integer arithmetic: F is float and U uint32_t, or vectors of them -------------------------------------

template <class To, class From>
TM_INLINE To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &x, sizeof(To));
  return to;
}

template <class F, class U>
TM_INLINE F widen(Bf16, U bits) {
  return same_bits<F>(bits << 16);
}
template <class U, class F>
TM_INLINE U narrow(Bf16, F x) {
  const U bits = same_bits<U>(x);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet = (bits >> 16) | 0x40u;
  return x == x ? rounded : quiet;
}

// float16 has 5 bits of exponent and 10 of mantissa, float32 8 and 23: exponents differ by 112, mantissas by 13 bits.
template <class F, class U>
TM_INLINE F widen(F16, U bits) {
  const U exponent = bits & 0x7c00u, magnitude = (bits & 0x7fffu) << 13;
  const U normal = magnitude + (112u << 23), infinite = magnitude + (224u << 23);
  const U subnormal = same_bits<U>(same_bits<F>(magnitude + (113u << 23)) - 0x1p-14f);  // (1 + m / 2^10) 2^-14 - 2^-14
  const U finite = exponent == 0u ? subnormal : normal;
  return same_bits<F>((exponent == 0x7c00u ? infinite : finite) | ((bits & 0x8000u) << 16));
}
template <class U, class F>
TM_INLINE U narrow(F16, F x) {
  const U bits = same_bits<U>(x), magnitude = bits & 0x7fffffffu;
  const U normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;  // carries into infinity
  const U subnormal = same_bits<U>(same_bits<F>(magnitude) + 0.5f) - 0x3f000000u;         // 0.5's ulp is 2^-24
  const U quiet = ((magnitude >> 13) & 0x3ffu) | 0x7e00u, infinite = U{} + 0x7c00u;
  const U finite = magnitude < (113u << 23) ? subnormal : normal, beyond = x == x ? infinite : quiet;
  return (magnitude < (143u << 23) ? finite : beyond) | ((bits >> 16) & 0x8000u);
}

// -- one number --------------------------------------------------------------------------------------------------

template <class T, class S>
TM_INLINE T convert(S x) {
  if constexpr (kIs16Bit<S>)
    return T(widen<float>(S{}, uint32_t(x.bits)));
  else
    return T(x);
}
template <class T, class S>
TM_INLINE void convert(T x, S& to) {
  if constexpr (kIs16Bit<S>)
    to.bits = uint16_t(narrow<uint32_t>(S{}, float(x)));
  else
    to = S(x);
}

// -- a vector of numbers side by side ----------------------------------------------------------------------------

using Vector16 = uint16_t __attribute__((vector_size(kVectorBytes / 2)));
using Unaligned16 = uint16_t __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
using Signed16 = int16_t __attribute__((vector_size(kVectorBytes / 2)));
using FloatBits = uint32_t __attribute__((vector_size(kVectorBytes)));

TM_INLINE FloatBits zero_extend(Vector16 x) {
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(TRANSMAMBA_VECTOR_BYTES) && !defined(__clang__)
  return (FloatBits)__builtin_ia32_pmovzxwd256((Signed16)x);  // gcc would widen half by half
#else
  return __builtin_convertvector(x, FloatBits);
#endif
}

// float16 by the instruction sets' own conversions, which overload resolution takes before the templates below.
// Rounding mode 0 is to nearest, 4 is none; the flushing of subnormals does not concern them.
#if defined(TRANSMAMBA_VECTOR_BYTES)
#elif defined(__AVX512F__)
TM_INLINE Vec<float> widen_vector(F16, Vector16 x) {
  return __builtin_ia32_vcvtph2ps512_mask((Signed16)x, Vec<float>{}, uint16_t(-1), 4);
}
TM_INLINE Vector16 narrow_vector(F16, Vec<float> x) {
  return (Vector16)__builtin_ia32_vcvtps2ph512_mask(x, 0, Signed16{}, uint16_t(-1));
}
#elif defined(__AVX2__) && defined(__F16C__)
TM_INLINE Vec<float> widen_vector(F16, Vector16 x) { return __builtin_ia32_vcvtph2ps256((Signed16)x); }
TM_INLINE Vector16 narrow_vector(F16, Vec<float> x) { return (Vector16)__builtin_ia32_vcvtps2ph256(x, 0); }
#endif

template <class S>
TM_INLINE Vec<float> widen_vector(S kind, Vector16 x) {
  return widen<Vec<float>>(kind, zero_extend(x));
}
template <class S>
TM_INLINE Vector16 narrow_vector(S kind, Vec<float> x) {
  return __builtin_convertvector(narrow<FloatBits>(kind, x), Vector16);
}

// Whether load_as and store_as know S: the compute type itself, and 16-bit numbers where that is float.
template <class T, class S>
constexpr bool kConvertsVectors = std::is_same_v<T, S> || (sizeof(T) == 4 && kIs16Bit<S>);

template <class T, class S>
TM_INLINE Vec<T> load_as(const S* p) {
  if constexpr (kIs16Bit<S>)
    return widen_vector(S{}, *reinterpret_cast<const Unaligned16*>(p));
  else
    return load<T>(p);
}
template <class T, class S>
TM_INLINE void store_as(S* p, Vec<T> x) {
  if constexpr (kIs16Bit<S>)
    *reinterpret_cast<Unaligned16*>(p) = narrow_vector(S{}, x);
  else
    store<T>(p, x);
}

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
