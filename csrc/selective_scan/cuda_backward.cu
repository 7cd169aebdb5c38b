#include "core/ordered_sums.cuh"
#include "selective_scan/kernel_backward.cuh"

namespace transmamba::cuda {
namespace {

// The sums of single blocks and sequences, one after the other in `partial`, and what they add up to. Where there is
// one term it is written to its place.
struct PartialSums {
  BackwardViews& views;
  float* partial;
  int64_t count = 0;
  OrderedSums sums;

  PartialSums(const SelectiveScanBackward& scan, BackwardViews& v, int64_t tiles)
      : views(v), partial(static_cast<float*>(scan.partial.data)) {
    const int64_t states = v.channels * v.states;
    v.dA = channel_states(place(scan.dA, 1, v.sequences, states));
    v.dD = place(scan.dD, 1, v.sequences, v.channels);
    const bool per_sample = scan.ddelta_bias && scan.ddelta_bias.shape[0] == v.sequences;
    v.dbias = per_sample ? place(scan.ddelta_bias, v.sequences, 1, v.channels)
                         : place(scan.ddelta_bias, 1, v.sequences, v.channels);
    if (v.channel_B)
      v.channel_dB = channel_states(place(scan.dB, 1, v.sequences, states));
    else
      v.dB = place_rows(scan.dB, v.constant_B, tiles);
    if (v.channel_C)
      v.channel_dC = channel_states(place(scan.dC, 1, v.sequences, states));
    else
      v.dC = place_rows(scan.dC, v.constant_C, tiles);
  }

 private:
  float* place(const Tensor& to, int64_t outer, int64_t terms, int64_t inner) {
    if (!to) return nullptr;
    if (terms == 1) return static_cast<float*>(to.data);
    float* from = partial + count;
    count += outer * terms * inner;
    sums.add({from, static_cast<float*>(to.data), outer, terms, inner});
    return from;
  }
  float* place_rows(const Tensor& to, bool constant, int64_t tiles) {
    const int64_t rows = constant ? 1 : views.length, in_entry = constant ? views.sequences / views.batch : 1;
    return place(to, views.batch * views.groups, in_entry * tiles / views.groups, rows * views.states);
  }
  View channel_states(float* data) const { return contiguous_states(data, views); }
};

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

// Calls f(kernel, BackwardTile): a kernel of its own where coefficients are one row a channel, which is rare, and then
// for any number of states.
template <class F>
void visit_kernel(const BackwardViews& s, F f) {
  const bool by_channel = s.channel_B || s.channel_C;
  visit_layout(by_channel && s.states <= 16 ? 16
               : by_channel                 ? 256
                                            : s.states,
               [&](auto layout) {
                 using Layout = decltype(layout);
                 if constexpr (Layout::kLanes == 4 || Layout::kLanes == 32)
                   if (by_channel) return f(scan_backward_kernel<Layout, true>, BackwardTile<Layout, true>());
                 f(scan_backward_kernel<Layout, false>, BackwardTile<Layout, false>());
               });
}

}  // namespace

int64_t selective_scan_partials(const SelectiveScanBackward& scan) {
  BackwardViews views = backward_views(scan);
  int64_t count = 0;
  visit_kernel(
      views, [&](auto, auto tile) { count = PartialSums(scan, views, tiles_of(views, decltype(tile)::kWidth)).count; });
  return count;
}

void selective_scan_backward(const SelectiveScanBackward& scan, Stream stream) {
  BackwardViews views = backward_views(scan);
  visit_kernel(views, [&](auto kernel, auto tile) {
    using Tile = decltype(tile);
    const int64_t tiles = tiles_of(views, Tile::kWidth);
    const PartialSums partial(scan, views, tiles);
    const int64_t rows = views.sequences < kLargestGridY ? views.sequences : kLargestGridY;
    launch(kernel, dim3(unsigned(tiles), unsigned(rows)), dim3(Tile::kThreads), Tile::kBytes, stream, views);
    launch_sums(partial.sums, stream);
  });
}

}  // namespace transmamba::cuda
