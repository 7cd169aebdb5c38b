// What the CUDA module can say about the machine it runs on.
#pragma once
#include <string>
#include <vector>

namespace transmamba {

struct CudaDevices {
  std::vector<std::string> names;  // "NVIDIA H200 (sm_90)"
  std::string problem;             // why there is none, or empty
};

CudaDevices cuda_devices();
std::string cuda_runtime_version();

}  // namespace transmamba
