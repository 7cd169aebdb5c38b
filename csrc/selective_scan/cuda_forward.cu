#include "selective_scan/chunk_carry.cuh"
#include "selective_scan/kernel_forward.cuh"

namespace transmamba::cuda {
namespace {

constexpr int kResident = 4;  // blocks that a multiprocessor holds at least

ForwardViews forward_views(const SelectiveScanForward& scan) {
  ForwardViews views{scan_views(scan)};
  views.out = token_view(scan.out);
  views.addend = token_view(scan.addend);
  views.last_state = state_view(scan.last_state);
  views.checkpoints = contiguous_states(scan.checkpoints.data, views);
  views.chunks = 1;
  views.chunk_steps = views.length;
  return views;
}

void launch_scans(const ForwardScans& all, const Stream& stream) {
  const ForwardViews& first = all.scans[0];
  visit_layout(first.states, [&](auto layout) {
    using Layout = decltype(layout);
    using Tile = ForwardTile<Layout>;
    const int64_t units = first.sequences * first.chunks;
    launch(scan_forward_kernel<Layout>,
           dim3(unsigned(tiles_of(first, Tile::kWidth)), unsigned(units < kLargestGridY ? units : kLargestGridY)),
           dim3(Tile::kThreads), Tile::kBytes, stream, all);
  });
}

void launch_in_chunks(ForwardViews views, const SelectiveScanForward& scan, const Stream& stream) {
  views.chunk_steps = scan.chunk;
  views.chunks = (views.length + scan.chunk - 1) / scan.chunk;
  const int64_t units = views.sequences * views.chunks, states = views.channels * views.states;
  float* memory = static_cast<float*>(scan.chunk_states.data);
  ForwardScans ends{{views}, 1};
  ends.scans[0].initial_state = ends.scans[0].last_state = ends.scans[0].checkpoints = View();
  ends.scans[0].ends = contiguous_states(memory, views);
  ends.scans[0].totals = memory + units * states;
  launch_scans(ends, stream);

  launch_carry({views.A, views.initial_state, memory, ends.scans[0].totals, views.sequences, views.chunks,
                views.channels, views.states, false},
               stream);
  views.initial_state = ends.scans[0].ends;
  launch_scans({{views}, 1}, stream);
}

}  // namespace

int64_t selective_scan_chunk(const SelectiveScan& scan, int multiprocessors) {
  const ScanViews views = scan_views(scan);
  if (scan.offsets) return 0;
  int64_t blocks = 0;
  visit_layout(views.states,
               [&](auto layout) { blocks = tiles_of(views, ForwardTile<decltype(layout)>::kWidth) * views.sequences; });
  const int64_t steps = chunk_steps(views.length, blocks, multiprocessors, kResident);
  return 2 * steps <= views.length ? steps : 0;
}

int64_t selective_scan_chunk_states(const SelectiveScanForward& scan) {
  const int64_t *u = scan.u.shape, chunks = scan.chunk ? (u[2] + scan.chunk - 1) / scan.chunk : 0;
  return u[0] * chunks * u[1] * (scan.A.shape[1] + 1);
}

void selective_scan_forward(const SelectiveScanForward& scan, Stream stream) {
  const ForwardViews views = forward_views(scan);
  if (scan.chunk)
    launch_in_chunks(views, scan, stream);
  else
    launch_scans({{views}, 1}, stream);
}

void selective_scans_forward(const std::vector<SelectiveScanForward>& scans, Stream stream) {
  ForwardScans all{};
  for (size_t i = 0; i < scans.size(); ++i) {
    all.scans[all.count++] = forward_views(scans[i]);
    if (all.count < kMostScans && i + 1 < scans.size()) continue;
    launch_scans(all, stream);
    all.count = 0;
  }
}

}  // namespace transmamba::cuda
