// The CUDA module: loads on a machine without a driver, and then says that there is no device. The same file binds the
// kernels compiled for the CPU (tests/cuda_emulation).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/cuda_device.h"

PYBIND11_MODULE(TRANSMAMBA_CUDA_MODULE, m) {
  m.doc() = "Compiled CUDA kernels. Takes borrowed tensors and fills what the caller allocated; knows no torch.";
  m.attr("device_type") = TRANSMAMBA_CUDA_DEVICE_TYPE;  // of the tensors that it takes
  m.attr("architectures") = TRANSMAMBA_CUDA_ARCHITECTURES;
  m.def("runtime_version", &transmamba::cuda_runtime_version, "Version of the CUDA runtime built in.");
  m.def(
      "devices",
      [] {
        const transmamba::CudaDevices found = transmamba::cuda_devices();
        return std::pair(found.names, found.problem);
      },
      "Names of the CUDA devices, and why there is none.");
}
