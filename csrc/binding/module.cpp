// The only place where C++ meets Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "binding/tensor_caster.h"
#include "causal_conv1d/causal_conv1d.h"
#include "conv_state_update/conv_state_update.h"
#include "core/parallel.h"
#include "multi_scan/multi_scan.h"
#include "selective_scan/selective_scan.h"
#include "state_update/state_update.h"

namespace py = pybind11;
using namespace transmamba;

namespace {

using List = std::vector<int64_t>;

Indices view(const List& list) { return {list.data(), int64_t(list.size())}; }
Indices view(const std::optional<List>& list) { return list ? view(*list) : Indices(); }

SelectiveScan scan_inputs(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias,
                          Tensor initial_state, const std::optional<List>& offsets, bool softplus, bool reverse,
                          Tensor order, bool permute_params, int threads) {
  return {u,     delta,          A,      B, C, D, z, delta_bias, initial_state, view(offsets), softplus, reverse,
          order, permute_params, threads};
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (Isa isa : available_isas()) names.push_back(name(isa));
  return names;
}

void use_isa_named(const std::string& wanted) {
  for (Isa isa : available_isas())
    if (wanted == name(isa)) return use_isa(isa);
  std::string message = "instruction set must be one of";
  for (const std::string& candidate : isa_names()) message += " '" + candidate + "'";
  throw py::value_error(message + ", not '" + wanted + "'");
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled CPU kernels. Takes borrowed tensors and fills what the caller allocated; knows no torch.";
  m.attr("compiler") = __VERSION__;
  m.attr("scan_checkpoint") = kScanCheckpoint;
  m.def("isas", &isa_names, "Instruction sets this machine can run, worst first.");
  m.def("isa", [] { return std::string(name(current_isa())); }, "The instruction set in use.");
  m.def("use_isa", &use_isa_named, "Override the choice made at load (tests and benchmarks).");
  m.def("has_openmp", &has_openmp);

  m.def("selective_scan_forward",
        [](Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias,
           Tensor initial_state, const std::optional<List>& offsets, bool softplus, bool reverse, int threads,
           Tensor out, Tensor last_state, Tensor checkpoints, Tensor addend, Tensor order, bool permute_params) {
          const py::gil_scoped_release release;
          selective_scan_forward({scan_inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus,
                                              reverse, order, permute_params, threads),
                                  out, last_state, addend, checkpoints});
        });
  m.def("selective_scan_backward",
        [](Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias,
           Tensor initial_state, const std::optional<List>& offsets, bool softplus, bool reverse, int threads,
           Tensor checkpoints, Tensor dout, Tensor dlast_state, Tensor du, Tensor ddelta, Tensor dA, Tensor dB,
           Tensor dC, Tensor dD, Tensor dz, Tensor ddelta_bias, Tensor dinitial_state, bool add_u, bool add_delta,
           bool add_z, Tensor order, bool permute_params) {
          const py::gil_scoped_release release;
          selective_scan_backward({scan_inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus,
                                               reverse, order, permute_params, threads),
                                   checkpoints, dout, dlast_state, du, ddelta, dA, dB, dC, dD, dz, ddelta_bias,
                                   dinitial_state, add_u, add_delta, add_z});
        });

  m.attr("whole_sequence") = kWholeSequence;
  m.def("multi_scan_forward",
        [](Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias,
           Tensor initial_state, Tensor orders, bool softplus, int threads, Tensor out, Tensor last_state) {
          const py::gil_scoped_release release;
          multi_scan_forward(
              {{u, delta, A, B, C, D, z, delta_bias, initial_state, orders, softplus, threads}, out, last_state});
        });
  m.def("multi_scan_backward", [](Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z,
                                  Tensor delta_bias, Tensor initial_state, Tensor orders, bool softplus, int threads,
                                  Tensor dout, Tensor dlast_state, Tensor du, Tensor ddelta, Tensor dA, Tensor dB,
                                  Tensor dC, Tensor dD, Tensor dz, Tensor ddelta_bias, Tensor dinitial_state) {
    const py::gil_scoped_release release;
    multi_scan_backward({{u, delta, A, B, C, D, z, delta_bias, initial_state, orders, softplus, threads},
                         dout,
                         dlast_state,
                         du,
                         ddelta,
                         dA,
                         dB,
                         dC,
                         dD,
                         dz,
                         ddelta_bias,
                         dinitial_state});
  });

  m.def("causal_conv1d_forward", [](Tensor x, Tensor weight, Tensor bias, Tensor initial_state,
                                    const std::optional<List>& offsets, bool silu, bool reverse, int threads,
                                    Tensor out, Tensor final_state) {
    const py::gil_scoped_release release;
    causal_conv1d_forward({{x, weight, bias, initial_state, view(offsets), silu, reverse, threads}, out, final_state});
  });
  m.def("causal_conv1d_backward",
        [](Tensor x, Tensor weight, Tensor bias, Tensor initial_state, const std::optional<List>& offsets, bool silu,
           bool reverse, int threads, Tensor dout, Tensor dfinal_state, Tensor dx, Tensor dweight, Tensor dbias,
           Tensor dinitial_state) {
          const py::gil_scoped_release release;
          causal_conv1d_backward({{x, weight, bias, initial_state, view(offsets), silu, reverse, threads},
                                  dout,
                                  dfinal_state,
                                  dx,
                                  dweight,
                                  dbias,
                                  dinitial_state});
        });

  m.def("state_update", [](Tensor state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z,
                           Tensor dt_bias, bool softplus, const List& rows, int threads, Tensor out) {
    const py::gil_scoped_release release;
    state_update({state, x, dt, A, B, C, D, z, dt_bias, softplus, view(rows), threads, out});
  });
  m.def("conv_state_update", [](Tensor x, Tensor state, Tensor weight, Tensor bias, bool silu, const List& positions,
                                const List& rows, int threads, Tensor out) {
    const py::gil_scoped_release release;
    conv_state_update({x, state, weight, bias, silu, view(positions), view(rows), threads, out});
  });
}
