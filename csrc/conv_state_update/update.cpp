#include "conv_state_update/conv_state_update.h"
#include "core/rows.h"
#include "core/split.h"
#include "core/workspace.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

constexpr int64_t kTaskTaps = 1 << 16;  // fewest products worth a thread: some twenty microseconds
constexpr int kSteps = 64;              // tokens at a time
constexpr int kChannels = 32;           // of a tile: enough vectors to hide what a silu waits for

// One token in the common layout, with W and S known: the compiler makes vectors of it, channels side by side.
template <int W, int S, class T>
static void shift(int count, const T* __restrict x, const T* __restrict weight, const T* __restrict bias,
                  T* __restrict state, T* __restrict out) {
  for (int c = 0; c < count; ++c) {
    T seen[S + 1], p = bias[c];
    for (int s = 0; s < S; ++s) seen[s] = state[c * S + s];
    seen[S] = x[c];
    for (int k = 0; k < W; ++k) p += weight[c * W + k] * seen[S + 1 - W + k];
    for (int s = 0; s < S; ++s) state[c * S + s] = seen[s + 1];
    out[c] = p;
  }
}

template <class T>
struct Update {
  const ConvStateUpdate& u;
  int64_t batch = u.x.shape[0], channels = u.x.shape[1], length = u.x.rank == 3 ? u.x.shape[2] : 1;
  int64_t entries = u.state.shape[2];
  int width = int(u.weight.shape[1]), past = width - 1;  // tokens that an output sees besides its own
  bool common = u.positions.count == 0 && length == 1 && width >= 2 && width <= 4 &&
                (entries == width || entries == past) && lies_close(u.state, 1) && lies_close(u.weight, 0);
  int64_t tiles = (channels + kChannels - 1) / kChannels;
  int tasks = 1;

  void run() {
    const int64_t worth = batch * channels * length * width / kTaskTaps, total = batch * tiles;
    const int64_t most = worth < total ? worth : total;
    tasks = int(most < 1 ? 1 : most < u.threads ? most : u.threads);
    run_phase<&Update::run_task>(*this, tasks, u.threads);
  }

  void run_task(int task) const {
    const int64_t rows = (past + kSteps) * kChannels;
    Workspace memory(Workspace::bytes<T>(width * kChannels) + 2 * Workspace::bytes<T>(rows));
    T *weight = memory.take<T>(width * kChannels), *seen = memory.take<T>(rows), *out = memory.take<T>(rows);
    // Batch entries inside where weights are packed: once a tile.
    int64_t packed = -1;
    for (int64_t i = bound(batch * tiles, task, tasks); i < bound(batch * tiles, task + 1, tasks); ++i) {
      const int64_t b = common ? i / tiles : i % batch, channel = (common ? i % tiles : i / batch) * kChannels;
      const int64_t rest = channels - channel;
      const int count = int(rest < kChannels ? rest : kChannels);
      if (channel != packed && !common) columns(channels_of(u.weight, channel), 0, width, count, weight);
      packed = channel;
      run_tile(b, channel, count, weight, seen, out);
    }
  }

  void run_tile(int64_t b, int64_t channel, int count, const T* weight, T* seen, T* out) const {
    const int64_t row = u.rows.count ? u.rows.data[b] : b;
    const Plane state = at(u.state, row, channel), x = at(u.x, b, channel), to = at(u.out, b, channel);
    alignas(64) T bias[kChannels] = {};
    if (u.bias) columns(channels_of(u.bias, channel), 0, 1, count, bias);
    if (common) {
      columns(x, 0, 1, count, seen);
      shift_tile(count, seen, channel, bias, reinterpret_cast<T*>(state.data), out);
      if (u.silu) activate(1, out);
      return write_column(out, to, 0, count);
    }

    const int64_t position = u.positions.count ? u.positions.data[b] % entries : 0;
    for (int k = 0; k < past; ++k) {
      const int64_t entry = u.positions.count ? (position + entries + k - past) % entries : entries - past + k;
      columns(state, entry, 1, count, seen + k * kChannels);
    }
    for (int64_t t = 0; t < length; t += kSteps) {
      const int steps = int(length - t < kSteps ? length - t : kSteps);
      columns(x, t, steps, count, seen + past * kChannels);
      convolve(steps, seen, weight, bias, out);
      if (u.silu) activate(steps, out);
      if (t == 0) keep(state, x, position, count);
      for (int s = 0; s < steps; ++s) write_column(out + s * kChannels, to, t + s, count);
      memmove(seen, seen + steps * kChannels, sizeof(T) * past * kChannels);
    }
  }

