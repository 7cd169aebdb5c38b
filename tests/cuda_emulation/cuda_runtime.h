// Stands in for CUDA's own header, so that g++ compiles device code and launches and they run on the CPU.
//
// Only what this project uses. Static __shared__ variables do not exist here: a kernel's shared memory is dynamic, so
// that it can be filled with not-a-numbers before each block and has an end that the address sanitizer knows.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

// -- vectors --------------------------------------------------------------------------------------------------------

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) longlong2 {
  long long x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// -- numbers --------------------------------------------------------------------------------------------------------

using std::max;
using std::min;

inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline float __int_as_float(int x) { return __uint_as_float(unsigned(x)); }
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }

inline float __expf(float x) { return std::exp(x); }
inline float __exp2f(float x) { return std::exp2(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __saturatef(float x) { return x > 0 ? std::min(x, 1.0f) : 0.0f; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1) << (31 - i);
  return y;
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// -- threads that wait for each other; `from` is where the source calls it --------------------------------------------

struct CudaEmulationCaller {
  const char* file;
  int line;

  static CudaEmulationCaller here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  cuda_emulation::Place in(const char* what) const { return {what, file, line}; }
};
using CudaEmulationFrom = const CudaEmulationCaller&;

inline void __syncthreads(CudaEmulationFrom from = CudaEmulationCaller::here()) {
  cuda_emulation::barrier(from.in("__syncthreads"));
}
inline void __syncwarp(unsigned mask = ~0u, CudaEmulationFrom from = CudaEmulationCaller::here()) {
  cuda_emulation::meet(mask, 0, 0, from.in("__syncwarp"));
}
// A source outside of the lane's segment of `width` lanes is the lane itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              CudaEmulationFrom from = CudaEmulationCaller::here()) {
  const int segment = cuda_emulation::lane() & -width;
  return cuda_emulation::exchange(mask, value, segment | (source & (width - 1)), from.in("__shfl_sync"));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 CudaEmulationFrom from = CudaEmulationCaller::here()) {
  const int lane = cuda_emulation::lane(), source = lane - int(delta);
  return cuda_emulation::exchange(mask, value, source < (lane & -width) ? lane : source, from.in("__shfl_up_sync"));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   CudaEmulationFrom from = CudaEmulationCaller::here()) {
  const int lane = cuda_emulation::lane(), source = lane + int(delta);
  return cuda_emulation::exchange(mask, value, source > (lane | (width - 1)) ? lane : source,
                                  from.in("__shfl_down_sync"));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  CudaEmulationFrom from = CudaEmulationCaller::here()) {
  const int lane = cuda_emulation::lane(), source = lane ^ bits;
  return cuda_emulation::exchange(mask, value, source > (lane | (width - 1)) ? lane : source,
                                  from.in("__shfl_xor_sync"));
}
inline unsigned __ballot_sync(unsigned mask, bool vote, CudaEmulationFrom from = CudaEmulationCaller::here()) {
  return cuda_emulation::meet(mask, vote, 0, from.in("__ballot_sync")).votes;
}
inline bool __any_sync(unsigned mask, bool vote, CudaEmulationFrom from = CudaEmulationCaller::here()) {
  return cuda_emulation::meet(mask, vote, 0, from.in("__any_sync")).votes != 0;
}
inline bool __all_sync(unsigned mask, bool vote, CudaEmulationFrom from = CudaEmulationCaller::here()) {
  return cuda_emulation::meet(mask, vote, 0, from.in("__all_sync")).votes == mask;
}

// -- the host's side: one device, and launches that have ended when they return ---------------------------------------

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration, cudaErrorInvalidDevice };
using cudaStream_t = struct CUstream_st*;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {};
struct cudaDeviceProp {
  char name[256] = "CPU, emulating CUDA";
  int major = 0, minor = 0;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
  }
  return "unknown error";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) { return *p = cudaDeviceProp(), cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}

constexpr size_t kCudaEmulationSharedBytes = 99 << 10;  // of a block, on the smallest of the supported GPUs
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return size_t(bytes) > kCudaEmulationSharedBytes ? cudaErrorInvalidValue : cudaSuccess;
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  if (config->dynamicSmemBytes > kCudaEmulationSharedBytes) return cudaErrorInvalidValue;
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 ||
      block.x < 1 || block.y < 1 || block.z < 1 || block.z > 64 || uint64_t(block.x) * block.y * block.z > 1024)
    return cudaErrorInvalidConfiguration;
  cuda_emulation::run(grid, block, config->dynamicSmemBytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}
