#include "core/ordered_sums.cuh"
#include "selective_scan/chunk_carry.cuh"
#include "selective_scan/kernel_backward_ends.cuh"

namespace transmamba::cuda {
namespace {

constexpr int kResident = 3;  // blocks that a multiprocessor holds

BackwardViews backward_views(const SelectiveScanBackward& scan) {
  BackwardViews views{scan_views(scan)};
  views.dout = token_view(scan.dout);
  views.dlast_state = state_view(scan.dlast_state);
  views.du = token_view(scan.du);
  views.ddelta = token_view(scan.ddelta);
  views.dz = token_view(scan.dz);
  views.add_u = scan.add_u;
  views.add_delta = scan.add_delta;
  views.add_z = scan.add_z;
  views.checkpoints = static_cast<const float*>(scan.checkpoints.data);
  views.dinitial_state = state_view(scan.dinitial_state);
  return views;
}

void cut_into_chunks(BackwardViews& v, int64_t tiles, int64_t multiprocessors) {
  v.chunk_steps = v.offsets ? v.length : chunk_steps(v.length, tiles * v.sequences, multiprocessors, kResident);
  v.chunks = (v.length + v.chunk_steps - 1) / v.chunk_steps;
  v.units = v.sequences * v.chunks;
}

// The sums of single blocks and units, one after the other in `partial`, and what they add up to. Where there is one
// term it is written to its place.
struct PartialSums {
  BackwardViews& views;
  float* partial;
  int64_t count = 0;
  OrderedSums sums;
  float *ends = nullptr, *sizes = nullptr;  // of chunks

  PartialSums(const SelectiveScanBackward& scan, BackwardViews& v, int64_t tiles)
      : views(v), partial(static_cast<float*>(scan.partial.data)) {
    const int64_t states = v.channels * v.states;
    v.dA = contiguous_states(sum(scan.dA, 1, v.units, states), v);
    v.dD = sum(scan.dD, 1, v.units, v.channels);
    const int64_t samples = scan.ddelta_bias ? scan.ddelta_bias.shape[0] : 1;
    v.dbias = sum(scan.ddelta_bias, samples, v.units / samples, v.channels);
    if (v.channel_B)
      v.channel_dB = contiguous_states(sum(scan.dB, 1, v.units, states), v);
    else
      v.dB = sum_of_rows(scan.dB, v.constant_B, tiles);
    if (v.channel_C)
      v.channel_dC = contiguous_states(sum(scan.dC, 1, v.units, states), v);
    else
      v.dC = sum_of_rows(scan.dC, v.constant_C, tiles);
    if (v.chunks > 1) {
      ends = take(v.units * states);
      sizes = take(v.units * v.channels);
    }
  }

 private:
  float* take(int64_t numbers) {
    const int64_t first = (count + 3) / 4 * 4;  // rows of dB and dC are written 16 bytes at a time
    count = first + numbers;
    return partial + first;
  }
  float* sum(const Tensor& to, int64_t outer, int64_t terms, int64_t inner) {
    if (!to) return nullptr;
    if (terms == 1) return static_cast<float*>(to.data);
    float* from = take(outer * terms * inner);
    sums.add({from, static_cast<float*>(to.data), outer, terms, inner});
    return from;
  }
  float* sum_of_rows(const Tensor& to, bool constant, int64_t tiles) {
    const int64_t rows = constant ? 1 : views.length, in_entry = constant ? views.units / views.batch : 1;
    return sum(to, views.batch * views.groups, in_entry * (tiles / views.groups), rows * views.states);
  }
};

// Calls f(StateLayout) with one of two that take any number of states.
template <class F>
void visit_any_layout(int64_t states, F f) {
  if (states <= 16) return f(StateLayout<4, 4>());
  f(StateLayout<8, 32>());
}

// Calls f(kernel, BackwardTile): a kernel of its own where coefficients are one row a channel, which is rare.
template <class F>
void visit_kernel(const BackwardViews& s, F f) {
  if (s.channel_B || s.channel_C)
    visit_any_layout(s.states, [&](auto layout) {
      f(scan_backward_kernel<decltype(layout), true>, BackwardTile<decltype(layout), true>());
    });
  else
    visit_layout(s.states, [&](auto layout) {
      f(scan_backward_kernel<decltype(layout), false>, BackwardTile<decltype(layout), false>());
    });
}

template <class Tile, class... Arguments>
void launch_tiles(void (*kernel)(BackwardViews, Arguments...), const BackwardViews& views, const Stream& stream,
                  const Arguments&... arguments) {
  const int64_t rows = views.units < kLargestGridY ? views.units : kLargestGridY;
  launch(kernel, dim3(unsigned(tiles_of(views, Tile::kWidth)), unsigned(rows)), dim3(Tile::kThreads), Tile::kBytes,
         stream, views, arguments...);
}

// What comes into the chunks from behind: in place of dlast_state.
void carry_between_chunks(BackwardViews& views, const PartialSums& partial, const Stream& stream) {
  const View ends = contiguous_states(partial.ends, views);
  visit_any_layout(views.states, [&](auto layout) {
    using Layout = decltype(layout);
    launch_tiles<BackwardTile<Layout, true>>(scan_backward_ends_kernel<Layout>, views, stream, ends, partial.sizes);
  });
  launch_carry({views.A, views.dlast_state, partial.ends, partial.sizes, views.sequences, views.chunks, views.channels,
                views.states, true},
               stream);
  views.dlast_state = ends;
}

}  // namespace

int64_t selective_scan_partials(const SelectiveScanBackward& scan) {
  BackwardViews views = backward_views(scan);
  int64_t count = 0;
  visit_kernel(views, [&](auto, auto tile) {
    const int64_t tiles = tiles_of(views, decltype(tile)::kWidth);
    cut_into_chunks(views, tiles, scan.multiprocessors);
    count = PartialSums(scan, views, tiles).count;
  });
  return count;
}

void selective_scan_backward(const SelectiveScanBackward& scan, Stream stream) {
  BackwardViews views = backward_views(scan);
  visit_kernel(views, [&](auto kernel, auto tile) {
    using Tile = decltype(tile);
    const int64_t tiles = tiles_of(views, Tile::kWidth);
    cut_into_chunks(views, tiles, scan.multiprocessors);
    const PartialSums partial(scan, views, tiles);
    if (views.chunks > 1) carry_between_chunks(views, partial, stream);
    launch_tiles<Tile>(kernel, views, stream);
    launch_sums(partial.sums, stream);
  });
}

}  // namespace transmamba::cuda
