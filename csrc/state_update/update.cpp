#include "core/rows.h"
#include "core/split.h"
#include "core/workspace.h"
#include "state_update/state_update.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

constexpr int64_t kTaskStates = 1 << 16;  // fewest states worth a thread: some twenty microseconds
constexpr int kChannels = 32;             // of a tile: enough vectors to hide what a softplus waits for

template <class T>
constexpr int kVectors = kChannels / kLanes<T>;

// W vectors of states at a time, and where Whole no more than these: then nothing is left of the inner loop. `decay` is
// dt, in log2 units, where A has a value per state, and exp(dt A) where it has one per channel. Sums of C h are left in
// vectors: adding up lanes waits for the whole tile.
template <class T, bool PerState, int W, bool Whole, class S>
static void update_channels(int channels, int64_t states, Rows<S> h, Rows<const T> A, const T* B, const T* C,
                            const T* decay, const T* input, T* sums) {
  constexpr int n = kLanes<T>;
  for (int c = 0; c < channels; ++c) {
    const Vec<T> step = splat(decay[c]), input_c = splat(input[c]);
    S* h_c = h[c];
    const T* A_c = A[c];
    Vec<T> y = splat(T(0));
    for (int64_t i = 0; i < (Whole ? W * n : states); i += W * n) {
      Vec<T> d[W];
      for (int w = 0; w < W; ++w) d[w] = step;
      if constexpr (PerState) {
        for (int w = 0; w < W; ++w) d[w] *= load<T>(A_c + i + w * n);
        exp2<true, W>(d);
      }
      for (int w = 0; w < W; ++w) {
        const int64_t at = i + w * n;
        const Vec<T> h_i = d[w] * load_as<T>(h_c + at) + input_c * load<T>(B + at);
        store_as<T>(h_c + at, h_i);
        y += h_i * load<T>(C + at);
      }
    }
    store<T>(sums + c * n, y);
  }
}

// A tensor as (batch, heads, channels, states); its strides in elements.
struct Field {
  char* data;
  int64_t batch = 0, head = 0, channel = 0, state = 0;
  DType dtype;

  Field(const Tensor& x, bool batched, bool heads, bool states, int64_t head_channels)
      : data(static_cast<char*>(x.data)), dtype(x.dtype) {
    int axis = 0;
    if (batched) batch = x.stride[axis++];
    if (heads) head = x.stride[axis++];
    channel = x.stride[axis++];
    if (!heads) head = head_channels * channel;
    if (states) state = x.stride[axis];
  }
  char* at(int64_t b, int64_t h, int64_t c) const {
    return data + (b * batch + h * head + c * channel) * item_size(dtype);
  }
};

struct Tile {
  int64_t batch, head, channel;  // of its first element
  int channels;

  const char* data(const Field& x) const { return x.at(batch, head, channel); }
};

template <bool Value>
struct Choice {
  static constexpr bool value = Value;
};

