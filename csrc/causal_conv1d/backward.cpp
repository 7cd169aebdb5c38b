#include "causal_conv1d/conv_setup.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

// Walks the blocks from the last time step to the first: g of a block, then dx, which needs g of the W - 1 steps after
// the block, carried over from the block before. Before time 0 dx is the gradient of the initial state.
template <class T>
struct Backward {
  const CausalConv1dBackward& conv;
  Convolution<T> c{conv};
  Layout layout = common_layout({conv.x, conv.dout, conv.dx});
  Split split{c.batch, c.tiles, conv.threads, c.length / kSegment};
  bool line = layout == Layout::lines;
  T* sums = nullptr;  // [slices * segments][width + 1][padded]: of dweight and, last, of dbias

  int64_t sums_count() const { return (c.width + 1) * c.padded; }

  void run() {
    const int copies = split.slices * split.segments;
    Workspace memory(c.packed_bytes() + Workspace::bytes<T>(copies * sums_count()));
    c.pack(memory);
    sums = memory.take<T>(copies * sums_count());
    memset(sums, 0, sizeof(T) * copies * sums_count());
    run_tasks(
        split.tasks(), conv.threads, [](int task, void* self) { static_cast<const Backward*>(self)->run_task(task); },
        this);

    for (int copy = 1; copy < copies; ++copy)
      for (int64_t j = 0; j < sums_count(); ++j) sums[j] += sums[copy * sums_count() + j];
    const auto put = [&](const T* from, const Tensor& x, int64_t offset) {
      write<T>(from, static_cast<char*>(x.data) + offset * item_size(x.dtype), x.dtype, x.stride[0], c.channels);
    };
    if (conv.dweight)
      for (int k = 0; k < c.width; ++k) put(sums + k * c.padded, conv.dweight, k * conv.dweight.stride[1]);
    if (conv.dbias) put(sums + c.width * c.padded, conv.dbias, 0);
  }

  struct Scratch {  // staged blocks; g with the W - 1 steps after it; its carry, [W - 1][padded]
    T *seen, *dout, *dx, *g, *carry, *spread, *lanes, *zeros, *sums;
  };

  void run_task(int task) const {
    const int segment = task % split.segments, part = task / split.segments % split.parts;
    const int slice = task / split.segments / split.parts;
    const int64_t first = bound(c.tiles, part, split.parts) * kTile;
    const int64_t end = part + 1 == split.parts ? c.channels : bound(c.tiles, part + 1, split.parts) * kTile;
    const int64_t from = bound(c.length, segment, split.segments), to = bound(c.length, segment + 1, split.segments);
    const int64_t strip = int64_t(c.past + kSteps) * kStrip, g_count = strip > c.staged() ? strip : c.staged();
    const int64_t carry = c.past * c.padded, splat = (c.width + 1) * kLanes<T>;
    Workspace memory(3 * Workspace::bytes<T>(c.staged()) + Workspace::bytes<T>(g_count) + Workspace::bytes<T>(carry) +
                     2 * Workspace::bytes<T>(splat) + Workspace::bytes<T>(kStrip));
    Scratch scratch;
    scratch.seen = memory.take<T>(c.staged());
    scratch.dout = memory.take<T>(c.staged());
    scratch.dx = memory.take<T>(c.staged());
    scratch.g = memory.take<T>(g_count);
    scratch.carry = memory.take<T>(carry);
    scratch.spread = memory.take<T>(splat);
    scratch.lanes = memory.take<T>(splat);
    scratch.zeros = memory.take<T>(kStrip);
    scratch.sums = sums + (slice * split.segments + segment) * sums_count();
    memset(scratch.zeros, 0, sizeof(T) * kStrip);

    for (int64_t b = bound(c.batch, slice, split.slices); b < bound(c.batch, slice + 1, split.slices); ++b)
      c.each_sequence(layout, b, from, to, first, end,
                      [&](const Sequence& sequence, int64_t from, int64_t to, int64_t first, int64_t end) {
                        run_sequence(sequence, from, to, first, end, scratch);
                      });
  }

