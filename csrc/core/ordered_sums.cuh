// Adds up partial results, always in the same order: several arrays in one launch.
#pragma once
#include "core/device.cuh"
#include "core/launch.cuh"

namespace transmamba::cuda {

// to (outer, inner) are the sums over terms of from (outer, terms, inner), all contiguous.
struct OrderedSum {
  const float* from;
  float* to;
  int64_t outer, terms, inner;
};

constexpr int kSumThreads = 256;

struct OrderedSums {
  static constexpr int kMost = 5;

  OrderedSum sums[kMost];
  int64_t first_block[kMost + 1] = {};
  int count = 0;

  // Many terms are shared out between the warps of a block.
  __host__ __device__ static int parts(int64_t terms) { return terms < 64 ? 1 : kSumThreads / kWarp; }

  // One term is taken to be where it belongs already.
  void add(const OrderedSum& sum) {
    if (!sum.to || sum.terms == 1) return;
    const int64_t width = kSumThreads / parts(sum.terms);
    first_block[count + 1] = first_block[count] + sum.outer * ((sum.inner + width - 1) / width);
    sums[count++] = sum;
  }
};

__global__ void __launch_bounds__(kSumThreads) ordered_sums_kernel(OrderedSums all) {
  float* of_parts = shared_memory<float>();
  int which = 0;
  while (blockIdx.x >= all.first_block[which + 1]) ++which;
  const OrderedSum x = all.sums[which];
  const int parts = OrderedSums::parts(x.terms), width = kSumThreads / parts, part = threadIdx.x / width;
  const int64_t block = blockIdx.x - all.first_block[which], blocks = (x.inner + width - 1) / width;
  const int64_t i = block % blocks * width + threadIdx.x % width;
  const float* from = x.from + block / blocks * x.terms * x.inner + i;
  float sum = 0.0f;
  if (i < x.inner)
#pragma unroll 8
    for (int64_t k = part; k < x.terms; k += parts) sum += from[k * x.inner];
  of_parts[threadIdx.x] = sum;
  __syncthreads();
  if (part > 0 || i >= x.inner) return;
  for (int k = 1; k < parts; ++k) sum += of_parts[k * width + threadIdx.x];
  x.to[block / blocks * x.inner + i] = sum;
}

inline void launch_sums(const OrderedSums& sums, const Stream& stream) {
  launch(ordered_sums_kernel, dim3(unsigned(sums.first_block[sums.count])), dim3(kSumThreads),
         kSumThreads * sizeof(float), stream, sums);
}

}  // namespace transmamba::cuda
