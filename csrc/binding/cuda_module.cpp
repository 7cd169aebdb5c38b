// The CUDA module: loads on a machine without a driver, and then says that there is no device. The same file binds the
// kernels compiled for the CPU (tests/cuda_emulation).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "binding/tensor_caster.h"
#include "causal_conv1d/cuda.h"
#include "conv_state_update/cuda.h"
#include "core/cuda_device.h"
#include "selective_scan/cuda.h"
#include "state_update/cuda.h"

namespace py = pybind11;
using namespace transmamba;
using namespace transmamba::cuda;

namespace {

// Those of selective_scan_forward but for the device, the stream and the chunks.
using ScanArguments = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool,
                                 bool, Tensor, Tensor, Tensor, Tensor, Tensor, bool>;

SelectiveScanForward scan_forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z,
                                  Tensor delta_bias, Tensor initial_state, Tensor offsets, bool softplus, bool reverse,
                                  Tensor out, Tensor last_state, Tensor checkpoints, Tensor addend, Tensor order,
                                  bool permute_params) {
  return {{u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, order, permute_params},
          out,
          last_state,
          checkpoints,
          addend};
}

}  // namespace

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

  m.attr("scan_checkpoint") = cuda::kScanCheckpoint;
  m.def("selective_scan_forward",
        [](Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias,
           Tensor initial_state, Tensor offsets, bool softplus, bool reverse, int device, int64_t stream, Tensor out,
           Tensor last_state, Tensor checkpoints, Tensor addend, Tensor order, bool permute_params, int64_t chunk,
           const py::function& allocate) {
          SelectiveScanForward scan{
              {u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, order, permute_params},
              out,
              last_state,
              checkpoints,
              addend,
              chunk};
          py::object memory;
          if (chunk) {
            memory = allocate(selective_scan_chunk_states(scan));
            scan.chunk_states = memory.cast<Tensor>();
          }
          const py::gil_scoped_release release;
          selective_scan_forward(scan, {device, stream});
        });
  m.def("selective_scans_forward", [](const std::vector<ScanArguments>& arguments, int device, int64_t stream) {
    std::vector<SelectiveScanForward> scans;
    for (const ScanArguments& scan : arguments) scans.push_back(std::apply(scan_forward, scan));
    const py::gil_scoped_release release;
    selective_scans_forward(scans, {device, stream});
  });
  m.def("selective_scan_chunk", [](Tensor u, Tensor A, Tensor B, Tensor C, int multiprocessors) {
    return selective_scan_chunk({u, {}, A, B, C}, multiprocessors);
  });

  m.def(
      "selective_scan_backward",
      [](Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias,
         Tensor initial_state, Tensor offsets, bool softplus, bool reverse, int device, int64_t stream,
         Tensor checkpoints, Tensor dout, Tensor dlast_state, Tensor du, Tensor ddelta, Tensor dA, Tensor dB, Tensor dC,
         Tensor dD, Tensor dz, Tensor ddelta_bias, Tensor dinitial_state, bool add_u, bool add_delta, bool add_z,
         Tensor order, bool permute_params, int multiprocessors, const py::function& allocate) {
        const cuda::SelectiveScan inputs{u,          delta,         A,       B,        C,       D,     z,
                                         delta_bias, initial_state, offsets, softplus, reverse, order, permute_params};
        cuda::SelectiveScanBackward scan{
            inputs,      checkpoints,    dout,  dlast_state, du,    ddelta,         dA, dB, dC, dD, dz,
            ddelta_bias, dinitial_state, add_u, add_delta,   add_z, multiprocessors};
        const py::object partial = allocate(cuda::selective_scan_partials(scan));
        scan.partial = partial.cast<Tensor>();
        const py::gil_scoped_release release;
        cuda::selective_scan_backward(scan, {device, stream});
      },
      "allocate(n) returns n numbers of float32 on the device, for partial sums.");

  m.def("state_update", [](Tensor state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z,
                           Tensor dt_bias, bool softplus, Tensor rows, int device, int64_t stream, Tensor out) {
    const py::gil_scoped_release release;
    state_update({state, x, dt, A, B, C, D, z, dt_bias, softplus, rows, out}, {device, stream});
  });
  m.def("conv_state_update", [](Tensor x, Tensor state, Tensor weight, Tensor bias, bool silu, Tensor positions,
                                Tensor rows, int device, int64_t stream, Tensor out) {
    const py::gil_scoped_release release;
    conv_state_update({x, state, weight, bias, silu, positions, rows, out}, {device, stream});
  });
}
