#include "selective_scan/scan_sequences.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct Forward {
  const SelectiveScanForward& scan;
  Sizes<T> s{scan};
  Sequences sequences{scan.u, scan.offsets};
  Split split = sequences.split(s.tiles, scan.threads);

  void run_task(int task) const {
    const int slice = task / split.parts, part = task % split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t rows = kScanCheckpoint * kTile, size = s.tile_states(),
                  row_states = kScanCheckpoint * s.padded_states;
    Workspace memory(Parameters<T>::bytes(s, end - first) + Workspace::bytes<T>((end - first) * size) +
                     2 * Workspace::bytes<T>(row_states) + Workspace::bytes<T>(kDecays<T>) +
                     8 * Workspace::bytes<T>(rows));
    const Parameters<T> parameters(scan, s, first, end, memory);
    T* states = memory.take<T>((end - first) * size);
    T* B_rows = memory.take<T>(row_states);
    T* C_rows = memory.take<T>(row_states);
    T* decays = memory.take<T>(kDecays<T>);
    T *dt = memory.take<T>(rows), *dtu = memory.take<T>(rows), *y = memory.take<T>(rows);
    T *u_rows = memory.take<T>(rows), *delta_rows = memory.take<T>(rows), *z_rows = memory.take<T>(rows);
    T *out_rows = memory.take<T>(rows), *addend_rows = memory.take<T>(rows);

    const int64_t last = sequences.first(slice + 1, split.slices);
    for (int64_t index = sequences.first(slice, split.slices); index < last; ++index) {
      const Stretch sequence = stretch(scan, sequences, index);
      const int64_t b = sequence.batch;
      for (int64_t i = first; i < end; ++i) {
        T* state = states + (i - first) * size;
        if (scan.initial_state)
          pack_states<T>(scan.initial_state, s, s.tile(i), state, index);
        else
          memset(state, 0, sizeof(T) * size);
      }
      for (int64_t chunk = 0; chunk < sequence.chunks; ++chunk) {
        const int64_t start = sequence.chunk_start(chunk);
        const int steps = sequence.chunk_steps(chunk);
        int64_t group = -1;
        const ChunkSteps on = chunk_steps(scan, s, start, steps);
        Coefficients<T> B{}, C{};
        for (int64_t i = first; i < end; ++i) {
          const Tile tile = s.tile(i);
          T* state = states + (i - first) * size;
          if (tile.group != group) {
            group = tile.group;
            if (!s.channel_B) B = stage_coefficients<T>(scan.B, s, b, group, on.times, steps, B_rows);
            if (!s.channel_C) C = stage_coefficients<T>(scan.C, s, b, group, on.times, steps, C_rows);
          }
          if (scan.checkpoints) memcpy(checkpoint(sequence.checkpoint + chunk, i), state, sizeof(T) * s.states * kTile);

          const auto at = [&](const Tensor& x) { return plane(x, b, on.tokens).at(tile.channel, 0); };
          const Rows<const T> u = read_rows<T>(at(scan.u), steps, tile.channels, u_rows);
          const Rows<const T> delta =
              read_rows<T>(plane(scan.delta, b, on.times).at(tile.channel, 0), steps, tile.channels, delta_rows);
          Rows<const T> addend{nullptr, 0};
          if (scan.addend) addend = read_rows<T>(at(scan.addend), steps, tile.channels, addend_rows);
          alignas(64) T bias[kTile], D[kTile];
          pack_channels<T>(scan.delta_bias, tile, bias, b);
          pack_channels<T>(scan.D, tile, D);
          const T largest_dt = prepare(steps, u, delta, addend, bias, D, dt, dtu, y);
          const bool clamp = !(largest_dt * parameters.largest_A[i - first] < T(126));

          for (int64_t n = 0; n < s.padded_states; n += kStates<T>) {
            const int64_t local = (i - first) * size, at_n = local + n * kTile;
            choose_clamp<T>(
                clamp, [&](auto clamped) { decay_block<T, clamped.value>(steps, dt, parameters.A + at_n, decays); });
            choose(s.channel_B, [&](auto channel_B) {
              choose(s.channel_C, [&](auto channel_C) {
                walk_block<T, channel_B.value, channel_C.value, true, false>(
                    steps, Straight{}, decays, dtu, y, from_state<channel_B.value>(B, parameters.B, local, n),
                    from_state<channel_C.value>(C, parameters.C, local, n), states + at_n, states + at_n);
              });
            });
          }

          const Plane out_plane = at(scan.out);
          const Rows<T> out = rows_for<T>(out_plane, tile.channels, out_rows);
          if (scan.z)
            gate(steps, y, read_rows<T>(at(scan.z), steps, tile.channels, z_rows), out);
          else
            for (int t = 0; t < steps; ++t) memcpy(out[t], y + t * kTile, sizeof(T) * kTile);
          write_rows<T>(out_plane, out, steps, tile.channels);
        }
      }
      if (scan.checkpoints)  // the same bits for the same arguments, where nothing is kept too
        for (int64_t at = sequence.checkpoint + sequence.chunks; at < sequence.end_checkpoint; ++at)
          memset(checkpoint(at, first), 0, sizeof(T) * (end - first) * s.states * kTile);
      if (scan.last_state)
        for (int64_t i = first; i < end; ++i)
          unpack_states<T>(states + (i - first) * size, scan.last_state, s, s.tile(i), index);
    }
  }

  T* checkpoint(int64_t place, int64_t tile) const {
    return static_cast<T*>(scan.checkpoints.data) + (place * s.tiles + tile) * s.states * kTile;
  }

  // dt = softplus(delta + bias), dtu = dt u, y = D u + addend; returns the largest |dt|.
  T prepare(int steps, Rows<const T> u, Rows<const T> delta, Rows<const T> addend, const T* bias, const T* D, T* dt,
            T* dtu, T* y) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    Vec<T> largest = splat(T(0));
    for (int t = 0; t < steps; ++t) {
      prefetch(u[t]);
      prefetch(delta[t]);
      Vec<T> x[V];
      for (int v = 0; v < V; ++v) x[v] = load<T>(delta[t] + v * W) + load<T>(bias + v * W);
      if (scan.softplus) softplus<T, false>(x, x);
      for (int v = 0; v < V; ++v) {
        const Vec<T> u_t = load<T>(u[t] + v * W);
        largest = max(abs<T>(x[v]), largest);
        store<T>(dt + t * kTile + v * W, x[v]);
        store<T>(dtu + t * kTile + v * W, x[v] * u_t);
        const Vec<T> skip = load<T>(D + v * W) * u_t;
        store<T>(y + t * kTile + v * W, addend.data ? skip + load<T>(addend[t] + v * W) : skip);
      }
    }
    T most = 0;
    for (int i = 0; i < W; ++i) most = largest[i] > most ? largest[i] : most;
    return most;
  }

  static void gate(int steps, const T* y, Rows<const T> z, Rows<T> out) {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    for (int t = 0; t < steps; ++t) {
      prefetch(z[t]);
      Vec<T> z_t[V], sig[V];
      for (int v = 0; v < V; ++v) z_t[v] = sig[v] = load<T>(z[t] + v * W);
      sigmoid<T>(sig);
      for (int v = 0; v < V; ++v) store<T>(out[t] + v * W, load<T>(y + t * kTile + v * W) * (z_t[v] * sig[v]));
    }
  }

  void run() const {
    run_tasks(
        split.tasks(), scan.threads,
        [](int task, void* self) {
          const FlushSubnormals flush;
          static_cast<const Forward*>(self)->run_task(task);
        },
        const_cast<Forward*>(this));
  }
};

}  // namespace

void selective_scan_forward(const SelectiveScanForward& scan) { run_pass<Forward>(scan); }

}  // namespace transmamba::TRANSMAMBA_ISA
