#include <cuda_runtime.h>

#include "core/cuda_device.h"

namespace transmamba {
namespace {

// Looked up on each device: the surest sign that this build carries code for it.
__global__ void nothing() {}

}  // namespace

CudaDevices cuda_devices() {
  CudaDevices devices;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    devices.problem = cudaGetErrorString(error);
    return devices;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    cudaFuncAttributes attributes;
    if (cudaSetDevice(i) != cudaSuccess || cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    std::string name = std::string(properties.name) + " (sm_" + std::to_string(properties.major) +
                       std::to_string(properties.minor) + ")";
    if (cudaFuncGetAttributes(&attributes, nothing) != cudaSuccess) name += ", no code for it in this build";
    devices.names.push_back(name);
  }
  if (count == 0) devices.problem = "no CUDA device";
  return devices;
}

std::string cuda_runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace transmamba
