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
                          int threads) {
  return {u, delta, A, B, C, D, z, delta_bias, initial_state, view(offsets), softplus, reverse, threads};
}

using Eight = std::array<Tensor, 8>;  // the tensors of one direction, or their gradients

std::vector<Direction> as_directions(const std::vector<Eight>& tensors) {
  std::vector<Direction> directions;
  for (const auto& [u, delta, A, B, C, D, delta_bias, initial_state] : tensors)
    directions.push_back({u, delta, A, B, C, D, delta_bias, initial_state});
  return directions;
}
std::vector<DirectionGradients> as_gradients(const std::vector<Eight>& tensors) {
  std::vector<DirectionGradients> gradients;
  for (const auto& [du, ddelta, dA, dB, dC, dD, ddelta_bias, dinitial_state] : tensors)
    gradients.push_back({du, ddelta, dA, dB, dC, dD, ddelta_bias, dinitial_state});
  return gradients;
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
           Tensor out, Tensor last_state, Tensor checkpoints) {
          const py::gil_scoped_release release;
          selective_scan_forward(
              {scan_inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, threads),
               out, last_state, checkpoints});
        });
  m.def("selective_scan_backward",
        [](Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias,
           Tensor initial_state, const std::optional<List>& offsets, bool softplus, bool reverse, int threads,
           Tensor checkpoints, Tensor dout, Tensor dlast_state, Tensor du, Tensor ddelta, Tensor dA, Tensor dB,
           Tensor dC, Tensor dD, Tensor dz, Tensor ddelta_bias, Tensor dinitial_state) {
          const py::gil_scoped_release release;
          selective_scan_backward(
              {scan_inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, threads),
               checkpoints, dout, dlast_state, du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state});
        });

  m.attr("max_directions") = kMaxDirections;
  m.attr("whole_sequence") = kWholeSequence;
  m.def("multi_scan_forward",
        [](const std::vector<Eight>& tensors, Tensor z, Tensor orders, bool softplus, bool permute_params, bool shared,
           int threads, Tensor out, Tensor last_state, Tensor checkpoints) {
          const py::gil_scoped_release release;
          const std::vector<Direction> directions = as_directions(tensors);
          multi_scan_forward(
              {{directions.data(), int(directions.size()), z, orders, softplus, permute_params, shared, threads},
               out,
               last_state,
               checkpoints});
        });
  m.def("multi_scan_backward", [](const std::vector<Eight>& tensors, Tensor z, Tensor orders, bool softplus,
                                  bool permute_params, bool shared, int threads, Tensor checkpoints, Tensor dout,
                                  Tensor dlast_state, Tensor dz, const std::vector<Eight>& gradient_tensors) {
    const py::gil_scoped_release release;
    const std::vector<Direction> directions = as_directions(tensors);
    const std::vector<DirectionGradients> gradients = as_gradients(gradient_tensors);
    multi_scan_backward(
        {{directions.data(), int(directions.size()), z, orders, softplus, permute_params, shared, threads},
         checkpoints,
         dout,
         dlast_state,
         dz,
         gradients.data()});
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
