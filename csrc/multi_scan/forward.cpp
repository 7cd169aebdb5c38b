#include "multi_scan/walks.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct MultiForward {
  const MultiScanForward& scan;
  Walks<T> walks{scan, scan.out.rank == 3, bool(scan.checkpoints)};
  Split split{walks.size().batch, walks.size().tiles, scan.threads};
  const int32_t* straight = nullptr;

  struct Scratch {
    T *u, *delta, *z, *out;  // [length][kTile], where the tensors do not lie so themselves
    T* y;                    // [outputs][length][kTile], in the order of the tokens
    WindowRows<T> rows;
    T *decays, *window_y, *window_B, *window_C;
    T *states, *B, *C;  // of every direction
  };

  void run() {
    Workspace memory(Workspace::bytes<int32_t>(walks.length));
    int32_t* list = memory.take<int32_t>(walks.length);
    for (int64_t t = 0; t < walks.length; ++t) list[t] = int32_t(t);
    straight = list;
    run_tasks(
        split.tasks(), scan.threads,
        [](int task, void* self) {
          const FlushSubnormals flush;
          static_cast<const MultiForward*>(self)->run_task(task);
        },
        this);
  }

  void run_task(int task) const {
    const Sizes<T>& s = walks.size();
    const int slice = task / split.parts, part = task % split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t all = walks.length * kTile, one = walks.window * kTile, states = walks.most_states();
    int64_t bytes = 4 * Workspace::bytes<T>(all) + Workspace::bytes<T>(walks.outputs * all) +
                    3 * Workspace::bytes<T>(one) + Workspace::bytes<T>(walks.window * kChains<T> * kLanes<T>) +
                    2 * Workspace::bytes<T>(walks.window * states) + Workspace::bytes<T>(scan.count * states * kTile) +
                    2 * Workspace::bytes<T>(walks.sources * walks.length * states);
    for (int k = 0; k < walks.sources; ++k) bytes += Parameters<T>::bytes(walks.sizes[k], end - first);
    Workspace memory(bytes);
    Scratch scratch;
    for (T** rows : {&scratch.u, &scratch.delta, &scratch.z, &scratch.out}) *rows = memory.take<T>(all);
    scratch.y = memory.take<T>(walks.outputs * all);
    scratch.rows = {memory.take<T>(one), memory.take<T>(one), nullptr};
    scratch.window_y = memory.take<T>(one);
    scratch.decays = memory.take<T>(walks.window * kChains<T> * kLanes<T>);
    scratch.window_B = memory.take<T>(walks.window * states);
    scratch.window_C = memory.take<T>(walks.window * states);
    scratch.states = memory.take<T>(scan.count * states * kTile);
    scratch.B = memory.take<T>(walks.sources * walks.length * states);
    scratch.C = memory.take<T>(walks.sources * walks.length * states);
    Parameters<T> parameters[kMaxDirections];
    for (int k = 0; k < walks.sources; ++k)
      parameters[k] = Parameters<T>(scan.directions[k], walks.sizes[k], first, end, memory);

    for (int64_t b = bound(s.batch, slice, split.slices); b < bound(s.batch, slice + 1, split.slices); ++b) {
      Coefficients<T> B[kMaxDirections] = {}, C[kMaxDirections] = {};
      for (int64_t i = first; i < end; ++i) {
        const Tile tile = s.tile(i);
        if (i == first || tile.group != s.tile(i - 1).group) {
          for (int k = 0; k < walks.sources; ++k) {
            const int64_t at = k * walks.length * states;
            B[k] = stage_all<T>(scan.directions[k].B, walks.sizes[k], b, tile.group, scratch.B + at);
            C[k] = stage_all<T>(scan.directions[k].C, walks.sizes[k], b, tile.group, scratch.C + at);
          }
        }
        memset(scratch.y, 0, sizeof(T) * walks.outputs * all);
        for (int k = 0; k < walks.sources; ++k) run_source(k, b, tile, i, parameters[k], B[k], C[k], scratch);
        finish(b, tile, scratch);
      }
    }
  }

  void run_source(int source, int64_t b, const Tile& tile, int64_t i, const Parameters<T>& parameters,
                  const Coefficients<T>& B_all, const Coefficients<T>& C_all, const Scratch& scratch) const {
    const Direction& direction = scan.directions[source];
    const Sizes<T>& s = walks.sizes[source];
    const auto rows_of = [&](const Tensor& x, T* buffer) {
      return read_rows<T>(plane(x, b, false).at(tile.channel, 0), int(walks.length), tile.channels, buffer);
    };
    const Rows<const T> u = rows_of(direction.u, scratch.u), delta = rows_of(direction.delta, scratch.delta);
    alignas(64) T bias[kTile], D[kTile];
    pack_channels<T>(direction.delta_bias, tile, bias, b);
    pack_channels<T>(direction.D, tile, D);
    const int64_t local = (i - parameters.first) * s.tile_states();
    const auto y = [&](int k) { return scratch.y + walks.output(k) * walks.length * kTile; };
    const auto state = [&](int k) { return scratch.states + k * walks.most_states() * kTile; };
    for (int k = source; k < walks.end(source); ++k) {
      start_state<T>(scan.directions[k].initial_state, s, tile, b, state(k));
      if (direction.D) skip<T>(walks.length, u, D, y(k));
    }

    for (int64_t start = 0; start < walks.length; start += walks.window) {
      const int steps = int(walks.length - start < walks.window ? walks.length - start : walks.window);
      if (scan.checkpoints)
        memcpy(checkpoint(walks, scan.checkpoints, b, source, start / walks.window, i), state(source),
               sizeof(T) * s.states * kTile);
      const Lists rows = lists(walks, straight, source, start);
      const T largest_dt = prepare<T, false>(scan.softplus, steps, rows, u, delta, bias, scratch.rows);
      const bool clamp = !(largest_dt * parameters.largest_A[i - parameters.first] < T(126));
      Coefficients<T> B = B_all, C = C_all;
      if (!walks.whole) {
        B = gather(B, rows.times, steps, s.padded_states, scratch.window_B);
        C = gather(C, rows.times, steps, s.padded_states, scratch.window_C);
        gather_rows<T>(steps, rows.tokens, y(source), scratch.window_y);
      }
      for (int64_t n = 0; n < s.padded_states; n += kStates<T>) {
        const int64_t in_tile = n * kTile;
        choose_clamp<T>(clamp, [&](auto clamped) {
          decay_block<T, clamped.value>(steps, scratch.rows.dt, parameters.A + local + in_tile, scratch.decays);
        });
        choose(s.channel_B, [&](auto channel_B) {
          choose(s.channel_C, [&](auto channel_C) {
            for (int k = source; k < walks.end(source); ++k)
              walk_block<T, channel_B.value, channel_C.value, true, false>(
                  steps, Along{walks.whole ? walks.order(k) : straight}, scratch.decays, scratch.rows.dtu,
                  walks.whole ? y(k) : scratch.window_y, from_state<channel_B.value>(B, parameters.B, local, n),
                  from_state<channel_C.value>(C, parameters.C, local, n), state(k) + in_tile, state(k) + in_tile);
          });
        });
      }
      if (!walks.whole) scatter_rows<T>(steps, rows.tokens, scratch.window_y, y(source));
    }

    if (scan.last_state)
      for (int k = source; k < walks.end(source); ++k)
        unpack_states<T>(state(k), entry(scan.last_state, k), s, tile, b);
  }

  // out = y silu(z), output by output.
  void finish(int64_t b, const Tile& tile, const Scratch& scratch) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    Rows<const T> z{nullptr, 0};
    if (scan.z)
      z = read_rows<T>(plane(scan.z, b, false).at(tile.channel, 0), int(walks.length), tile.channels, scratch.z);
    for (int64_t o = 0; o < walks.outputs; ++o) {
      const Tensor to = scan.out.rank == 3 ? scan.out : entry(scan.out, o);
      const Plane out_plane = plane(to, b, false).at(tile.channel, 0);
      const Rows<T> out = rows_for<T>(out_plane, tile.channels, scratch.out);
      const T* y = scratch.y + o * walks.length * kTile;
      for (int64_t t = 0; t < walks.length; ++t, y += kTile) {
        if (!scan.z) {
          memcpy(out[t], y, sizeof(T) * kTile);
          continue;
        }
        Vec<T> z_t[V], sig[V];
        for (int v = 0; v < V; ++v) z_t[v] = sig[v] = load<T>(z[t] + v * W);
        sigmoid<T>(sig);
        for (int v = 0; v < V; ++v) store<T>(out[t] + v * W, load<T>(y + v * W) * (z_t[v] * sig[v]));
      }
      write_rows<T>(out_plane, out, int(walks.length), tile.channels);
    }
  }
};

}  // namespace

void multi_scan_forward(const MultiScanForward& scan) { run_pass<MultiForward>(scan); }

}  // namespace transmamba::TRANSMAMBA_ISA
