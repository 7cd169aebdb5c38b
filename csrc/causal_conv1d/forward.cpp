#include "causal_conv1d/conv_setup.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

template <class T>
struct Forward {
  const CausalConv1dForward& conv;
  Convolution<T> c{conv};
  Layout layout = common_layout({conv.x, conv.out});
  Split split{c.batch, c.tiles, conv.threads, c.length / kSegment};

  void run() {
    Workspace memory(c.packed_bytes());
    c.pack(memory);
    run_tasks(
        split.tasks(), conv.threads, [](int task, void* self) { static_cast<const Forward*>(self)->run_task(task); },
        this);
  }

  void run_task(int task) const {
    const int segment = task % split.segments, part = task / split.segments % split.parts;
    const int slice = task / split.segments / split.parts;
    const int64_t first = bound(c.tiles, part, split.parts) * kTile;
    const int64_t end = part + 1 == split.parts ? c.channels : bound(c.tiles, part + 1, split.parts) * kTile;
    const int64_t from = bound(c.length, segment, split.segments), to = bound(c.length, segment + 1, split.segments);
    const int64_t splat = (c.width + 1) * kLanes<T>;
    Workspace memory(2 * Workspace::bytes<T>(c.staged()) + Workspace::bytes<T>(splat));
    T *seen = memory.take<T>(c.staged()), *out = memory.take<T>(c.staged()), *spread = memory.take<T>(splat);

    const auto run_sequence = [&](const Sequence& sequence, int64_t from, int64_t to, int64_t first, int64_t end) {
      for (int64_t t = from; t < to;) {
        const bool early = t < c.past && layout == Layout::strips;  // sees the initial state
        int64_t stop = t + block_steps(layout);
        if (early && stop > c.past) stop = c.past;
        if (stop > to) stop = to;
        c.each_block(layout, sequence, first, end, t, int(stop - t), early, [&](const Block& block, bool staged) {
          if (staged)
            run_staged(block, seen, out, spread);
          else
            run_in_place(block);
        });
        t = stop;
      }
    };
    const auto end_sequence = [&](const Sequence& sequence, int64_t, int64_t to) {
      if (to == sequence.length) write_final_state(sequence, first, end, seen);
    };
    for (int64_t b = bound(c.batch, slice, split.slices); b < bound(c.batch, slice + 1, split.slices); ++b) {
      c.each_sequence(layout, b, from, to, first, end, run_sequence);
      if (conv.final_state) c.sequences.each(b, from, to, conv.reverse, end_sequence);
    }
  }

  template <class Window, class S = typename Window::Stored>
  void convolve_block(Grid grid, Window x, Filter<T> filter, S* out, int64_t out_row) const {
    choose_width<T>(c.width, [&](auto width) {
      if (conv.silu)
        convolve<T, width.value, After::silu>(grid.rows, grid.channels, x, filter, out, 0, out, out_row);
      else
        convolve<T, width.value, After::nothing>(grid.rows, grid.channels, x, filter, out, 0, out, out_row);
    });
  }

  void run_in_place(const Block& block) const {
    visit_stored<T>(conv.x.dtype, [&](auto stored) {
      using S = decltype(stored);
      const Plane x = c.at(conv.x, block), out = c.at(conv.out, block);
      convolve_block({block.steps, block.channels, 0},
                     Strip<S, true>{reinterpret_cast<const S*>(x.at(0, -c.past).data), x.time}, c.filter(block.channel),
                     reinterpret_cast<S*>(out.data), out.time);
    });
  }

  void run_staged(const Block& block, T* seen, T* out, T* spread) const {
    const bool line = layout == Layout::lines;
    const Grid grid = c.grid(block, line);
    c.stage_seen(block, line, seen);
    if (line)
      convolve_block(grid, Line<T>{seen}, c.line_filter(block.channel, spread), out, grid.row);
    else
      convolve_block(grid, Strip<T, true>{seen, grid.row}, c.filter(block.channel), out, grid.row);
    c.unstage(out, conv.out, block, line);
  }

  // The last W - 1 entries of (initial_state, x), a few of them at a time.
  void write_final_state(const Sequence& sequence, int64_t first, int64_t end, T* buffer) const {
    for (int64_t channel = first; channel < end; channel += kTile) {
      const int count = int(end - channel < kTile ? end - channel : kTile);
      const Block block{sequence, channel, sequence.length, count, 0};
      c.stage_seen(block, false, buffer);
      const Plane state = c.state_at(conv.final_state, block);
      for (int t = 0; t < c.past; ++t)
        write<T>(buffer + t * kTile, state.at(0, t).data, state.dtype, state.channel, count);
    }
  }
};

}  // namespace

void causal_conv1d_forward(const CausalConv1dForward& conv) { run_pass<Forward>(conv); }

}  // namespace transmamba::TRANSMAMBA_ISA