  void shift_tile(int count, const T* x, int64_t channel, const T* bias, T* state, T* out) const {
    const T* weight = reinterpret_cast<const T*>(channels_of(u.weight, channel).data);
    const bool whole = entries == width;
    switch (width) {
      case 2: return (whole ? shift<2, 2, T> : shift<2, 1, T>)(count, x, weight, bias, state, out);
      case 3: return (whole ? shift<3, 3, T> : shift<3, 2, T>)(count, x, weight, bias, state, out);
      case 4: return (whole ? shift<4, 4, T> : shift<4, 3, T>)(count, x, weight, bias, state, out);
    }
  }

  void convolve(int steps, const T* seen, const T* weight, const T* bias, T* out) const {
    constexpr int n = kLanes<T>, V = kChannels / n;
    for (int t = 0; t < steps; ++t) {
      Vec<T> y[V];
      for (int v = 0; v < V; ++v) y[v] = load<T>(bias + v * n);
      for (int k = 0; k < width; ++k)
        for (int v = 0; v < V; ++v)
          y[v] += load<T>(weight + k * kChannels + v * n) * load<T>(seen + (t + k) * kChannels + v * n);
      for (int v = 0; v < V; ++v) store<T>(out + t * kChannels + v * n, y[v]);
    }
  }

  static void activate(int rows, T* out) {
    constexpr int n = kLanes<T>, V = kChannels / n;
    for (int r = 0; r < rows; ++r, out += kChannels) {
      Vec<T> gate[V];
      for (int v = 0; v < V; ++v) gate[v] = load<T>(out + v * n);
      sigmoid<T, V>(gate);
      for (int v = 0; v < V; ++v) store<T>(out + v * n, gate[v] * load<T>(out + v * n));
    }
  }

  // The new tokens go into the state.
  void keep(const Plane& state, const Plane& x, int64_t position, int count) const {
    alignas(64) T column[kChannels];
    const auto move = [&](const Plane& from, int64_t source, int64_t target) {
      columns(from, source, 1, count, column);
      write_column(column, state, target, count);
    };
    if (u.positions.count) {
      for (int64_t t = length < entries ? 0 : length - entries; t < length; ++t) move(x, t, (position + t) % entries);
      return;
    }
    for (int64_t s = 0; s < entries; ++s) {
      const int64_t source = s + length;  // in (state, x)
      source < entries ? move(state, source, s) : move(x, source - entries, s);
    }
  }

  static Plane at(const Tensor& x, int64_t b, int64_t channel) {
    const int64_t offset = b * x.stride[0] + channel * x.stride[1];
    return {static_cast<char*>(x.data) + offset * item_size(x.dtype), x.stride[1], x.rank == 3 ? x.stride[2] : 0,
            x.dtype};
  }
  static Plane channels_of(const Tensor& x, int64_t channel) {
    return {static_cast<char*>(x.data) + channel * x.stride[0] * item_size(x.dtype), x.stride[0],
            x.rank == 2 ? x.stride[1] : 0, x.dtype};
  }
  // (channels, taps or entries) of the compute type without gaps.
  static bool lies_close(const Tensor& x, int axis) {
    return x.dtype == kDType<T> && x.stride[axis + 1] == 1 && x.stride[axis] == x.shape[axis + 1];
  }
  // Rows of kChannels channels, zeros beyond them.
  static void columns(const Plane& x, int64_t first, int64_t rows, int count, T* to) {
    if (count < kChannels) memset(to, 0, sizeof(T) * rows * kChannels);
    for (int64_t r = 0; r < rows; ++r) read<T>(x.at(0, first + r).data, x.dtype, x.channel, count, to + r * kChannels);
  }
  static void write_column(const T* from, const Plane& x, int64_t step, int count) {
    write<T>(from, x.at(0, step).data, x.dtype, x.channel, count);
  }
};

}  // namespace

void conv_state_update(const ConvStateUpdate& update) { run_pass<Update>(update); }

}  // namespace transmamba::TRANSMAMBA_ISA
