// Borrowed views: a framework's tensor (pointer, shape, strides, dtype), and a list of integers. No torch headers.
#pragma once
#include <cstdint>

namespace transmamba {

enum class DType : uint8_t { f32, f64, bf16, f16, i32, i64 };  // the last two: indices

struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;  // of the element at index 0
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};  // in elements, never in bytes
  int rank = -1;                  // -1: the argument was not given
  DType dtype = DType::f32;

  explicit operator bool() const { return rank >= 0; }
};

// Without functions of its own: kernels compiled per instruction set read it (simd.h).
struct Indices {
  const int64_t* data = nullptr;
  int64_t count = 0;
};

inline constexpr int64_t item_size(DType dtype) {
  return dtype == DType::f64 || dtype == DType::i64 ? 8 : dtype == DType::f32 || dtype == DType::i32 ? 4 : 2;
}

}  // namespace transmamba
