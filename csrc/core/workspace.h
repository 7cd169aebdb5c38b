// One aligned block of memory, carved up by its owner.
#pragma once
#include <cstddef>
#include <cstdint>

namespace transmamba {

class Workspace {
 public:
  explicit Workspace(int64_t bytes);  // throws std::bad_alloc
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  static constexpr int64_t kAlignment = 64;

  // The bytes that `count` values of T take up, padding included.
  template <class T>
  static constexpr int64_t bytes(int64_t count) {
    return (count * int64_t(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  template <class T>
  __attribute__((always_inline)) T* take(int64_t count) {
    char* start = next_;
    next_ += bytes<T>(count);
    return reinterpret_cast<T*>(start);
  }

 private:
  void* block_;
  char* next_;
};

}  // namespace transmamba
