#include "selective_scan/scan_sequences.h"
#include "selective_scan/scan_sums.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct Backward {
  const SelectiveScanBackward& scan;
  Sizes<T> s{scan};
  Sequences sequences{scan.u, scan.offsets};
  Split split = one_row() ? Split(1, s.tiles, scan.threads) : sequences.split(s.tiles, scan.threads);
  ScanSums<T> total{s, split, scan.B, scan.C, scan};

  // Whether all packed sequences add to one row of dB or dC, which slices cannot share.
  bool one_row() const {
    const auto constant = [](const Tensor& x) { return x.rank > 2 && x.shape[x.rank - 1] == 1; };
    return sequences.packed() && (constant(scan.B) || constant(scan.C));
  }

  void run() {
    Workspace memory(total.bytes());
    total.take(memory);
    run_tasks(
        split.tasks(), scan.threads,
        [](int task, void* self) {
          const FlushSubnormals flush;
          static_cast<const Backward*>(self)->run_task(task);
        },
        this);
    total.add_up();
  }

  void run_task(int task) const {
    constexpr int W = kLanes<T>;
    const int slice = task / split.parts, part = task % split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t rows = kScanCheckpoint * kTile, size = s.tile_states(),
                  row_states = kScanCheckpoint * s.padded_states;
    Workspace memory(Parameters<T>::bytes(s, end - first) + Workspace::bytes<T>((end - first) * size) +
                     2 * Workspace::bytes<T>(row_states) + 2 * Workspace::bytes<T>(row_states * W) +
                     Workspace::bytes<T>(kDecays<T>) + Workspace::bytes<T>(kDecays<T> + kChains<T> * W) +
                     Workspace::bytes<T>(size) + 15 * Workspace::bytes<T>(rows));
    const Parameters<T> parameters(scan, s, first, end, memory);
    const ChannelSums<T> sums = total.of_slice(slice);
    T* adjoint = memory.take<T>((end - first) * size);
    T *B_buffer = memory.take<T>(row_states), *C_buffer = memory.take<T>(row_states);
    T *dB = memory.take<T>(row_states * W), *dC = memory.take<T>(row_states * W);
    Scratch scratch;
    scratch.decays = memory.take<T>(kDecays<T>);
    scratch.states = memory.take<T>(kDecays<T> + kChains<T> * W);
    T* padded_checkpoint = memory.take<T>(size);
    for (T** row : {&scratch.dt, &scratch.slope, &scratch.dtu, &scratch.g, &scratch.y, &scratch.dz, &scratch.lambda_B,
                    &scratch.lambda_A, &scratch.in[0], &scratch.in[1], &scratch.in[2], &scratch.in[3], &scratch.out[0],
                    &scratch.out[1], &scratch.out[2]})
      *row = memory.take<T>(rows);

    const int64_t last = sequences.first(slice + 1, split.slices);
    for (int64_t index = sequences.first(slice, split.slices); index < last; ++index) {
      const Stretch sequence = stretch(scan, sequences, index);
      const int64_t b = sequence.batch;
      for (int64_t i = first; i < end; ++i) {
        T* lambda = adjoint + (i - first) * size;
        if (scan.dlast_state)
          pack_states<T>(scan.dlast_state, s, s.tile(i), lambda, index);
        else
          memset(lambda, 0, sizeof(T) * size);
      }
      if (total.bias_per_sample())
        for (int64_t i = first; i < end; ++i) memset(sums.bias + i * kTile, 0, sizeof(T) * kTile);

      for (int64_t chunk = sequence.chunks - 1; chunk >= 0; --chunk) {
        const int64_t start = sequence.chunk_start(chunk);
        const int steps = sequence.chunk_steps(chunk);
        const ChunkSteps on = chunk_steps(scan, s, start, steps);
        Coefficients<T> B{}, C{};
        for (int64_t i = first; i < end; ++i) {
          const Tile tile = s.tile(i);
          if (i == first || tile.group != s.tile(i - 1).group) {
            if (!s.channel_B) B = stage_coefficients<T>(scan.B, s, b, tile.group, on.times, steps, B_buffer);
            if (!s.channel_C) C = stage_coefficients<T>(scan.C, s, b, tile.group, on.times, steps, C_buffer);
            memset(dB, 0, sizeof(T) * steps * s.padded_states * W);
            memset(dC, 0, sizeof(T) * steps * s.padded_states * W);
          }
          const T* checkpoint = static_cast<const T*>(scan.checkpoints.data) +
                                ((sequence.checkpoint + chunk) * s.tiles + i) * s.states * kTile;
          if (s.states != s.padded_states) {
            memset(padded_checkpoint, 0, sizeof(T) * size);
            memcpy(padded_checkpoint, checkpoint, sizeof(T) * s.states * kTile);
            checkpoint = padded_checkpoint;
          }
          run_tile(b, on, steps, tile, scratch, B, C, parameters, i, checkpoint, adjoint + (i - first) * size, dB, dC,
                   sums);
          if (i + 1 == end || s.tile(i + 1).group != tile.group) {
            const auto row = [&](int64_t t) { return on.times[t]; };
            total.collect_B(dB, steps, part, b, tile.group, row);
            total.collect_C(dC, steps, part, b, tile.group, row);
          }
        }
      }

      for (int64_t i = first; i < end; ++i) {
        const Tile tile = s.tile(i);
        if (scan.dinitial_state) unpack_states<T>(adjoint + (i - first) * size, scan.dinitial_state, s, tile, index);
        if (total.bias_per_sample())
          memcpy(static_cast<T*>(scan.ddelta_bias.data) + b * s.channels + tile.channel, sums.bias + i * kTile,
                 sizeof(T) * tile.channels);
      }
    }
  }

  struct Scratch {  // rows of one tile and chunk
    T *dt, *slope, *dtu, *g, *y, *dz, *lambda_B, *lambda_A, *in[4], *out[3], *decays, *states;
  };

  void run_tile(int64_t b, const ChunkSteps& on, int steps, const Tile& tile, const Scratch& scratch, Coefficients<T> B,
                Coefficients<T> C, const Parameters<T>& parameters, int64_t i, const T* checkpoint, T* adjoint, T* dB,
                T* dC, const ChannelSums<T>& sums) const {
    constexpr int W = kLanes<T>;
    const auto at = [&](const Tensor& x) { return plane(x, b, on.tokens).at(tile.channel, 0); };
    const Rows<const T> u = read_rows<T>(at(scan.u), steps, tile.channels, scratch.in[0]);
    const Rows<const T> delta =
        read_rows<T>(plane(scan.delta, b, on.times).at(tile.channel, 0), steps, tile.channels, scratch.in[1]);
    const Rows<const T> dout = read_rows<T>(at(scan.dout), steps, tile.channels, scratch.in[2]);
    Rows<const T> z{nullptr, 0};
    if (scan.z) z = read_rows<T>(at(scan.z), steps, tile.channels, scratch.in[3]);
    alignas(64) T bias[kTile], D[kTile];
    pack_channels<T>(scan.delta_bias, tile, bias, b);
    pack_channels<T>(scan.D, tile, D);

    const T largest_dt = prepare(steps, u, delta, dout, z, bias, D, scratch);
    const int64_t local = (i - parameters.first) * s.tile_states(), global = i * s.tile_states();
    const bool clamp = !(largest_dt * parameters.largest_A[i - parameters.first] < T(126));
    const AdjointRows<T> rows{scratch.dt, scratch.dtu, scratch.g, scratch.lambda_B, scratch.lambda_A};
    for (int64_t n = 0; n < s.padded_states; n += kStates<T>) {
      const int64_t in_tile = n * kTile;
      choose_clamp<T>(clamp, [&](auto clamped) {
        decay_block<T, clamped.value>(steps, scratch.dt, parameters.A + local + in_tile, scratch.decays);
      });
      choose(s.channel_B, [&](auto channel_B) {
        choose(s.channel_C, [&](auto channel_C) {
          const auto B_n = from_state<channel_B.value>(B, parameters.B, local, n);
          const auto C_n = from_state<channel_C.value>(C, parameters.C, local, n);
          choose(bool(scan.z), [&](auto gated) {
            walk_block<T, channel_B.value, channel_C.value, gated.value, true>(steps, Straight{}, scratch.decays,
                                                                               scratch.dtu, scratch.y, B_n, C_n,
                                                                               checkpoint + in_tile, scratch.states);
          });
          adjoint_block<T, channel_B.value, channel_C.value>(
              steps, Straight{}, rows, scratch.decays, scratch.states, B_n, C_n, parameters.A + local + in_tile,
              adjoint + in_tile, sums.A + global + in_tile,
              channel_B.value ? sums.B + global + in_tile : dB + n * steps * W,
              channel_C.value ? sums.C + global + in_tile : dC + n * steps * W);
        });
      });
    }
    finish(b, on, steps, tile, u, D, scratch, sums.D + i * kTile, sums.bias + i * kTile);
  }

  T prepare(int steps, Rows<const T> u, Rows<const T> delta, Rows<const T> dout, Rows<const T> z, const T* bias,
            const T* D, const Scratch& to) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    Vec<T> largest = splat(T(0));
    for (int t = 0; t < steps; ++t) {
      prefetch(u[t]);
      prefetch(delta[t]);
      prefetch(dout[t]);
      if (z.data) prefetch(z[t]);
      Vec<T> dt[V], slope[V], z_t[V], sig[V];
      for (int v = 0; v < V; ++v) dt[v] = load<T>(delta[t] + v * W) + load<T>(bias + v * W);
      for (int v = 0; v < V; ++v) slope[v] = splat(T(1));
      if (scan.softplus) softplus<T, true>(dt, slope);
      if (z.data) {
        for (int v = 0; v < V; ++v) z_t[v] = sig[v] = load<T>(z[t] + v * W);
        sigmoid<T>(sig);
      }
      for (int v = 0; v < V; ++v) {
        const int64_t at = t * kTile + v * W;
        const Vec<T> u_t = load<T>(u[t] + v * W);
        Vec<T> g = load<T>(dout[t] + v * W);
        largest = max(abs<T>(dt[v]), largest);
        store<T>(to.dt + at, dt[v]);
        store<T>(to.slope + at, slope[v]);
        store<T>(to.dtu + at, dt[v] * u_t);
        store<T>(to.lambda_B + at, splat(T(0)));
        store<T>(to.lambda_A + at, splat(T(0)));
        if (z.data) {  // silu'(z) = s (1 + z (1 - s)) with s = sigmoid(z)
          const Vec<T> silu = z_t[v] * sig[v];
          store<T>(to.y + at, load<T>(D + v * W) * u_t);
          store<T>(to.dz + at, g * (sig[v] * (splat(T(1)) + z_t[v] - silu)));
          g = g * silu;
        }
        store<T>(to.g + at, g);
      }
    }
    T most = 0;
    for (int i = 0; i < W; ++i) most = largest[i] > most ? largest[i] : most;
    return most;
  }

  // du, ddelta, dz and the sums over time of dD and ddelta_bias.
  void finish(int64_t b, const ChunkSteps& on, int steps, const Tile& tile, Rows<const T> u, const T* D,
              const Scratch& from, T* dD, T* dbias) const {
    constexpr int W = kLanes<T>;
    const auto at = [&](const Tensor& x, const Steps& rows) { return plane(x, b, rows).at(tile.channel, 0); };
    // With `add` the rows hold what was there before.
    const auto target = [&](const Tensor& x, const Steps& rows, bool add, T* buffer) {
      if (!x) return Rows<T>{buffer, kTile};
      if (add) read_rows<T>(at(x, rows), steps, tile.channels, buffer);
      return rows_for<T>(at(x, rows), tile.channels, buffer);
    };
    const Rows<T> du = target(scan.du, on.tokens, scan.add_u, from.out[0]);
    const Rows<T> ddelta = target(scan.ddelta, on.times, scan.add_delta, from.out[1]);
    const Rows<T> dz = target(scan.dz, on.tokens, scan.add_z, from.out[2]);
    const auto put = [](T* to, bool add, Vec<T> x) { store<T>(to, add ? load<T>(to) + x : x); };
    for (int v = 0; v < kTile; v += W) {
      Vec<T> sum_D = load<T>(dD + v), sum_bias = load<T>(dbias + v);
      const Vec<T> D_v = load<T>(D + v);
      for (int t = 0; t < steps; ++t) {
        const int64_t j = t * kTile + v;
        const Vec<T> g = load<T>(from.g + j), u_t = load<T>(u[t] + v), lambda_B = load<T>(from.lambda_B + j);
        const Vec<T> d = (lambda_B * u_t + load<T>(from.lambda_A + j) * splat(kLn2<T>)) * load<T>(from.slope + j);
        put(du[t] + v, scan.add_u, lambda_B * load<T>(from.dt + j) + D_v * g);
        put(ddelta[t] + v, scan.add_delta, d);
        if (scan.dz) put(dz[t] + v, scan.add_z, load<T>(from.dz + j) * load<T>(from.y + j));
        sum_D += g * u_t;
        sum_bias += d;
      }
      store<T>(dD + v, sum_D);
      store<T>(dbias + v, sum_bias);
    }
    if (scan.du) write_rows<T>(at(scan.du, on.tokens), du, steps, tile.channels);
    if (scan.ddelta) write_rows<T>(at(scan.ddelta, on.times), ddelta, steps, tile.channels);
    if (scan.dz) write_rows<T>(at(scan.dz, on.tokens), dz, steps, tile.channels);
  }
};

}  // namespace

void selective_scan_backward(const SelectiveScanBackward& scan) { run_pass<Backward>(scan); }

}  // namespace transmamba::TRANSMAMBA_ISA
