// The tensors of a selective scan as its CUDA kernels take them: plain structs, by value.
//
// Every element of every tensor is found from (batch, group, channel, state, row): a dimension that a tensor does not
// have is a stride of 0. So what is shared, constant or packed is no case of its own in a kernel. Rows are positions in
// memory along the length; steps, the direction of time, are mapped on to them by scan_tile.cuh.
#pragma once
#include "core/tensor.h"
#include "selective_scan/cuda.h"

namespace transmamba::cuda {

struct View {
  char* data = nullptr;                                           // null: not given
  int64_t batch = 0, group = 0, channel = 0, state = 0, row = 0;  // strides in elements
  DType dtype = DType::f32;
};

// What both passes read, and how they walk over it.
struct ScanViews {
  View u, delta, A, B, C, D, z, delta_bias, initial_state;
  const int32_t* offsets;  // of packed sequences, one more than there are; or null
  const int32_t* order;    // the row of every step; or null
  int64_t batch, channels, length, states, groups, sequences;
  bool softplus, reverse, permute_params;
  bool channel_B, channel_C;    // (E, N): one value a channel, none a row
  bool constant_B, constant_C;  // the same in every row
};

// Without strides.
inline View view_of(const Tensor& x) {
  View view;
  view.data = static_cast<char*>(x.data);
  view.dtype = x.dtype;
  return view;
}

// (b, E, L), such as u.
inline View token_view(const Tensor& x) {
  View view = view_of(x);
  if (!x) return view;
  view.batch = x.stride[0];
  view.channel = x.stride[1];
  view.row = x.stride[2];
  return view;
}

// B or C: (b, N, L or 1), (b, G or 1, N, L or 1) or (E, N).
inline View coefficient_view(const Tensor& x) {
  View view = view_of(x);
  if (x.rank == 2) {
    view.channel = x.stride[0];
    view.state = x.stride[1];
    return view;
  }
  const int n = x.rank - 2;
  view.batch = x.stride[0];
  if (n == 2 && x.shape[1] > 1) view.group = x.stride[1];
  view.state = x.stride[n];
  if (x.shape[n + 1] > 1) view.row = x.stride[n + 1];
  return view;
}

// (E) or (b, E), such as D.
inline View channel_view(const Tensor& x) {
  View view = view_of(x);
  if (!x) return view;
  view.channel = x.stride[x.rank - 1];
  if (x.rank == 2 && x.shape[0] > 1) view.batch = x.stride[0];
  return view;
}

// (E, N) or (b or sequences, E, N), such as A or initial_state.
inline View state_view(const Tensor& x) {
  View view = view_of(x);
  if (!x) return view;
  view.channel = x.stride[x.rank - 2];
  view.state = x.stride[x.rank - 1];
  if (x.rank == 3) view.batch = x.stride[0];
  return view;
}

inline ScanViews scan_views(const SelectiveScan& s) {
  ScanViews views{};
  views.u = token_view(s.u);
  views.delta = token_view(s.delta);
  views.A = state_view(s.A);
  views.B = coefficient_view(s.B);
  views.C = coefficient_view(s.C);
  views.D = channel_view(s.D);
  views.z = token_view(s.z);
  views.delta_bias = channel_view(s.delta_bias);
  views.initial_state = state_view(s.initial_state);
  views.offsets = s.offsets ? static_cast<const int32_t*>(s.offsets.data) : nullptr;
  views.order = s.order ? static_cast<const int32_t*>(s.order.data) : nullptr;
  views.batch = s.u.shape[0];
  views.channels = s.u.shape[1];
  views.length = s.u.shape[2];
  views.states = s.A.shape[1];
  views.groups = 1;
  if (s.B.rank == 4) views.groups = s.B.shape[1];
  if (s.C.rank == 4 && s.C.shape[1] > views.groups) views.groups = s.C.shape[1];
  views.sequences = s.offsets ? s.offsets.shape[0] - 1 : views.batch;
  views.softplus = s.softplus;
  views.reverse = s.reverse;
  views.permute_params = s.permute_params;
  views.channel_B = s.B.rank == 2;
  views.channel_C = s.C.rank == 2;
  views.constant_B = views.B.row == 0;
  views.constant_C = views.C.row == 0;
  return views;
}

// Contiguous (places, E, N) in float32, such as checkpoints; or null.
inline View contiguous_states(void* data, const ScanViews& s) {
  View view;
  view.data = static_cast<char*>(data);
  view.batch = s.channels * s.states;
  view.channel = s.states;
  view.state = 1;
  return view;
}

}  // namespace transmamba::cuda
