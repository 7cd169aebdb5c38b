#include "selective_scan/scan_sequences.h"
#include "selective_scan/scan_sums.h"
#include "selective_scan/state_ranges.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct Backward {
  const SelectiveScanBackward& scan;
  Sizes<T> s{scan};
  Sequences sequences{scan.u, scan.offsets};
  Split split = sequences.split(s.tiles, scan.threads, most_ranges(s), one_row());
  RangeRows<T> ranges{s, split.segments, scan.threads, 5, 3};  // dt, slope, dtu, g, dz; y, lambda_B, lambda_A
  ScanSums<T> total{s, slices(), split.parts, scan.B, scan.C, scan};

  // Whether all packed sequences add to one row of dB or dC, which slices cannot share.
  bool one_row() const {
    const auto constant = [](const Tensor& x) { return x.rank > 2 && x.shape[x.rank - 1] == 1; };
    return sequences.packed() && (constant(scan.B) || constant(scan.C));
  }

  // Of the sums: those of the channels' parameters are taken by the tasks, the others, in ranges, by chunks of steps.
  int slices() const {
    const int chunks = ranges.used() ? ranges.steps.slices * ranges.steps.segments : 0;
    return split.slices > chunks ? split.slices : chunks;
  }

  struct Scratch {  // rows of one tile and chunk, and the decays and states of one block of states
    T *dt, *slope, *dtu, *g, *dz, *y, *lambda_B, *lambda_A, *in[4], *out[3], *decays, *states;

    static constexpr int64_t kRow = kScanCheckpoint * kTile, kKept = kDecays<T> + kChains<T> * kLanes<T>;
    static int64_t bytes() {
      return 15 * Workspace::bytes<T>(kRow) + Workspace::bytes<T>(kDecays<T>) + Workspace::bytes<T>(kKept);
    }
    explicit Scratch(Workspace& memory) {
      decays = memory.take<T>(kDecays<T>);
      states = memory.take<T>(kKept);
      for (T** row : {&dt, &slope, &dtu, &g, &dz, &y, &lambda_B, &lambda_A, &in[0], &in[1], &in[2], &in[3], &out[0],
                      &out[1], &out[2]})
        *row = memory.take<T>(kRow);
    }
    void use(const RangeRows<T>& rows, int range, int64_t b, int64_t i, int64_t start) {
      int which = 0;
      for (T** row : {&dt, &slope, &dtu, &g, &dz}) *row = rows.row(which++, b, i, start);
      which = 0;
      for (T** row : {&y, &lambda_B, &lambda_A}) *row = rows.own_row(which++, range, b, i, start);
    }
  };

  void run() {
    Workspace memory(total.bytes() + ranges.bytes());
    total.take(memory);
    ranges.take(memory);
    if (ranges.used()) run_phase<&Backward::prepare_chunks>(*this, ranges.steps.tasks(), scan.threads);
    run_phase<&Backward::run_task>(*this, split.tasks(), scan.threads);
    if (ranges.used()) run_phase<&Backward::finish_chunks>(*this, ranges.steps.tasks(), scan.threads);
    if (ranges.used() && total.bias_per_sample()) total.put_bias_per_sample(ranges.steps.segments);
    total.add_up();
  }

  void prepare_chunks(int task) const { prepare_rows(*this, task); }

  void finish_chunks(int task) const {
    Workspace memory(Scratch::bytes());
    Scratch scratch(memory);
    const ChannelSums<T> sums = total.of_slice(ranges.steps_slice(task));
    ranges.each_chunk(task, [&](int64_t b, int64_t i, int64_t start, int steps) {
      scratch.use(ranges, 0, b, i, start);
      for (int which = scan.z ? 0 : 1; which < 3; ++which) ranges.add_up(which, b, i, start, steps);
      finish(b, chunk_steps(scan, s, start, steps), steps, s.tile(i), scratch, sums.D + i * kTile,
             sums.bias + i * kTile);
    });
  }

  void run_task(int task) const {
    constexpr int W = kLanes<T>;
    const StateRange range = s.range(task % split.segments, split.segments);
    const int part = task / split.segments % split.parts, slice = task / split.segments / split.parts;
    const int64_t first = bound(s.tiles, part, split.parts), end = bound(s.tiles, part + 1, split.parts);
    const int64_t size = s.tile_states(), row_states = kScanCheckpoint * s.padded_states;
    Workspace memory(Parameters<T>::bytes(s, end - first) + Workspace::bytes<T>((end - first) * size) +
                     2 * Workspace::bytes<T>(row_states) + 2 * Workspace::bytes<T>(row_states * W) +
                     Workspace::bytes<T>(size) + Scratch::bytes());
    const Parameters<T> parameters(scan, s, first, end, memory);
    const ChannelSums<T> sums = total.of_slice(slice);
    T* adjoint = memory.take<T>((end - first) * size);
    T *B_buffer = memory.take<T>(row_states), *C_buffer = memory.take<T>(row_states);
    T *dB = memory.take<T>(row_states * W), *dC = memory.take<T>(row_states * W);
    T* padded_checkpoint = memory.take<T>(size);
    Scratch scratch(memory);

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
      if (total.bias_per_sample() && !ranges.used())
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
            const int64_t from = range.first * steps * W, count = s.padded(range.end) * steps * W - from;
            memset(dB + from, 0, sizeof(T) * count);
            memset(dC + from, 0, sizeof(T) * count);
          }
          const T* checkpoint = static_cast<const T*>(scan.checkpoints.data) +
                                ((sequence.checkpoint + chunk) * s.tiles + i) * s.states * kTile;
          if (s.states != s.padded_states) {
            memset(padded_checkpoint, 0, sizeof(T) * size);
            memcpy(padded_checkpoint, checkpoint, sizeof(T) * s.states * kTile);
            checkpoint = padded_checkpoint;
          }
          T largest_dt;
          if (ranges.used()) {
            scratch.use(ranges, task % split.segments, b, i, start);
            largest_dt = ranges.largest_within(b, i, start, steps);
            for (T* row : {scratch.y, scratch.lambda_B, scratch.lambda_A})
              if (range.first && (scan.z || row != scratch.y)) memset(row, 0, sizeof(T) * steps * kTile);
          } else {
            largest_dt = prepare(b, on, steps, tile, scratch);
          }
          run_tile(steps, largest_dt, range, scratch, B, C, parameters, i, checkpoint, adjoint + (i - first) * size, dB,
                   dC, sums);
          if (!ranges.used()) finish(b, on, steps, tile, scratch, sums.D + i * kTile, sums.bias + i * kTile);
          if (i + 1 == end || s.tile(i + 1).group != tile.group) {
            const auto row = [&](int64_t t) { return on.times[t]; };
            total.collect_B(dB, range, steps, part, b, tile.group, row);
            total.collect_C(dC, range, steps, part, b, tile.group, row);
          }
        }
      }

      for (int64_t i = first; i < end; ++i) {
        const Tile tile = s.tile(i);
        if (scan.dinitial_state)
          unpack_states<T>(adjoint + (i - first) * size, scan.dinitial_state, range, tile, index);
        if (total.bias_per_sample() && !ranges.used())
          memcpy(static_cast<T*>(scan.ddelta_bias.data) + b * s.channels + tile.channel, sums.bias + i * kTile,
                 sizeof(T) * tile.channels);
      }
    }
  }

  // The recurrence and its adjoint in a range of states of tile i.
  void run_tile(int steps, T largest_dt, const StateRange& range, const Scratch& scratch, Coefficients<T> B,
                Coefficients<T> C, const Parameters<T>& parameters, int64_t i, const T* checkpoint, T* adjoint, T* dB,
                T* dC, const ChannelSums<T>& sums) const {
    constexpr int W = kLanes<T>;
    const int64_t local = (i - parameters.first) * s.tile_states(), global = i * s.tile_states();
    const bool clamp = !(largest_dt * parameters.largest_A[i - parameters.first] < T(126));
    const AdjointRows<T> rows{scratch.dt, scratch.dtu, scratch.g, scratch.lambda_B, scratch.lambda_A};
    for (int64_t n = range.first; n < range.end; n += kStates<T>) {
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
  }

  // All that the recurrence and finish() read; returns the largest |dt|.
  __attribute__((noinline)) T prepare(int64_t b, const ChunkSteps& on, int steps, const Tile& tile, Scratch to) const {
    constexpr int V = kVectors<T>, W = kLanes<T>;
    const auto at = [&](const Tensor& x, const Steps& rows) { return plane(x, b, rows).at(tile.channel, 0); };
    const Rows<const T> u = read_rows<T>(at(scan.u, on.tokens), steps, tile.channels, to.in[0]);
    const Rows<const T> delta = read_rows<T>(at(scan.delta, on.times), steps, tile.channels, to.in[1]);
    const Rows<const T> dout = read_rows<T>(at(scan.dout, on.tokens), steps, tile.channels, to.in[2]);
    Rows<const T> z{nullptr, 0};
    if (scan.z) z = read_rows<T>(at(scan.z, on.tokens), steps, tile.channels, to.in[3]);
    alignas(64) T bias[kTile], D[kTile];
    pack_channels<T>(scan.delta_bias, tile, bias, b);
    pack_channels<T>(scan.D, tile, D);
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
    return largest_lane<T>(largest);
  }

  // du, ddelta, dz and the sums over time of dD and ddelta_bias.
  __attribute__((noinline)) void finish(int64_t b, const ChunkSteps& on, int steps, const Tile& tile, Scratch from,
                                        T* dD, T* dbias) const {
    constexpr int W = kLanes<T>;
    const auto at = [&](const Tensor& x, const Steps& rows) { return plane(x, b, rows).at(tile.channel, 0); };
    alignas(64) T D[kTile];
    pack_channels<T>(scan.D, tile, D);
    const Rows<const T> u = read_rows<T>(at(scan.u, on.tokens), steps, tile.channels, from.in[0]);
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
