// Kernels of the causal convolution.
//
// A block takes a tile of 32 channels and 64 tokens through shared memory. The filter is kept as the taps m = 0 ... W-1
// that meet the tokens in the order in which they lie in memory, so that both directions are one loop:
//
//   p of row r = bias + sum_m tap_m seen[r + m]          the first row of seen is W - 1 tokens before that of r, or,
//   d(seen) of row s = sum_m tap_{W-1-m} g[s + m]        in reverse, the same token; for g the other way round
//
// Rows near the ends of their sequence, where some of that belongs to the states or to nobody, go tap by tap.
#pragma once
#include "causal_conv1d/conv_tile.cuh"

namespace transmamba::cuda {

// What a thread needs to run the filter over one channel of tiles.
struct ConvFilter {
  const CausalConv1d& conv;
  int width, lane;
  int64_t channel;
  const float* taps;    // [W][32]
  const ConvRow* rows;  // of the outputs
  const float* seen;    // [row][pitch]
  float bias;

  __device__ ConvFilter(const CausalConv1d& conv, int64_t first_channel, const float* taps, const ConvRow* rows,
                        const float* seen)
      : conv(conv),
        width(int(conv.weight.shape[1])),
        lane(threadIdx.x % kWarp),
        channel(first_channel + lane),
        taps(taps),
        rows(rows),
        seen(seen),
        bias(0) {
    if (given(conv.bias) && exists()) bias = load(conv.bias.data, conv.bias.dtype, channel * conv.bias.stride[0]);
  }

  __device__ bool exists() const { return channel < conv.x.shape[1]; }
  // How many steps back tap m looks.
  __device__ int back(int m) const { return conv.reverse ? m : width - 1 - m; }

  __device__ float seen_by(int row, int m) const {
    const ConvRow at = rows[row];
    const int j = back(m);
    if (j <= at.before) return seen[(row + m) * kConvPitch + lane];
    return exists() ? state_at(conv.initial_state, at.sequence, channel, at.before + width - 1 - j) : 0.0f;
  }
  __device__ bool all_in_tile(int row) const {
    bool inside = true;
    for (int i = row; i < row + kConvRun; ++i) inside = inside && rows[i].sequence >= 0 && rows[i].before == width - 1;
    return inside;
  }

  // p of the rows from `row` on. The same for all lanes but in its channel: no lane goes another way.
  __device__ void run(int row, float (&p)[kConvRun]) const {
#pragma unroll
    for (int i = 0; i < kConvRun; ++i) p[i] = bias;
    if (all_in_tile(row)) return correlate<1>(seen + row * kConvPitch + lane, taps + lane, width, p);
#pragma unroll 1
    for (int i = 0; i < kConvRun; ++i) {
      if (rows[row + i].sequence < 0) continue;
      float sum = bias;
#pragma unroll 1
      for (int m = 0; m < width; ++m) sum += taps[m * kWarp + lane] * seen_by(row + i, m);
      put(sum, i, p);
    }
  }

  // values[i] = x, without indexing registers by a number that is not constant.
  static __device__ __forceinline__ void put(float x, int i, float (&values)[kConvRun]) {
#pragma unroll
    for (int j = 0; j < kConvRun; ++j) values[j] = i == j ? x : values[j];
  }

