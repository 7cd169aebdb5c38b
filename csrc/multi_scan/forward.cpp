#include "multi_scan/walks.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct MultiForward {
  const MultiScanForward& scan;
  Walks<T> walks{scan, scan.out};
  const Sizes<T>& s = walks.s;
  Split split{s.batch, s.tiles, scan.threads};

  struct Scratch {
    T *u, *delta, *z, *out;  // [length][kTile], where the tensors do not lie so themselves
    T *dt, *dtu, *y, *decays, *states, *B, *C;
  };

  void run() { run_phase<&MultiForward::run_task>(*this, split.tasks(), scan.threads); }

  void run_task(int task) const {
    const int slice = task / split.parts, part = task % split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t rows = walks.rows(), coefficients = s.length * s.padded_states;
    Workspace memory(6 * Workspace::bytes<T>(rows) + Workspace::bytes<T>(walks.outputs * rows) +
                     Workspace::bytes<T>(walks.block()) + Workspace::bytes<T>(walks.count * s.tile_states()) +
                     2 * Workspace::bytes<T>(coefficients) + Parameters<T>::bytes(s, end - first));
    Scratch scratch;
    for (T** x : {&scratch.u, &scratch.delta, &scratch.z, &scratch.out, &scratch.dt, &scratch.dtu})
      *x = memory.take<T>(rows);
    scratch.y = memory.take<T>(walks.outputs * rows);
    scratch.decays = memory.take<T>(walks.block());
    scratch.states = memory.take<T>(walks.count * s.tile_states());
    for (T** x : {&scratch.B, &scratch.C}) *x = memory.take<T>(coefficients);
    const Parameters<T> parameters(scan, s, first, end, memory);

    for (int64_t b = bound(s.batch, slice, split.slices); b < bound(s.batch, slice + 1, split.slices); ++b) {
      Coefficients<T> B{}, C{};
      for (int64_t i = first; i < end; ++i) {
        const Tile tile = s.tile(i);
        if (i == first || tile.group != s.tile(i - 1).group) {
          B = walks.stage(scan.B, b, tile.group, scratch.B);
          C = walks.stage(scan.C, b, tile.group, scratch.C);
        }
        run_tile(b, tile, i, parameters, B, C, scratch);
        gate(b, tile, scratch);
      }
    }
  }

  void run_tile(int64_t b, const Tile& tile, int64_t i, const Parameters<T>& parameters, const Coefficients<T>& B,
                const Coefficients<T>& C, const Scratch& scratch) const {
    const Rows<const T> u = walks.read(scan.u, b, tile, scratch.u),
                        delta = walks.read(scan.delta, b, tile, scratch.delta);
    alignas(64) T bias[kTile], D[kTile];
    pack_channels<T>(scan.delta_bias, tile, bias, b);
    pack_channels<T>(scan.D, tile, D);
    pack_directions<T>(scan.initial_state, walks, tile, b, scratch.states);
    const T largest_dt = prepare<T, false>(walks, u, delta, bias, D, scratch.dt, nullptr, scratch.dtu, scratch.y);
    const bool clamp = !(largest_dt * parameters.largest_A[i - parameters.first] < T(126));
    const int64_t local = (i - parameters.first) * s.tile_states();
    for (int64_t n = 0; n < s.padded_states; n += kStates<T>) {
      choose_clamp<T>(clamp, [&](auto clamped) {
        decay_block<T, clamped.value>(s.length, scratch.dt, parameters.A + local + n * kTile, scratch.decays);
      });
      choose(s.channel_B, [&](auto channel_B) {
        choose(s.channel_C, [&](auto channel_C) {
          for (int64_t k = 0; k < walks.count; ++k) {
            T* state = scratch.states + k * s.tile_states() + n * kTile;
            walk_block<T, channel_B.value, channel_C.value, true, false>(
                int(s.length), walks.order(k), scratch.decays, scratch.dtu, scratch.y + walks.output(k) * walks.rows(),
                from_state<channel_B.value>(B, parameters.B, local, n),
                from_state<channel_C.value>(C, parameters.C, local, n), state, state);
          }
        });
      });
    }
    unpack_directions<T>(scratch.states, scan.last_state, walks, tile, b);
  }

  // out = y silu(z), output by output.
  void gate(int64_t b, const Tile& tile, const Scratch& scratch) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    Rows<const T> z{nullptr, 0};
    if (scan.z) z = walks.read(scan.z, b, tile, scratch.z);
    for (int64_t o = 0; o < walks.outputs; ++o) {
      const Plane to = plane(scan.out.rank == 3 ? scan.out : entry(scan.out, o), b, false).at(tile.channel, 0);
      const Rows<T> out = rows_for<T>(to, tile.channels, scratch.out);
      const T* y = scratch.y + o * walks.rows();
      for (int64_t t = 0; t < s.length; ++t, y += kTile) {
        if (!scan.z) {
          memcpy(out[t], y, sizeof(T) * kTile);
          continue;
        }
        prefetch(z[t]);
        Vec<T> z_t[V], sig[V];
        for (int v = 0; v < V; ++v) z_t[v] = sig[v] = load<T>(z[t] + v * W);
        sigmoid<T>(sig);
        for (int v = 0; v < V; ++v) store<T>(out[t] + v * W, load<T>(y + v * W) * (z_t[v] * sig[v]));
      }
      write_rows<T>(to, out, int(s.length), tile.channels);
    }
  }
};

}  // namespace

void multi_scan_forward(const MultiScanForward& scan) { run_pass<MultiForward>(scan); }

}  // namespace transmamba::TRANSMAMBA_ISA
