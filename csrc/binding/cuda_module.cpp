// The CUDA module: loads on a machine without a driver, and then says that there is no device. The same file binds the
// kernels compiled for the CPU (tests/cuda_emulation).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "binding/tensor_caster.h"
#include "causal_conv1d/cuda.h"
#include "core/cuda_device.h"

namespace py = pybind11;
using namespace transmamba;
using namespace transmamba::cuda;

PYBIND11_MODULE(TRANSMAMBA_CUDA_MODULE, m) {
  m.doc() = "Compiled CUDA kernels. Takes borrowed tensors and fills what the caller allocated; knows no torch.";
  m.attr("device_type") = TRANSMAMBA_CUDA_DEVICE_TYPE;  // of the tensors that it takes
  m.attr("architectures") = TRANSMAMBA_CUDA_ARCHITECTURES;
  m.def("runtime_version", &cuda_runtime_version, "Version of the CUDA runtime built in.");
  m.def(
      "devices",
      [] {
        const CudaDevices found = cuda_devices();
        return std::pair(found.names, found.problem);
      },
      "Names of the CUDA devices, and why there is none.");

  m.attr("causal_conv1d_max_width") = kConvMaxWidth;
  m.def("causal_conv1d_parts", &causal_conv1d_parts);
  m.def("causal_conv1d_forward",
        [](Tensor x, Tensor weight, Tensor bias, Tensor initial_state, Tensor offsets, bool silu, bool reverse,
           int device, int64_t stream, Tensor out, Tensor final_state) {
          const py::gil_scoped_release release;
          causal_conv1d_forward({{x, weight, bias, initial_state, offsets, silu, reverse}, out, final_state},
                                {device, stream});
        });
  m.def("causal_conv1d_backward",
        [](Tensor x, Tensor weight, Tensor bias, Tensor initial_state, Tensor offsets, bool silu, bool reverse,
           int device, int64_t stream, Tensor dout, Tensor dfinal_state, Tensor dx, Tensor dweight, Tensor dbias,
           Tensor dinitial_state, Tensor partial) {
          const py::gil_scoped_release release;
          causal_conv1d_backward({{x, weight, bias, initial_state, offsets, silu, reverse},
                                  dout,
                                  dfinal_state,
                                  dx,
                                  dweight,
                                  dbias,
                                  dinitial_state,
                                  partial},
                                 {device, stream});
        });
}
