#include "selective_scan/scan_sequences.h"
#include "selective_scan/state_ranges.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct Forward {
  const SelectiveScanForward& scan;
  Sizes<T> s{scan};
  Sequences sequences{scan.u, scan.offsets};
  Split split = sequences.split(s.tiles, scan.threads, most_ranges(s));
  RangeRows<T> ranges{s, split.segments, scan.threads, 2, 1};  // dt and dtu; y

  struct Scratch {  // rows of one tile and chunk
    T *dt, *dtu, *y, *u, *delta, *z, *out, *addend;

    static int64_t bytes() { return 8 * Workspace::bytes<T>(kScanCheckpoint * kTile); }
    explicit Scratch(Workspace& memory) {
      for (T** row : {&dt, &dtu, &y, &u, &delta, &z, &out, &addend}) *row = memory.take<T>(kScanCheckpoint * kTile);
    }
    void use(const RangeRows<T>& rows, int range, int64_t b, int64_t i, int64_t start) {
      dt = rows.row(0, b, i, start);
      dtu = rows.row(1, b, i, start);
      y = rows.own_row(0, range, b, i, start);
    }
  };

  void run() {
    if (!ranges.used()) return run_phase<&Forward::run_task>(*this, split.tasks(), scan.threads);
    Workspace memory(ranges.bytes());
    ranges.take(memory);
    run_phase<&Forward::prepare_chunks>(*this, ranges.steps.tasks(), scan.threads);
    run_phase<&Forward::run_task>(*this, split.tasks(), scan.threads);
    run_phase<&Forward::finish_chunks>(*this, ranges.steps.tasks(), scan.threads);
  }

  void prepare_chunks(int task) const { prepare_rows(*this, task); }

  void finish_chunks(int task) const {
    Workspace memory(Scratch::bytes());
    Scratch scratch(memory);
    ranges.each_chunk(task, [&](int64_t b, int64_t i, int64_t start, int steps) {
      scratch.use(ranges, 0, b, i, start);
      ranges.add_up(0, b, i, start, steps);
      finish(b, chunk_steps(scan, s, start, steps), steps, s.tile(i), scratch);
    });
  }

  void run_task(int task) const {
    const StateRange range = s.range(task % split.segments, split.segments);
    const int part = task / split.segments % split.parts, slice = task / split.segments / split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t size = s.tile_states(), row_states = kScanCheckpoint * s.padded_states;
    Workspace memory(Parameters<T>::bytes(s, end - first) + Workspace::bytes<T>((end - first) * size) +
                     2 * Workspace::bytes<T>(row_states) + Workspace::bytes<T>(kDecays<T>) + Scratch::bytes());
    const Parameters<T> parameters(scan, s, first, end, memory);
    T* states = memory.take<T>((end - first) * size);
    T* B_rows = memory.take<T>(row_states);
    T* C_rows = memory.take<T>(row_states);
    T* decays = memory.take<T>(kDecays<T>);
    Scratch scratch(memory);

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
          if (scan.checkpoints)
            memcpy(checkpoint(sequence.checkpoint + chunk, i, range), state + range.first * kTile, bytes_of(range));

          T largest_dt;
          if (ranges.used()) {
            scratch.use(ranges, task % split.segments, b, i, start);
            largest_dt = ranges.largest_within(b, i, start, steps);
            if (range.first) memset(scratch.y, 0, sizeof(T) * steps * kTile);
          } else {
            largest_dt = prepare(b, on, steps, tile, scratch);
          }
          const bool clamp = !(largest_dt * parameters.largest_A[i - first] < T(126));
          for (int64_t n = range.first; n < range.end; n += kStates<T>) {
            const int64_t local = (i - first) * size, at_n = local + n * kTile;
            choose_clamp<T>(clamp, [&](auto clamped) {
              decay_block<T, clamped.value>(steps, scratch.dt, parameters.A + at_n, decays);
            });
            choose(s.channel_B, [&](auto channel_B) {
              choose(s.channel_C, [&](auto channel_C) {
                walk_block<T, channel_B.value, channel_C.value, true, false>(
                    steps, Straight{}, decays, scratch.dtu, scratch.y,
                    from_state<channel_B.value>(B, parameters.B, local, n),
                    from_state<channel_C.value>(C, parameters.C, local, n), states + at_n, states + at_n);
              });
            });
          }
          if (!ranges.used()) finish(b, on, steps, tile, scratch);
        }
      }
      if (scan.checkpoints)  // the same bits for the same arguments, where nothing is kept too
        for (int64_t at = sequence.checkpoint + sequence.chunks; at < sequence.end_checkpoint; ++at)
          for (int64_t i = first; i < end; ++i) memset(checkpoint(at, i, range), 0, bytes_of(range));
      if (scan.last_state)
        for (int64_t i = first; i < end; ++i)
          unpack_states<T>(states + (i - first) * size, scan.last_state, range, s.tile(i), index);
    }
  }

  T* checkpoint(int64_t place, int64_t tile, const StateRange& range) const {
    return static_cast<T*>(scan.checkpoints.data) + ((place * s.tiles + tile) * s.states + range.first) * kTile;
  }
  static int64_t bytes_of(const StateRange& range) { return sizeof(T) * (range.end - range.first) * kTile; }

  // dt = softplus(delta + bias), dtu = dt u, y = D u + addend; returns the largest |dt|.
  __attribute__((noinline)) T prepare(int64_t b, const ChunkSteps& on, int steps, const Tile& tile, Scratch to) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    const auto at = [&](const Tensor& x, const Steps& rows) { return plane(x, b, rows).at(tile.channel, 0); };
    const Rows<const T> u = read_rows<T>(at(scan.u, on.tokens), steps, tile.channels, to.u);
    const Rows<const T> delta = read_rows<T>(at(scan.delta, on.times), steps, tile.channels, to.delta);
    Rows<const T> addend{nullptr, 0};
    if (scan.addend) addend = read_rows<T>(at(scan.addend, on.tokens), steps, tile.channels, to.addend);
    alignas(64) T bias[kTile], D[kTile];
    pack_channels<T>(scan.delta_bias, tile, bias, b);
    pack_channels<T>(scan.D, tile, D);
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
        store<T>(to.dt + t * kTile + v * W, x[v]);
        store<T>(to.dtu + t * kTile + v * W, x[v] * u_t);
        const Vec<T> skip = load<T>(D + v * W) * u_t;
        store<T>(to.y + t * kTile + v * W, addend.data ? skip + load<T>(addend[t] + v * W) : skip);
      }
    }
    return largest_lane<T>(largest);
  }

  // out = y, or y silu(z).
  __attribute__((noinline)) void finish(int64_t b, const ChunkSteps& on, int steps, const Tile& tile,
                                        Scratch from) const {
    const auto at = [&](const Tensor& x) { return plane(x, b, on.tokens).at(tile.channel, 0); };
    const Plane out_plane = at(scan.out);
    const Rows<T> out = rows_for<T>(out_plane, tile.channels, from.out);
    if (scan.z)
      gate(steps, from.y, read_rows<T>(at(scan.z), steps, tile.channels, from.z), out);
    else
      for (int t = 0; t < steps; ++t) memcpy(out[t], from.y + t * kTile, sizeof(T) * kTile);
    write_rows<T>(out_plane, out, steps, tile.channels);
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
};

}  // namespace

void selective_scan_forward(const SelectiveScanForward& scan) { run_pass<Forward>(scan); }

}  // namespace transmamba::TRANSMAMBA_ISA