  // The steps [from, to) of channels [first, end), and the initial state before the first.
  void run_sequence(const Sequence& sequence, int64_t from, int64_t to, int64_t first, int64_t end,
                    const Scratch& scratch) const {
    // The next segment's first steps are walked for their g alone.
    const int64_t length = sequence.length, top = to + c.past < length ? to + c.past : length;
    const int64_t bottom = from == 0 && conv.dinitial_state ? -c.past : from;
    const bool strips = layout == Layout::strips;
    const int64_t early = strips ? c.past : 0, late = strips && conv.dfinal_state ? length - c.past : length;
    for (int k = 0; k < c.past; ++k) memset(scratch.carry + k * c.padded + first, 0, sizeof(T) * (end - first));
    for (int64_t stop = top; stop > bottom;) {
      int64_t start = stop - block_steps(layout);
      for (int64_t edge : {bottom, int64_t(0), early, late, to})
        if (edge < stop && edge > start) start = edge;
      const bool edges = start < early || stop > late;
      c.each_block(layout, sequence, first, end, start, int(stop - start), edges, [&](const Block& block, bool staged) {
        if (start < 0)
          run_initial_state(block, scratch);
        else if (staged)
          run_staged(block, start >= to, scratch);
        else
          run_in_place(block, start >= to, scratch);
      });
      stop = start;
    }
  }

  void run_in_place(const Block& block, bool only_g, const Scratch& scratch) const {
    visit_stored<T>(conv.x.dtype, [&](auto stored) {
      using S = decltype(stored);
      const Plane x = c.at(conv.x, block), dout = c.at(conv.dout, block);
      const Plane dx = conv.dx ? c.at(conv.dx, block) : Plane{};
      run_block(block, {block.steps, block.channels, kStrip},
                Strip<S>{reinterpret_cast<const S*>(x.at(0, -c.past).data), x.time},
                reinterpret_cast<const S*>(dout.data), dout.time, reinterpret_cast<S*>(dx.data), dx.time,
                c.filter(block.channel), only_g, scratch);
    });
  }

  void run_staged(const Block& block, bool only_g, const Scratch& scratch) const {
    const Grid grid = c.grid(block, line);
    c.stage_seen(block, line, scratch.seen);
    c.stage(conv.dout, block, line, scratch.dout);
    T* dx = conv.dx ? scratch.dx : nullptr;
    const auto run = [&](auto seen) {
      run_block(block, grid, seen, scratch.dout, grid.row, dx, grid.row, filter(block, scratch), only_g, scratch);
    };
    if (line)
      run(Line<T>{scratch.seen});
    else
      run(Strip<T>{scratch.seen, grid.row});
    if (only_g || !conv.dx) return;
    add_final_state(block, scratch.dx);
    c.unstage(scratch.dx, conv.dx, block, line);
  }

  void run_initial_state(const Block& block, const Scratch& scratch) const {
    const Grid grid = c.grid(block, line);
    memset(scratch.g, 0, sizeof(T) * block.steps * step());
    carry_in(block, step(), scratch);
    const Filter<T> flipped = filter(block, scratch).flipped(scratch.zeros);
    const auto run = [&](auto g) {
      convolve<T, 0, After::nothing>(grid.rows, grid.channels, g, flipped, scratch.dx, 0, scratch.dx, grid.row);
    };
    if (line)
      run(Line<T>{scratch.g});
    else
      run(Strip<T>{scratch.g, grid.row});
    carry_out(block, step(), scratch);
    add_final_state(block, scratch.dx);
    const Plane state = c.state_at(conv.dinitial_state, block);
    for (int t = 0; t < block.steps; ++t)
      write<T>(scratch.dx + t * step(), state.at(0, block.time + c.past + t).data, state.dtype, state.channel,
               block.channels);
  }

  // In a staged block: numbers from one time step to the next, and the filter.
  int64_t step() const { return line ? 1 : kTile; }
  Filter<T> filter(const Block& block, const Scratch& scratch) const {
    return line ? c.line_filter(block.channel, scratch.spread) : c.filter(block.channel);
  }

