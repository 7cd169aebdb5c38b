#include "core/launch.cuh"
#include "selective_scan/kernel_forward.cuh"

namespace transmamba::cuda {

void selective_scan_forward(const SelectiveScanForward& scan, Stream stream) {
  ForwardViews views{scan_views(scan)};
  views.out = token_view(scan.out);
  views.addend = token_view(scan.addend);
  views.last_state = state_view(scan.last_state);
  views.checkpoints = contiguous_states(scan.checkpoints.data, views);
  visit_layout(views.states, [&](auto layout) {
    using Layout = decltype(layout);
    using Tile = ForwardTile<Layout>;
    const int64_t rows = views.sequences < kLargestGridY ? views.sequences : kLargestGridY;
    launch(scan_forward_kernel<Layout>, dim3(unsigned(tiles_of(views, Tile::kWidth)), unsigned(rows)),
           dim3(Tile::kThreads), Tile::kBytes, stream, views);
  });
}

}  // namespace transmamba::cuda
