// Small kernels that show whether the emulation, and what kernels share (core/device.cuh), do what they say.
#include <pybind11/pybind11.h>

#include "binding/tensor_caster.h"
#include "core/device.cuh"
#include "core/launch.cuh"

using namespace transmamba;
using namespace transmamba::cuda;

namespace {

constexpr int kThreads = 64;

template <class T>
T* elements(const Tensor& x) {
  return static_cast<T*>(x.data);
}

// out (5, 64) of x (64): one row per way of asking for another lane's number.
__global__ void shuffle(const float* x, float* out, int delta, int width) {
  const int i = threadIdx.x;
  out[i] = __shfl_sync(kAllLanes, x[i], delta, width);
  out[kThreads + i] = __shfl_up_sync(kAllLanes, x[i], delta, width);
  out[2 * kThreads + i] = __shfl_down_sync(kAllLanes, x[i], delta, width);
  out[3 * kThreads + i] = __shfl_xor_sync(kAllLanes, x[i], delta, width);
  out[4 * kThreads + i] = lane_sum<8>(x[i]);
}

__global__ void vote(const float* x, int* out) { out[threadIdx.x] = int(__ballot_sync(kAllLanes, x[threadIdx.x] > 0)); }

// Turns x round again and again through shared memory, which takes both barriers.
__global__ void turn(float* x, int rounds, bool before, bool after) {
  float* shared = shared_memory<float>();
  const int i = threadIdx.x, n = blockDim.x;
  for (int round = 0; round < rounds; ++round) {
    shared[i] = x[i];
    if (before) __syncthreads();
    x[i] = shared[n - 1 - i] + 1;
    if (after) __syncthreads();
  }
}

__global__ void part_at(int first) {
  if (int(threadIdx.x) < first) {
    __syncthreads();
  } else {
    __syncwarp();
    __syncthreads();
  }
}

__global__ void shuffle_alone(float* x) {
  if (threadIdx.x < 7)
    x[0] = __shfl_xor_sync(kAllLanes, x[0], 1);
  else
    __syncthreads();
}

__global__ void read_shared(float* x, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) x[i] = shared_memory<float>()[i];
}

__global__ void convert(Tensor x, Tensor y) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < x.shape[0]) store(y.data, y.dtype, i, load(x.data, x.dtype, i));
}

template <int K>
__global__ void convert_vectors(Tensor x, Tensor y) {
  const int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * K;
  if (i >= x.shape[0]) return;
  float values[K];
  visit(x.dtype, [&](auto element) { load_vector(static_cast<const decltype(element)*>(x.data) + i, values); });
  visit(y.dtype, [&](auto element) { store_vector(static_cast<decltype(element)*>(y.data) + i, values); });
}

// out (6, n) of x (n): the elementary functions, and the slopes of the last two.
__global__ void evaluate(const float* x, float* out, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = transmamba::cuda::exp2(x[i]);
  out[n + i] = sigmoid(x[i]);
  out[2 * n + i] = silu(x[i]);
  out[3 * n + i] = softplus(x[i]);
  float slope;
  silu(x[i], slope);
  out[4 * n + i] = slope;
  softplus(x[i], slope);
  out[5 * n + i] = slope;
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), int64_t items, size_t shared_bytes, Arguments... arguments) {
  launch(kernel, dim3(unsigned((items + kThreads - 1) / kThreads)), dim3(kThreads), shared_bytes, Stream(),
         arguments...);
}

}  // namespace

PYBIND11_MODULE(_cuda_emulation_probes, m) {
  m.def("shuffle", [](Tensor x, Tensor out, int delta, int width) {
    run(shuffle, kThreads, 0, elements<float>(x), elements<float>(out), delta, width);
  });
  m.def("vote", [](Tensor x, Tensor out) { run(vote, kThreads, 0, elements<float>(x), elements<int>(out)); });
  m.def("turn", [](Tensor x, int rounds, bool before, bool after) {
    run(turn, kThreads, kThreads * sizeof(float), elements<float>(x), rounds, before, after);
  });
  m.def("part_at", [](int first) { run(part_at, kThreads, 0, first); });
  m.def("shuffle_alone", [](Tensor x) { run(shuffle_alone, kThreads, 0, elements<float>(x)); });
  m.def("read_shared",
        [](Tensor x, int count, size_t bytes) { run(read_shared, kThreads, bytes, elements<float>(x), count); });
  m.def("convert", [](Tensor x, Tensor y) { run(convert, x.shape[0], 0, x, y); });
  m.def("convert_vectors", [](Tensor x, Tensor y, int k) {
    run(k == 4 ? convert_vectors<4> : convert_vectors<8>, x.shape[0] / k, 0, x, y);
  });
  m.def("evaluate", [](Tensor x, Tensor out) {
    run(evaluate, x.shape[0], 0, elements<float>(x), elements<float>(out), x.shape[0]);
  });
  m.def("on_device", [](Tensor x, int device) {
    launch(read_shared, dim3(1), dim3(32), 0, Stream{device, 0}, elements<float>(x), 0);
  });
}