  // sums_i += sum_m tap[m] x[i + m], the taps upwards or downwards (Direction 1 or -1) from `tap`.
  template <int Direction>
  static __device__ __forceinline__ void correlate(const float* x, const float* tap, int width,
                                                   float (&sums)[kConvRun]) {
    for (int m = 0; m < width; m += kConvTaps) {
      float window[kConvRun + kConvTaps - 1], taps[kConvTaps];
#pragma unroll
      for (int i = 0; i < kConvRun + kConvTaps - 1; ++i)
        window[i] = m + i < width + kConvRun - 1 ? x[(m + i) * kConvPitch] : 0.0f;
#pragma unroll
      for (int j = 0; j < kConvTaps; ++j) taps[j] = m + j < width ? tap[Direction * (m + j) * kWarp] : 0.0f;
#pragma unroll
      for (int j = 0; j < kConvTaps; ++j)
        if (m + j < width) {
#pragma unroll
          for (int i = 0; i < kConvRun; ++i) sums[i] += taps[j] * window[i + j];
        }
    }
  }
};

// -- a block's part of the work, and of its shared memory
// ---------------------------------------------------------------

__host__ __device__ constexpr int conv_whole_runs(int rows) { return (rows + kConvRun - 1) / kConvRun * kConvRun; }

struct ConvBlock {
  int64_t batch, token, channel;
  unsigned part;  // counts batch entries and stretches of tokens
};
// Channels go first, so that blocks that run together share rows of memory.
__device__ __forceinline__ ConvBlock conv_block(const CausalConv1d& conv, int64_t tokens) {
  const unsigned across = unsigned((conv.x.shape[1] - 1) / kConvChannels) + 1;
  const unsigned along = unsigned((conv.x.shape[2] - 1) / unsigned(tokens)) + 1;
  const unsigned part = blockIdx.x / across;
  return {part / along, int64_t(part % along) * tokens, int64_t(blockIdx.x % across) * kConvChannels, part};
}

__device__ __forceinline__ void read_taps(const CausalConv1d& conv, int64_t channel, float* taps) {
  const int width = int(conv.weight.shape[1]);
  for (int i = threadIdx.x; i < width * kWarp; i += kConvThreads) {
    const int m = i / kWarp, lane = i % kWarp;
    const int64_t k = conv.reverse ? width - 1 - m : m;
    taps[i] = channel + lane >= conv.x.shape[1]
                  ? 0.0f
                  : load(conv.weight.data, conv.weight.dtype,
                         (channel + lane) * conv.weight.stride[0] + k * conv.weight.stride[1]);
  }
}

// -- forward
// --------------------------------------------------------------------------------------------------------------

inline size_t conv_forward_bytes(int width) {
  return sizeof(float) * ((2 * kConvTokens + width - 1) * kConvPitch + width * kWarp) + sizeof(ConvRow) * kConvTokens;
}

__global__ void __launch_bounds__(kConvThreads) causal_conv1d_forward_kernel(CausalConv1dForward conv) {
  const int width = int(conv.weight.shape[1]);
  const ConvBlock block = conv_block(conv, kConvTokens);
  ConvRow* rows = shared_memory<ConvRow>();
  float* taps = reinterpret_cast<float*>(rows + kConvTokens);
  const int64_t first_seen = conv.reverse ? block.token : block.token - (width - 1);
  const ConvTile seen = {taps + width * kWarp, block.batch, first_seen, block.channel, kConvTokens + width - 1};
  const ConvTile out = {seen.data + seen.rows * kConvPitch, block.batch, block.token, block.channel, kConvTokens};

  read_tile(seen, conv.x);
  read_taps(conv, block.channel, taps);
  if (threadIdx.x < kConvTokens) rows[threadIdx.x] = conv_row(conv, block.batch, block.token + threadIdx.x);
  __syncthreads();
  const ConvFilter filter(conv, block.channel, taps, rows, seen.data);
  for (int row = threadIdx.x / kWarp * kConvRun; row < kConvTokens; row += kConvWarps * kConvRun) {
    float p[kConvRun];
    filter.run(row, p);
#pragma unroll
    for (int i = 0; i < kConvRun; ++i) out.data[(row + i) * kConvPitch + filter.lane] = conv.silu ? silu(p[i]) : p[i];
  }
  __syncthreads();
  write_tile(out, conv.out);
}

// -- backward
// -------------------------------------------------------------------------------------------------------------

inline size_t conv_backward_bytes(int width) {
  const int rows = conv_whole_runs(kConvTokens + width - 1);
  const int sums = (width + 1) * kConvThreads;
  return sizeof(float) * ((2 * rows + width - 1) * kConvPitch + width * kWarp + sums) + sizeof(ConvRow) * rows;
}

// sums[m][thread] += what the run of rows from `row` on gives to d(tap m), and for m = W to d(bias).
__device__ __forceinline__ void add_products(const ConvFilter& filter, int row, const float* g, float* sums) {
  float d[kConvRun], total = 0.0f;
#pragma unroll
  for (int i = 0; i < kConvRun; ++i) total += d[i] = g[(row + i) * kConvPitch + filter.lane];
  sums[filter.width * kConvThreads] += total;
  const float* x = filter.seen + row * kConvPitch + filter.lane;
  if (filter.all_in_tile(row)) {
    for (int m = 0; m < filter.width; ++m) {
      float product = 0.0f;
#pragma unroll
      for (int i = 0; i < kConvRun; ++i) product += d[i] * x[(m + i) * kConvPitch];
      sums[m * kConvThreads] += product;
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kConvRun; ++i) {
    if (filter.rows[row + i].sequence < 0) continue;
    const float gi = g[(row + i) * kConvPitch + filter.lane];
#pragma unroll 1
    for (int m = 0; m < filter.width; ++m) sums[m * kConvThreads] += gi * filter.seen_by(row + i, m);
  }
}

// d(x) of the run of the block's own tokens from s on; `own` is the row of the first.
__device__ __forceinline__ void input_gradients(const ConvFilter& filter, const Tensor& dfinal_state, int s, int own,
                                                const float* g, float (&dx)[kConvRun]) {
  const int past = filter.width - 1;
  const ConvRow* rows = filter.rows + own + s;
  const float* later = g + s * kConvPitch + filter.lane;
  const float* last_tap = filter.taps + past * kWarp + filter.lane;
  bool all = true;
#pragma unroll
  for (int i = 0; i < kConvRun; ++i) {
    all = all && rows[i].sequence >= 0 && rows[i].after == past;
    dx[i] = 0.0f;
  }
  if (all) return ConvFilter::correlate<-1>(later, last_tap, filter.width, dx);
#pragma unroll 1
  for (int i = 0; i < kConvRun; ++i) {
    const ConvRow row = rows[i];
    if (row.sequence < 0 || !filter.exists()) continue;
    float sum = 0.0f;
#pragma unroll 1
    for (int m = 0; m <= past; ++m)
      if (past - filter.back(m) <= row.after) sum += last_tap[-m * kWarp] * later[(i + m) * kConvPitch];
    if (row.after < past) sum += state_at(dfinal_state, row.sequence, filter.channel, past - 1 - row.after);
    ConvFilter::put(sum, i, dx);
  }
}

// A block takes `tiles` tiles of tokens one after the other: so many sums over tokens are one part. With room for more
// than four blocks at a time the compiler would spill registers on some GPUs.
__global__ void __launch_bounds__(kConvThreads, 4) causal_conv1d_backward_kernel(CausalConv1dBackward conv, int tiles) {
  const int width = int(conv.weight.shape[1]), past = width - 1;
  const int row_count = kConvTokens + past, whole = conv_whole_runs(row_count);
  const int own = conv.reverse ? past : 0;  // the first of the rows of g that are the block's own
  const int thread = threadIdx.x, first_run = thread / kWarp * kConvRun, next_run = kConvWarps * kConvRun;
  const ConvBlock block = conv_block(conv, kConvTokens * tiles);

  ConvRow* rows = shared_memory<ConvRow>();
  float* taps = reinterpret_cast<float*>(rows + whole);
  float* sums = taps + width * kWarp;  // [W + 1][thread]
  ConvTile g = {sums + (width + 1) * kConvThreads, block.batch, 0, block.channel, row_count};
  ConvTile seen = {g.data + whole * kConvPitch, block.batch, 0, block.channel, row_count + past};
  read_taps(conv, block.channel, taps);
  for (int m = 0; m <= width; ++m) sums[m * kConvThreads + thread] = 0.0f;

  const int64_t end = min(conv.x.shape[2], block.token + kConvTokens * tiles);
  for (int64_t token = block.token; token < end; token += kConvTokens) {
    g.first = token - own;
    seen.first = token - past;
    __syncthreads();
    read_tile(seen, conv.x);
    read_tile(g, conv.dout);
    for (int row = thread; row < whole; row += kConvThreads)
      rows[row] = row < row_count ? conv_row(conv, block.batch, g.first + row) : ConvRow{-1, 0, 0};
    __syncthreads();

    const ConvFilter filter(conv, block.channel, taps, rows, seen.data);
    for (int row = first_run; row < whole; row += next_run) {
      float p[kConvRun];
      if (conv.silu) filter.run(row, p);
#pragma unroll
      for (int i = 0; i < kConvRun; ++i) {
        float& cell = g.data[(row + i) * kConvPitch + filter.lane];
        float slope = 1.0f;
        if (conv.silu) silu(p[i], slope);
        cell = rows[row + i].sequence >= 0 && filter.exists() ? cell * slope : 0.0f;
      }
    }
    __syncthreads();
    if (given(conv.partial))
      for (int s = first_run; s < kConvTokens; s += next_run) add_products(filter, own + s, g.data, sums + thread);
    if (!given(conv.dx)) continue;
    __syncthreads();
    const ConvTile dx = {seen.data, block.batch, token, block.channel, kConvTokens};  // nobody needs seen any more
    for (int s = first_run; s < kConvTokens; s += next_run) {
      float values[kConvRun];
      input_gradients(filter, conv.dfinal_state, s, own, g.data, values);
#pragma unroll
      for (int i = 0; i < kConvRun; ++i) dx.data[(s + i) * kConvPitch + filter.lane] = values[i];
    }
    __syncthreads();
    write_tile(dx, conv.dx);
  }

  if (!given(conv.partial)) return;
  __syncthreads();
  const int64_t channels = conv.x.shape[1];
  for (int i = thread; i < (width + 1) * kWarp; i += kConvThreads) {
    const int m = i / kWarp, lane = i % kWarp, k = m == width || !conv.reverse ? m : past - m;
    float sum = 0.0f;
    for (int w = 0; w < kConvWarps; ++w) sum += sums[m * kConvThreads + w * kWarp + lane];
    if (block.channel + lane < channels)
      static_cast<float*>(
          conv.partial.data)[(int64_t(block.part) * (width + 1) + k) * channels + block.channel + lane] = sum;
  }
}

}  // namespace transmamba::cuda
