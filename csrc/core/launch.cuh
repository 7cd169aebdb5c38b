// The only place that launches kernels.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "core/stream.h"

namespace transmamba::cuda {

// Makes a device the current one for as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    if (cudaGetDevice(&before_) != cudaSuccess) before_ = device;
    if (before_ == device) return;
    if (const cudaError_t error = cudaSetDevice(device); error != cudaSuccess)
      throw std::runtime_error("CUDA device " + std::to_string(device) + ": " + cudaGetErrorString(error));
    changed_ = true;
  }
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// The linker's name of a kernel, where CUDA is new enough to tell.
template <class Kernel>
std::string kernel_name(Kernel* kernel) {
#if defined(CUDART_VERSION) && CUDART_VERSION >= 12030
  const char* name = nullptr;
  if (cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)) == cudaSuccess && name) return name;
#else
  (void)kernel;
#endif
  return "(unnamed)";
}

// Queues kernel(arguments...) on the stream; an empty grid is nothing to do. Throws std::runtime_error with the
// kernel's name where CUDA refuses.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const Stream& stream,
            const Arguments&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "CUDA passes at most 4 KB of arguments");
  constexpr size_t kUnasked = 48 << 10;  // bytes of shared memory that a kernel has without asking
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const CurrentDevice device(stream.device);
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kUnasked)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = reinterpret_cast<cudaStream_t>(stream.handle);
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next one who asks would be told
  throw std::runtime_error("CUDA kernel " + kernel_name(kernel) + ": " + cudaGetErrorString(error));
}

}  // namespace transmamba::cuda