  void add_final_state(const Block& block, T* dx) const {
    if (!conv.dfinal_state) return;
    const Plane state = c.state_at(conv.dfinal_state, block);
    const int64_t late = block.sequence.length - c.past - block.time;  // the step of the state's first entry
    for (int64_t t = late > 0 ? late : 0; t < block.steps; ++t) {
      T row[kTile];
      read<T>(state.at(0, t - late).data, state.dtype, state.channel, block.channels, row);
      for (int i = 0; i < block.channels; ++i) dx[t * step() + i] += row[i];
    }
  }

  // g, the sums over time, and dx of a block.
  template <class Window, class S = typename Window::Stored>
  void run_block(const Block& block, Grid grid, Window x, const S* dout, int64_t dout_row, S* dx, int64_t dx_row,
                 Filter<T> filter, bool only_g, const Scratch& scratch) const {
    T* g = scratch.g;
    choose_width<T>(c.width, [&](auto width) {
      constexpr int W = width.value;
      if (conv.silu)
        convolve<T, W, After::silu_slope>(grid.rows, grid.channels, x, filter, dout, dout_row, g, grid.row);
      else
        for (int r = 0; r < grid.rows; ++r)
          for (int i = 0; i < grid.channels; i += kLanes<T>)
            store<T>(g + r * grid.row + i, load_as<T>(dout + r * dout_row + i));

      if (!only_g && (conv.dweight || conv.dbias)) add_up<W>(block, grid, x, scratch);
      carry_in(block, line ? 1 : grid.row, scratch);
      if (!only_g && dx)
        convolve<T, W, After::nothing>(grid.rows, grid.channels, gradient_of(x, grid, g), filter.flipped(scratch.zeros),
                                       dx, 0, dx, dx_row);
      carry_out(block, line ? 1 : grid.row, scratch);
    });
  }

  // g as the filter reads it.
  template <class S>
  static Strip<T> gradient_of(Strip<S>, Grid grid, const T* g) {
    return {g, grid.row};
  }
  static Line<T> gradient_of(Line<T>, Grid, const T* g) { return {g}; }

  template <int W, class S>
  void add_up(const Block& block, Grid grid, Strip<S> x, const Scratch& scratch) const {
    T* totals = scratch.sums + block.channel;
    add_up_gradients<T, W>(grid.rows, grid.channels, c.width, x, scratch.g, grid.row, totals, c.padded,
                           totals + c.width * c.padded);
  }
  // Whole vectors lane by lane, then the few steps after them.
  template <int W>
  void add_up(const Block& block, Grid, Line<T> x, const Scratch& scratch) const {
    constexpr int n = kLanes<T>;
    const int whole = block.steps / n;
    T *lanes = scratch.lanes, *totals = scratch.sums + block.channel;
    memset(lanes, 0, sizeof(T) * (c.width + 1) * n);
    add_up_gradients<T, W>(whole, n, c.width, x, scratch.g, n, lanes, n, lanes + c.width * n);
    for (int k = 0; k <= c.width; ++k) {
      T total = sum<T>(load<T>(lanes + k * n));
      for (int t = whole * n; t < block.steps; ++t) total += k < c.width ? scratch.g[t] * x.data[t + k] : scratch.g[t];
      totals[k * c.padded] += total;
    }
  }

  void carry_in(const Block& block, int64_t step, const Scratch& scratch) const {
    for (int k = 0; k < c.past; ++k)
      memcpy(scratch.g + (block.steps + k) * step, scratch.carry + k * c.padded + block.channel,
             sizeof(T) * block.channels);
  }
  void carry_out(const Block& block, int64_t step, const Scratch& scratch) const {
    for (int k = 0; k < c.past; ++k)
      memcpy(scratch.carry + k * c.padded + block.channel, scratch.g + k * step, sizeof(T) * block.channels);
  }
};

}  // namespace

void causal_conv1d_backward(const CausalConv1dBackward& conv) { run_pass<Backward>(conv); }

}  // namespace transmamba::TRANSMAMBA_ISA
