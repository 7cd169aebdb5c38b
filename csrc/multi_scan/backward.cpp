#include "multi_scan/walks.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct MultiBackward {
  const MultiScanBackward& scan;
  Walks<T> walks{scan, scan.dout.rank == 3, bool(scan.checkpoints)};
  Split split{walks.size().batch, walks.size().tiles, scan.threads};
  bool add_u = scan.count > 1 && scan.gradients[0].du&& scan.gradients[0].du.data == scan.gradients[1].du.data;
  bool add_delta =
      scan.count > 1 && scan.gradients[0].ddelta&& scan.gradients[0].ddelta.data == scan.gradients[1].ddelta.data;
  const int32_t* straight = nullptr;
  ScanSums<T> totals[kMaxDirections];  // of every set of parameters

  struct Scratch {
    T *u, *delta, *z, *dout, *du, *ddelta, *dz;  // [length][kTile], where the tensors do not lie so themselves
    T *g, *y;                                    // [outputs][length][kTile], in the order of the tokens
    WindowRows<T> rows;
    T *decays, *states, *lambda_B, *lambda_A, *window_g, *window_y, *window_B, *window_C;
    T *dB, *dC;          // partial sums, [states / kStates][window][kStates][lanes], by source
    T* starts;           // [windows][padded_states][kTile] by direction: the states the windows start from
    T *adjoint, *B, *C;  // of every direction
  };

  void run() {
    const int sets = scan.shared ? 1 : scan.count;
    int64_t bytes = Workspace::bytes<int32_t>(walks.length);
    for (int k = 0; k < sets; ++k) {
      totals[k] = ScanSums<T>(walks.sizes[k], split, scan.directions[k].B, scan.directions[k].C, scan.gradients[k]);
      bytes += totals[k].bytes();
    }
    Workspace memory(bytes);
    int32_t* list = memory.take<int32_t>(walks.length);
    for (int64_t t = 0; t < walks.length; ++t) list[t] = int32_t(t);
    straight = list;
    for (int k = 0; k < sets; ++k) totals[k].take(memory);
    run_tasks(
        split.tasks(), scan.threads,
        [](int task, void* self) {
          const FlushSubnormals flush;
          static_cast<const MultiBackward*>(self)->run_task(task);
        },
        this);
    for (int k = 0; k < sets; ++k) totals[k].add_up();
  }

  void run_task(int task) const {
    constexpr int W = kLanes<T>;
    const Sizes<T>& s = walks.size();
    const int slice = task / split.parts, part = task % split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t all = walks.length * kTile, one = walks.window * kTile, states = s.padded_states,
                  block = walks.window * kChains<T> * W, size = s.tile_states();
    const int64_t partial = walks.window * states * W, staged = walks.sources * walks.length * states;
    int64_t bytes = 7 * Workspace::bytes<T>(all) + 2 * Workspace::bytes<T>(walks.outputs * all) +
                    7 * Workspace::bytes<T>(one) + Workspace::bytes<T>(block) +
                    Workspace::bytes<T>(block + kChains<T> * W) + 2 * Workspace::bytes<T>(walks.window * states) +
                    2 * Workspace::bytes<T>(walks.sources * partial) + 2 * Workspace::bytes<T>(staged) +
                    2 * Workspace::bytes<T>(scan.count * size);
    for (int k = 0; k < walks.sources; ++k) bytes += Parameters<T>::bytes(walks.sizes[k], end - first);
    Workspace memory(bytes);
    Scratch scratch;
    for (T** rows : {&scratch.u, &scratch.delta, &scratch.z, &scratch.dout, &scratch.du, &scratch.ddelta, &scratch.dz})
      *rows = memory.take<T>(all);
    scratch.g = memory.take<T>(walks.outputs * all);
    scratch.y = memory.take<T>(walks.outputs * all);
    for (T** rows : {&scratch.rows.dt, &scratch.rows.dtu, &scratch.rows.slope, &scratch.lambda_B, &scratch.lambda_A,
                     &scratch.window_g, &scratch.window_y})
      *rows = memory.take<T>(one);
    scratch.decays = memory.take<T>(block);
    scratch.states = memory.take<T>(block + kChains<T> * W);
    for (T** rows : {&scratch.window_B, &scratch.window_C}) *rows = memory.take<T>(walks.window * states);
    for (T** sums : {&scratch.dB, &scratch.dC}) *sums = memory.take<T>(walks.sources * partial);
    for (T** rows : {&scratch.B, &scratch.C}) *rows = memory.take<T>(staged);
    scratch.starts = memory.take<T>(scan.count * size);
    scratch.adjoint = memory.take<T>(scan.count * size);
    Parameters<T> parameters[kMaxDirections];
    for (int k = 0; k < walks.sources; ++k)
      parameters[k] = Parameters<T>(scan.directions[k], walks.sizes[k], first, end, memory);

    for (int64_t b = bound(s.batch, slice, split.slices); b < bound(s.batch, slice + 1, split.slices); ++b) {
      Coefficients<T> B[kMaxDirections] = {}, C[kMaxDirections] = {};
      for (int k = 0; k < (scan.shared ? 1 : scan.count); ++k)
        if (totals[k].bias_per_sample())
          memset(totals[k].of_slice(slice).bias + first * kTile, 0, sizeof(T) * (end - first) * kTile);
      for (int64_t i = first; i < end; ++i) {
        const Tile tile = s.tile(i);
        if (i == first || tile.group != s.tile(i - 1).group) {
          for (int k = 0; k < walks.sources; ++k) {
            const int64_t at = k * walks.length * states;
            B[k] = stage_all<T>(scan.directions[k].B, walks.sizes[k], b, tile.group, scratch.B + at);
            C[k] = stage_all<T>(scan.directions[k].C, walks.sizes[k], b, tile.group, scratch.C + at);
          }
          memset(scratch.dB, 0, sizeof(T) * walks.sources * partial);
          memset(scratch.dC, 0, sizeof(T) * walks.sources * partial);
        }
        prepare_outputs(b, tile, scratch);
        for (int k = 0; k < walks.sources; ++k)
          run_source(k, b, tile, i, parameters[k], B[k], C[k], totals[walks.set(k)].of_slice(slice), part, scratch);
        finish_gate(b, tile, scratch);
        if (walks.whole && (i + 1 == end || s.tile(i + 1).group != tile.group))
          for (int k = 0; k < walks.sources; ++k) collect(k, b, part, tile.group, straight, int(walks.length), scratch);
      }
      for (int k = 0; k < (scan.shared ? 1 : scan.count); ++k)
        if (totals[k].bias_per_sample())
          for (int64_t i = first; i < end; ++i)
            memcpy(static_cast<T*>(totals[k].dbias.data) + b * s.channels + s.tile(i).channel,
                   totals[k].of_slice(slice).bias + i * kTile, sizeof(T) * s.tile(i).channels);
    }
  }

  void collect(int source, int64_t b, int part, int64_t group, const int32_t* times, int steps,
               const Scratch& scratch) const {
    const int64_t at = source * walks.window * walks.size().padded_states * kLanes<T>;
    const auto row = [&](int64_t t) { return int64_t(times[t]); };
    totals[walks.set(source)].collect_B(scratch.dB + at, steps, part, b, group, row);
    totals[walks.set(source)].collect_C(scratch.dC + at, steps, part, b, group, row);
  }

  Rows<const T> rows_of(const Tensor& x, int64_t b, const Tile& tile, T* buffer) const {
    return read_rows<T>(plane(x, b, false).at(tile.channel, 0), int(walks.length), tile.channels, buffer);
  }
  Tensor dout(int64_t output) const { return scan.dout.rank == 3 ? scan.dout : entry(scan.dout, output); }

  // g = dout silu(z), output by output; y starts from nothing.
  void prepare_outputs(int64_t b, const Tile& tile, const Scratch& scratch) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    Rows<const T> z{nullptr, 0};
    if (scan.z) z = rows_of(scan.z, b, tile, scratch.z);
    for (int64_t o = 0; o < walks.outputs; ++o) {
      const Rows<const T> from = rows_of(dout(o), b, tile, scratch.dout);
      T* g = scratch.g + o * walks.length * kTile;
      for (int64_t t = 0; t < walks.length; ++t, g += kTile) {
        Vec<T> silu[V], z_t[V];
        for (int v = 0; v < V; ++v) silu[v] = splat(T(1));
        if (scan.z) {
          for (int v = 0; v < V; ++v) z_t[v] = silu[v] = load<T>(z[t] + v * W);
          sigmoid<T>(silu);
          for (int v = 0; v < V; ++v) silu[v] *= z_t[v];
        }
        for (int v = 0; v < V; ++v) store<T>(g + v * W, load<T>(from[t] + v * W) * silu[v]);
      }
    }
    if (scan.dz) memset(scratch.y, 0, sizeof(T) * walks.outputs * walks.length * kTile);
  }

  // dz = sum of dout y silu'(z) over the outputs, with silu'(z) = s (1 + z (1 - s)) and s = sigmoid(z).
  void finish_gate(int64_t b, const Tile& tile, const Scratch& scratch) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    if (!scan.dz) return;
    const Plane to = plane(scan.dz, b, false).at(tile.channel, 0);
    const Rows<T> dz = rows_for<T>(to, tile.channels, scratch.dz);
    const Rows<const T> z = rows_of(scan.z, b, tile, scratch.z);
    for (int64_t o = 0; o < walks.outputs; ++o) {
      const Rows<const T> from = rows_of(dout(o), b, tile, scratch.dout);
      const T* y = scratch.y + o * walks.length * kTile;
      for (int64_t t = 0; t < walks.length; ++t, y += kTile) {
        Vec<T> sig[V];
        for (int v = 0; v < V; ++v) sig[v] = load<T>(z[t] + v * W);
        sigmoid<T>(sig);
        for (int v = 0; v < V; ++v) {
          const Vec<T> slope = sig[v] * (splat(T(1)) + load<T>(z[t] + v * W) * (splat(T(1)) - sig[v]));
          const Vec<T> value = load<T>(from[t] + v * W) * load<T>(y + v * W) * slope;
          store<T>(dz[t] + v * W, o ? load<T>(dz[t] + v * W) + value : value);
        }
      }
    }
    write_rows<T>(to, dz, int(walks.length), tile.channels);
  }

  void run_source(int source, int64_t b, const Tile& tile, int64_t i, const Parameters<T>& parameters,
                  const Coefficients<T>& B_all, const Coefficients<T>& C_all, const ChannelSums<T>& sums, int part,
                  const Scratch& scratch) const {
    const Direction& direction = scan.directions[source];
    const DirectionGradients& gradients = scan.gradients[source];
    const Sizes<T>& s = walks.sizes[source];
    const int64_t size = s.tile_states(), partial = walks.window * s.padded_states * kLanes<T>;
    const Rows<const T> u = rows_of(direction.u, b, tile, scratch.u),
                        delta = rows_of(direction.delta, b, tile, scratch.delta);
    alignas(64) T bias[kTile], D[kTile];
    pack_channels<T>(direction.delta_bias, tile, bias, b);
    pack_channels<T>(direction.D, tile, D);
    const int64_t local = (i - parameters.first) * size, global = i * size;
    const auto output = [&](T* rows, int k) { return rows + walks.output(k) * walks.length * kTile; };
    const auto start_of = [&](int k) { return scratch.starts + k * size; };
    const auto clamped = [&](T largest_dt) {
      return !(largest_dt * parameters.largest_A[i - parameters.first] < T(126));
    };
    const auto decays = [&](bool clamp, int steps, int64_t n) {
      choose_clamp<T>(clamp, [&](auto clamps) {
        decay_block<T, clamps.value>(steps, scratch.rows.dt, parameters.A + local + n * kTile, scratch.decays);
      });
    };

    for (int k = source; k < walks.end(source); ++k) {
      start_state<T>(scan.directions[k].initial_state, s, tile, b, start_of(k));
      Tensor end_state;
      if (scan.dlast_state) end_state = entry(scan.dlast_state, k);
      start_state<T>(end_state, s, tile, b, scratch.adjoint + k * size);
      if (direction.D && scan.dz) skip<T>(walks.length, u, D, output(scratch.y, k));
    }
    const Rows<T> du = target(gradients.du, b, tile, scratch.du, add_u && source > 0),
                  ddelta = target(gradients.ddelta, b, tile, scratch.ddelta, add_delta && source > 0);
    for (int64_t w = walks.windows - 1; w >= 0; --w) {
      const int64_t start = w * walks.window;
      const int steps = int(walks.length - start < walks.window ? walks.length - start : walks.window);
      const Lists rows = lists(walks, straight, source, start);
      if (scan.checkpoints)
        memcpy(start_of(source), checkpoint(walks, scan.checkpoints, b, source, w, i), sizeof(T) * s.states * kTile);
      const bool clamp = clamped(prepare<T, true>(scan.softplus, steps, rows, u, delta, bias, scratch.rows));
      memset(scratch.lambda_B, 0, sizeof(T) * steps * kTile);
      memset(scratch.lambda_A, 0, sizeof(T) * steps * kTile);
      Coefficients<T> B = B_all, C = C_all;
      T *dB = scratch.dB + source * partial, *dC = scratch.dC + source * partial;
      if (!walks.whole) {
        B = gather(B, rows.times, steps, s.padded_states, scratch.window_B);
        C = gather(C, rows.times, steps, s.padded_states, scratch.window_C);
        if (scan.dz) gather_rows<T>(steps, rows.tokens, output(scratch.y, source), scratch.window_y);
        memset(dB, 0, sizeof(T) * partial);
        memset(dC, 0, sizeof(T) * partial);
        gather_rows<T>(steps, rows.tokens, output(scratch.g, source), scratch.window_g);
      }
      for (int64_t n = 0; n < s.padded_states; n += kStates<T>) {
        const int64_t in_tile = n * kTile;
        decays(clamp, steps, n);
        choose(s.channel_B, [&](auto channel_B) {
          choose(s.channel_C, [&](auto channel_C) {
            const auto B_n = from_state<channel_B.value>(B, parameters.B, local, n);
            const auto C_n = from_state<channel_C.value>(C, parameters.C, local, n);
            for (int k = source; k < walks.end(source); ++k) {
              const Along order{walks.whole ? walks.order(k) : straight};
              choose(bool(scan.dz), [&](auto read) {
                walk_block<T, channel_B.value, channel_C.value, read.value, true>(
                    steps, order, scratch.decays, scratch.rows.dtu,
                    walks.whole ? output(scratch.y, k) : scratch.window_y, B_n, C_n, start_of(k) + in_tile,
                    scratch.states);
              });
              const AdjointRows<T> tile_rows{scratch.rows.dt, scratch.rows.dtu,
                                             walks.whole ? output(scratch.g, k) : scratch.window_g, scratch.lambda_B,
                                             scratch.lambda_A};
              adjoint_block<T, channel_B.value, channel_C.value>(
                  steps, order, tile_rows, scratch.decays, scratch.states, B_n, C_n, parameters.A + local + in_tile,
                  scratch.adjoint + k * size + in_tile, sums.A + global + in_tile,
                  channel_B.value ? sums.B + global + in_tile : dB + n * steps * kLanes<T>,
                  channel_C.value ? sums.C + global + in_tile : dC + n * steps * kLanes<T>);
            }
          });
        });
      }
      if (!walks.whole) {
        collect(source, b, part, tile.group, rows.times, steps, scratch);
        if (scan.dz) scatter_rows<T>(steps, rows.tokens, scratch.window_y, output(scratch.y, source));
      }
      add_rows<T>(steps, rows, u, scratch.rows, scratch.lambda_B, scratch.lambda_A, du, ddelta, sums.bias + i * kTile);
    }

    for (int k = source; k < walks.end(source); ++k) {
      add_skip<T>(walks.length, u, D, output(scratch.g, k), du, sums.D + i * kTile);
      if (scan.gradients[k].dinitial_state)
        unpack_states<T>(scratch.adjoint + k * size, scan.gradients[k].dinitial_state, s, tile, b);
    }
    if (gradients.du && (!add_u || source + 1 == walks.sources))
      write_rows<T>(plane(gradients.du, b, false).at(tile.channel, 0), du, int(walks.length), tile.channels);
    if (gradients.ddelta && (!add_delta || source + 1 == walks.sources))
      write_rows<T>(plane(gradients.ddelta, b, false).at(tile.channel, 0), ddelta, int(walks.length), tile.channels);
  }

  // Rows that a gradient is added up in: zeros, unless another direction's share is there already.
  Rows<T> target(const Tensor& x, int64_t b, const Tile& tile, T* buffer, bool filled) const {
    const Rows<T> rows =
        x ? rows_for<T>(plane(x, b, false).at(tile.channel, 0), tile.channels, buffer) : Rows<T>{buffer, kTile};
    if (!filled)
      for (int64_t t = 0; t < walks.length; ++t) memset(rows[t], 0, sizeof(T) * kTile);
    return rows;
  }
};

}  // namespace

void multi_scan_backward(const MultiScanBackward& scan) { run_pass<MultiBackward>(scan); }

}  // namespace transmamba::TRANSMAMBA_ISA
