#include "multi_scan/walks.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct MultiBackward {
  const MultiScanBackward& scan;
  Walks<T> walks{scan, scan.dout};
  const Sizes<T>& s = walks.s;
  Split split{s.batch, s.tiles, scan.threads};
  ScanSums<T> total{s, split.slices, split.parts, scan.B, scan.C, scan};

  struct Scratch {
    T *u, *delta, *z, *dout, *du, *ddelta, *dz;  // [length][kTile], where the tensors do not lie so themselves
    T *dt, *slope, *dtu, *lambda_B, *lambda_A;   // [length][kTile]
    T *g, *y;                                    // [outputs][length][kTile]
    T *decays, *states;                          // of one block of states
    T *starts, *adjoint;                         // [directions][padded_states][kTile]
    T *B, *C, *dB, *dC;                          // dB, dC: [states / kStates][length][kStates][lanes]
  };

  void run() {
    Workspace memory(total.bytes());
    total.take(memory);
    run_phase<&MultiBackward::run_task>(*this, split.tasks(), scan.threads);
    total.add_up();
  }

  void run_task(int task) const {
    constexpr int W = kLanes<T>;
    const int slice = task / split.parts, part = task % split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t rows = walks.rows(), coefficients = s.length * s.padded_states,
                  all_states = walks.count * s.tile_states(), kept = walks.block() + kChains<T> * W;
    Workspace memory(12 * Workspace::bytes<T>(rows) + 2 * Workspace::bytes<T>(walks.outputs * rows) +
                     Workspace::bytes<T>(walks.block()) + Workspace::bytes<T>(kept) +
                     2 * Workspace::bytes<T>(all_states) + 2 * Workspace::bytes<T>(coefficients) +
                     2 * Workspace::bytes<T>(coefficients * W) + Parameters<T>::bytes(s, end - first));
    Scratch scratch;
    for (T** x : {&scratch.u, &scratch.delta, &scratch.z, &scratch.dout, &scratch.du, &scratch.ddelta, &scratch.dz,
                  &scratch.dt, &scratch.slope, &scratch.dtu, &scratch.lambda_B, &scratch.lambda_A})
      *x = memory.take<T>(rows);
    for (T** x : {&scratch.g, &scratch.y}) *x = memory.take<T>(walks.outputs * rows);
    scratch.decays = memory.take<T>(walks.block());
    scratch.states = memory.take<T>(kept);
    for (T** x : {&scratch.starts, &scratch.adjoint}) *x = memory.take<T>(all_states);
    for (T** x : {&scratch.B, &scratch.C}) *x = memory.take<T>(coefficients);
    for (T** x : {&scratch.dB, &scratch.dC}) *x = memory.take<T>(coefficients * W);
    const Parameters<T> parameters(scan, s, first, end, memory);
    const ChannelSums<T> sums = total.of_slice(slice);

    for (int64_t b = bound(s.batch, slice, split.slices); b < bound(s.batch, slice + 1, split.slices); ++b) {
      if (total.bias_per_sample()) memset(sums.bias + first * kTile, 0, sizeof(T) * (end - first) * kTile);
      Coefficients<T> B{}, C{};
      for (int64_t i = first; i < end; ++i) {
        const Tile tile = s.tile(i);
        if (i == first || tile.group != s.tile(i - 1).group) {
          B = walks.stage(scan.B, b, tile.group, scratch.B);
          C = walks.stage(scan.C, b, tile.group, scratch.C);
          memset(scratch.dB, 0, sizeof(T) * coefficients * W);
          memset(scratch.dC, 0, sizeof(T) * coefficients * W);
        }
        run_tile(b, tile, i, parameters, B, C, sums, scratch);
        if (i + 1 == end || s.tile(i + 1).group != tile.group) {
          const auto row = [](int64_t t) { return t; };
          total.collect_B(scratch.dB, s.all_states(), s.length, part, b, tile.group, row);
          total.collect_C(scratch.dC, s.all_states(), s.length, part, b, tile.group, row);
        }
        if (total.bias_per_sample())
          memcpy(static_cast<T*>(scan.ddelta_bias.data) + b * s.channels + tile.channel, sums.bias + i * kTile,
                 sizeof(T) * tile.channels);
      }
    }
  }

  void run_tile(int64_t b, const Tile& tile, int64_t i, const Parameters<T>& parameters, const Coefficients<T>& B,
                const Coefficients<T>& C, const ChannelSums<T>& sums, const Scratch& scratch) const {
    const Rows<const T> u = walks.read(scan.u, b, tile, scratch.u),
                        delta = walks.read(scan.delta, b, tile, scratch.delta);
    alignas(64) T bias[kTile], D[kTile];
    pack_channels<T>(scan.delta_bias, tile, bias, b);
    pack_channels<T>(scan.D, tile, D);
    pack_directions<T>(scan.initial_state, walks, tile, b, scratch.starts);
    pack_directions<T>(scan.dlast_state, walks, tile, b, scratch.adjoint);
    const T largest_dt = prepare<T, true>(walks, u, delta, bias, D, scratch.dt, scratch.slope, scratch.dtu, scratch.y);
    gate_upstream(b, tile, scratch);
    for (T* rows : {scratch.lambda_B, scratch.lambda_A}) memset(rows, 0, sizeof(T) * walks.rows());

    const bool clamp = !(largest_dt * parameters.largest_A[i - parameters.first] < T(126));
    const int64_t size = s.tile_states(), local = (i - parameters.first) * size;
    for (int64_t n = 0; n < s.padded_states; n += kStates<T>) {
      const int64_t in_tile = n * kTile, partial = n * s.length * kLanes<T>;
      choose_clamp<T>(clamp, [&](auto clamped) {
        decay_block<T, clamped.value>(s.length, scratch.dt, parameters.A + local + in_tile, scratch.decays);
      });
      choose(s.channel_B, [&](auto channel_B) {
        choose(s.channel_C, [&](auto channel_C) {
          const auto B_n = from_state<channel_B.value>(B, parameters.B, local, n);
          const auto C_n = from_state<channel_C.value>(C, parameters.C, local, n);
          for (int64_t k = 0; k < walks.count; ++k) {
            const int64_t output = walks.output(k) * walks.rows();
            const AdjointRows<T> rows{scratch.dt, scratch.dtu, scratch.g + output, scratch.lambda_B, scratch.lambda_A};
            choose(bool(scan.dz), [&](auto read) {
              walk_block<T, channel_B.value, channel_C.value, read.value, true>(
                  int(s.length), walks.order(k), scratch.decays, scratch.dtu, scratch.y + output, B_n, C_n,
                  scratch.starts + k * size + in_tile, scratch.states);
            });
            adjoint_block<T, channel_B.value, channel_C.value>(
                int(s.length), walks.order(k), rows, scratch.decays, scratch.states, B_n, C_n,
                parameters.A + local + in_tile, scratch.adjoint + k * size + in_tile, sums.A + i * size + in_tile,
                channel_B.value ? sums.B + i * size + in_tile : scratch.dB + partial,
                channel_C.value ? sums.C + i * size + in_tile : scratch.dC + partial);
          }
        });
      });
    }
    finish(b, tile, u, D, scratch, sums.D + i * kTile, sums.bias + i * kTile);
    unpack_directions<T>(scratch.adjoint, scan.dinitial_state, walks, tile, b);
  }

  Tensor dout(int64_t output) const { return scan.dout.rank == 3 ? scan.dout : entry(scan.dout, output); }

  // g = dout silu(z), output by output.
  void gate_upstream(int64_t b, const Tile& tile, const Scratch& scratch) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    Rows<const T> z{nullptr, 0};
    if (scan.z) z = walks.read(scan.z, b, tile, scratch.z);
    for (int64_t o = 0; o < walks.outputs; ++o) {
      const Rows<const T> from = walks.read(dout(o), b, tile, scratch.dout);
      T* g = scratch.g + o * walks.rows();
      for (int64_t t = 0; t < s.length; ++t, g += kTile) {
        prefetch(from[t]);
        Vec<T> silu[V], z_t[V];
        for (int v = 0; v < V; ++v) silu[v] = splat(T(1));
        if (scan.z) {
          prefetch(z[t]);
          for (int v = 0; v < V; ++v) z_t[v] = silu[v] = load<T>(z[t] + v * W);
          sigmoid<T>(silu);
          for (int v = 0; v < V; ++v) silu[v] *= z_t[v];
        }
        for (int v = 0; v < V; ++v) store<T>(g + v * W, load<T>(from[t] + v * W) * silu[v]);
      }
    }
  }

  // du, ddelta, dz and the sums over time of dD and ddelta_bias.
  void finish(int64_t b, const Tile& tile, Rows<const T> u, const T* D, const Scratch& from, T* dD, T* dbias) const {
    constexpr int W = kLanes<T>;
    const T count = T(walks.count / walks.outputs);
    const auto at = [&](const Tensor& x) { return plane(x, b, false).at(tile.channel, 0); };
    const auto target = [&](const Tensor& x, T* buffer) {
      return x ? rows_for<T>(at(x), tile.channels, buffer) : Rows<T>{buffer, kTile};
    };
    const Rows<T> du = target(scan.du, from.du), ddelta = target(scan.ddelta, from.ddelta);
    for (int v = 0; v < kTile; v += W) {
      Vec<T> sum_D = load<T>(dD + v), sum_bias = load<T>(dbias + v);
      for (int64_t t = 0; t < s.length; ++t) {
        const int64_t j = t * kTile + v;
        const Vec<T> u_t = load<T>(u[t] + v), lambda_B = load<T>(from.lambda_B + j);
        const Vec<T> d = (lambda_B * u_t + load<T>(from.lambda_A + j) * splat(kLn2<T>)) * load<T>(from.slope + j);
        Vec<T> g = load<T>(from.g + j);
        for (int64_t o = 1; o < walks.outputs; ++o) g += load<T>(from.g + o * walks.rows() + j);
        g *= splat(count);
        store<T>(du[t] + v, lambda_B * load<T>(from.dt + j) + load<T>(D + v) * g);
        store<T>(ddelta[t] + v, d);
        sum_D += g * u_t;
        sum_bias += d;
      }
      store<T>(dD + v, sum_D);
      store<T>(dbias + v, sum_bias);
    }
    if (scan.du) write_rows<T>(at(scan.du), du, int(s.length), tile.channels);
    if (scan.ddelta) write_rows<T>(at(scan.ddelta), ddelta, int(s.length), tile.channels);
    if (!scan.dz) return;

    // dz = sum of dout y silu'(z) over the outputs, with silu'(z) = s (1 + z (1 - s)) and s = sigmoid(z).
    const Rows<T> dz = rows_for<T>(at(scan.dz), tile.channels, from.dz);
    const Rows<const T> z = walks.read(scan.z, b, tile, from.z);
    for (int64_t o = 0; o < walks.outputs; ++o) {
      const Rows<const T> upstream = walks.read(dout(o), b, tile, from.dout);
      const T* y = from.y + o * walks.rows();
      for (int64_t t = 0; t < s.length; ++t, y += kTile) {
        Vec<T> sig[kVectors<T>];
        for (int v = 0; v < kVectors<T>; ++v) sig[v] = load<T>(z[t] + v * W);
        sigmoid<T>(sig);
        for (int v = 0; v < kVectors<T>; ++v) {
          const Vec<T> slope = sig[v] * (splat(T(1)) + load<T>(z[t] + v * W) * (splat(T(1)) - sig[v]));
          const Vec<T> value = load<T>(upstream[t] + v * W) * load<T>(y + v * W) * slope;
          store<T>(dz[t] + v * W, o ? load<T>(dz[t] + v * W) + value : value);
        }
      }
    }
    write_rows<T>(at(scan.dz), dz, int(s.length), tile.channels);
  }
};

}  // namespace

void multi_scan_backward(const MultiScanBackward& scan) { run_pass<MultiBackward>(scan); }

}  // namespace transmamba::TRANSMAMBA_ISA
