#include <algorithm>

#include "core/launch.cuh"
#include "state_update/cuda.h"
#include "state_update/kernel.cuh"

namespace transmamba::cuda {
namespace {

// A view with an axis of one more, in front of axis `axis`.
Tensor with_axis(Tensor x, int axis) {
  if (!x) return x;
  for (int i = x.rank; i > axis; --i) {
    x.shape[i] = x.shape[i - 1];
    x.stride[i] = x.stride[i - 1];
  }
  x.shape[axis] = 1;
  x.stride[axis] = 0;
  ++x.rank;
  return x;
}

// Channels without heads are heads of one channel each.
StateUpdate with_heads(StateUpdate s) {
  if (s.state.rank == 3) {
    s.state = with_axis(s.state, 2);
    for (Tensor* x : {&s.x, &s.dt, &s.z, &s.out}) *x = with_axis(*x, 2);
    for (Tensor* x : {&s.A, &s.D, &s.dt_bias}) *x = with_axis(*x, 1);
  }
  for (Tensor* x : {&s.B, &s.C})
    if (x->rank == 2) *x = with_axis(*x, 1);
  return s;
}

template <int K, int Lanes>
void run(const StateUpdate& s, Stream stream) {
  constexpr int64_t kChannels = kStateUpdateThreads / Lanes;
  const int64_t channels = s.A.shape[0] * s.A.shape[1], batch = s.x.shape[0];
  const int64_t rows = std::min<int64_t>(batch, 65535);
  const dim3 grid(unsigned((channels + kChannels - 1) / kChannels), unsigned(rows),
                  unsigned((batch + rows - 1) / rows));
  launch(state_update_kernel<K, Lanes>, grid, dim3(kStateUpdateThreads), 0, stream, s);
}

}  // namespace

void state_update(const StateUpdate& step, Stream stream) {
  const StateUpdate s = with_heads(step);
  const int64_t states = s.A.shape[2];
  if (states == 1) return run<1, 1>(s, stream);
  if (states <= 4) return run<4, 1>(s, stream);
  // A thread reads 16 bytes of the state at a time.
  if (item_size(s.state.dtype) == 4) {
    if (states <= 16) return run<4, 4>(s, stream);
    if (states <= 64) return run<4, 16>(s, stream);
    return run<4, 32>(s, stream);
  }
  if (states <= 16) return run<8, 2>(s, stream);
  if (states <= 64) return run<8, 8>(s, stream);
  run<8, 16>(s, stream);
}

}  // namespace transmamba::cuda