template <class T>
struct Update {
  const StateUpdate& u;
  bool with_heads = u.state.rank == 4;
  int64_t batch = u.x.shape[0], states = u.state.shape[u.state.rank - 1];
  int64_t groups = u.B.rank == 3 ? u.B.shape[1] : 1;
  int64_t heads = with_heads ? u.x.shape[1] : groups;
  int64_t channels = with_heads ? u.x.shape[2] : u.x.shape[1] / groups;  // of a head
  int64_t head_tiles = (channels + kChannels - 1) / kChannels, tiles = batch * heads * head_tiles;
  int64_t padded = (states + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  int tasks = 1;
  Field x = per_channel(u.x, true), dt = per_channel(u.dt, true), D = per_channel(u.D, false);
  Field z = per_channel(u.z, true), dt_bias = per_channel(u.dt_bias, false), out = per_channel(u.out, true);
  Field state = per_state(u.state, true), A = per_state(u.A, false);

  Field per_state(const Tensor& x, bool batched) const { return {x, batched, with_heads, true, channels}; }
  Field per_channel(const Tensor& x, bool batched) const { return {x, batched, with_heads, false, channels}; }

  void run() {
    const int64_t worth = batch * heads * channels * states / kTaskStates, most = worth < tiles ? worth : tiles;
    tasks = int(most < 1 ? 1 : most < u.threads ? most : u.threads);
    run_phase<&Update::run_task>(*this, tasks, u.threads);
  }

  void run_task(int task) const {
    Workspace memory(2 * Workspace::bytes<T>(padded) + 2 * Workspace::bytes<T>(kChannels * padded));
    T *B = memory.take<T>(padded), *C = memory.take<T>(padded);
    T *h_rows = memory.take<T>(kChannels * padded), *A_rows = memory.take<T>(kChannels * padded);
    int64_t staged_batch = -1, staged_group = -1;
    for (int64_t i = bound(tiles, task, tasks); i < bound(tiles, task + 1, tasks); ++i) {
      const int64_t b = i / (heads * head_tiles), head = i / head_tiles % heads, first = i % head_tiles * kChannels;
      const int64_t group = head / (heads / groups), rest = channels - first;
      if (b != staged_batch || group != staged_group) {
        stage_group(u.B, b, group, B);
        stage_group(u.C, b, group, C);
        staged_batch = b;
        staged_group = group;
      }
      run_tile({b, head, first, int(rest < kChannels ? rest : kChannels)}, B, C, h_rows, A_rows);
    }
  }

  void run_tile(const Tile& tile, const T* B, const T* C, T* h_rows, T* A_rows) const {
    constexpr int n = kLanes<T>, V = kVectors<T>;
    alignas(64) T buffer[kChannels], decay[kChannels], input[kChannels], sums[kChannels * n];
    const bool per_state = A.state != 0 && states > 1;

    Vec<T> step[V];
    load_tile(dt, tile, step, buffer);
    if (u.dt_bias) {
      Vec<T> bias[V];
      load_tile(dt_bias, tile, bias, buffer);
      for (int v = 0; v < V; ++v) step[v] += bias[v];
    }
    if (u.softplus) softplus<T, false>(step, step);
    Vec<T> x_tile[V], log2_decay[V];
    load_tile(x, tile, x_tile, buffer);
    for (int v = 0; v < V; ++v) store<T>(input + v * n, step[v] * x_tile[v]);
    for (int v = 0; v < V; ++v) log2_decay[v] = step[v] * splat(kLog2E<T>);
    if (!per_state) {
      Vec<T> a[V];
      load_tile(A, tile, a, buffer);
      for (int v = 0; v < V; ++v) log2_decay[v] *= a[v];
      exp2<true, V>(log2_decay);
    }
    for (int v = 0; v < V; ++v) store<T>(decay + v * n, log2_decay[v]);

    if (tile.channels < kChannels) memset(sums, 0, sizeof(sums));
    if (per_state)
      update_tile<true>(tile, B, C, decay, input, sums, h_rows, A_rows);
    else
      update_tile<false>(tile, B, C, decay, input, sums, h_rows, A_rows);
    finish_tile(tile, x_tile, sums, buffer);
  }

  template <bool PerState>
  void update_tile(const Tile& tile, const T* B, const T* C, const T* decay, const T* input, T* sums, T* h_rows,
                   T* A_rows) const {
    constexpr int n = kLanes<T>;
    const int64_t row = u.rows.count ? u.rows.data[tile.batch] : tile.batch;
    char* data = state.at(row, tile.head, tile.channel);
    const bool lies_so = state.state == 1 && states == padded;
    const auto update = [&](auto* h, int64_t stride) {
      Rows<const T> a{A_rows, padded};
      if (PerState && A.state == 1 && A.dtype == kDType<T> && states == padded)
        a = {reinterpret_cast<const T*>(tile.data(A)), A.channel};
      else if (PerState)
        stage_rows(tile.data(A), A, tile.channels, A_rows);
      const Rows h_tile{h, stride};
      const auto run = [&](auto update) { update(tile.channels, padded, h_tile, a, B, C, decay, input, sums); };
      using S = std::remove_pointer_t<decltype(h)>;
      if (padded == n) return run(update_channels<T, PerState, 1, true, S>);
      if (padded == 2 * n) return run(update_channels<T, PerState, 2, true, S>);
      if (padded % (2 * n) == 0) return run(update_channels<T, PerState, 2, false, S>);
      run(update_channels<T, PerState, 1, false, S>);
    };
    if (lies_so && state.dtype == kDType<T>) return update(reinterpret_cast<T*>(data), state.channel);
    if constexpr (sizeof(T) == 4)
      if (lies_so && state.dtype == DType::bf16) return update(reinterpret_cast<Bf16*>(data), state.channel);
    stage_rows(data, state, tile.channels, h_rows);
    update(h_rows, padded);
    for (int c = 0; c < tile.channels; ++c)
      write<T>(h_rows + c * padded, data + c * state.channel * item_size(state.dtype), state.dtype, state.state,
               states);
  }

  // out = (the lanes of sums, added up, + D x) silu(z).
  void finish_tile(const Tile& tile, const Vec<T> (&x_tile)[kVectors<T>], const T* sums, T* buffer) const {
    constexpr int n = kLanes<T>, V = kVectors<T>;
    Vec<T> y[V];
    for (int v = 0; v < V; ++v) {
      Vec<T> lanes[n];
      for (int i = 0; i < n; ++i) lanes[i] = load<T>(sums + (v * n + i) * n);
      transpose<T>(lanes);
      y[v] = lanes[0];
      for (int i = 1; i < n; ++i) y[v] += lanes[i];
    }
    if (u.D) {
      Vec<T> skip[V];
      load_tile(D, tile, skip, buffer);
      for (int v = 0; v < V; ++v) y[v] += skip[v] * x_tile[v];
    }
    if (u.z) {
      Vec<T> gate[V], open[V];
      load_tile(z, tile, gate, buffer);
      for (int v = 0; v < V; ++v) open[v] = gate[v];
      sigmoid<T, V>(open);
      for (int v = 0; v < V; ++v) y[v] *= gate[v] * open[v];
    }
    char* data = out.at(tile.batch, tile.head, tile.channel);
    T* to = fits(out, tile) ? reinterpret_cast<T*>(data) : buffer;
    for (int v = 0; v < V; ++v) store<T>(to + v * n, y[v]);
    if (to == buffer) write<T>(buffer, data, out.dtype, out.channel, tile.channels);
  }

  // Whether the channels of a tile are vectors where they lie.
  static bool fits(const Field& x, const Tile& tile) {
    return x.channel == 1 && x.dtype == kDType<T> && tile.channels == kChannels;
  }
  // One number a channel, zeros beyond the channels.
  static void load_tile(const Field& x, const Tile& tile, Vec<T> (&to)[kVectors<T>], T* buffer) {
    const T* from = reinterpret_cast<const T*>(tile.data(x));
    if (!fits(x, tile)) {
      if (tile.channels < kChannels) memset(buffer, 0, sizeof(T) * kChannels);
      read<T>(from, x.dtype, x.channel, tile.channels, buffer);
      from = buffer;
    }
    for (int v = 0; v < kVectors<T>; ++v) to[v] = load<T>(from + v * kLanes<T>);
  }
  // The states of channels, zeros up to a vector.
  void stage_rows(const char* data, const Field& x, int count, T* to) const {
    memset(to, 0, sizeof(T) * count * padded);
    for (int c = 0; c < count; ++c)
      read<T>(data + c * x.channel * item_size(x.dtype), x.dtype, x.state, states, to + c * padded);
  }
  void stage_group(const Tensor& M, int64_t b, int64_t group, T* to) const {
    const int64_t offset = b * M.stride[0] + (M.rank == 3 ? group * M.stride[1] : 0);
    memset(to, 0, sizeof(T) * padded);
    read<T>(static_cast<char*>(M.data) + offset * item_size(M.dtype), M.dtype, M.stride[M.rank - 1], states, to);
  }
};

}  // namespace

void state_update(const StateUpdate& update) { run_pass<Update>(update); }

}  // namespace transmamba::TRANSMAMBA_ISA
