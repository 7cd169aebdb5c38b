// The gradients of a scan that are sums over time or the batch: taken task by task, added up at the end, in order.
#pragma once
#include "selective_scan/scan_setup.h"

namespace transmamba::TRANSMAMBA_ISA {
namespace {

// Sums over batch and time of one slice of the batch.
template <class T>
struct ChannelSums {
  T *A, *B, *C;  // [tiles][padded_states][kTile]; B, C only per channel
  T *D, *bias;   // [tiles][kTile]

  static int64_t count(const Sizes<T>& s) {
    return s.tiles * ((1 + s.channel_B + s.channel_C) * s.tile_states() + 2 * kTile);
  }
  ChannelSums(T* memory, const Sizes<T>& s) {
    const int64_t size = s.tiles * s.tile_states();
    A = memory;
    B = A + size;
    C = B + (s.channel_B ? size : 0);
    D = C + (s.channel_C ? size : 0);
    bias = D + s.tiles * kTile;
  }
};

template <class T>
struct ScanSums {
  Sizes<T> s;
  int slices = 0, parts = 0;
  Tensor dA, dB, dC, dD, dbias;
  int64_t B_rows = 0, C_rows = 0;  // rows of states in dB and dC: the length, 1 where constant over time
  T *channel = nullptr, *B = nullptr, *C = nullptr;

  ScanSums() = default;
  template <class Gradients>
  ScanSums(const Sizes<T>& sizes, int slices, int parts, const Tensor& B, const Tensor& C, const Gradients& gradients)
      : s(sizes),
        slices(slices),
        parts(parts),
        dA(gradients.dA),
        dB(gradients.dB),
        dC(gradients.dC),
        dD(gradients.dD),
        dbias(gradients.ddelta_bias),
        B_rows(rows(B)),
        C_rows(rows(C)) {}

  int64_t bytes() const {
    return Workspace::bytes<T>(ChannelSums<T>::count(s) * slices) +
           (parts > 1 ? Workspace::bytes<T>(parts * total(B_rows)) + Workspace::bytes<T>(parts * total(C_rows)) : 0);
  }
  void take(Workspace& memory) {
    channel = memory.take<T>(ChannelSums<T>::count(s) * slices);
    memset(channel, 0, sizeof(T) * ChannelSums<T>::count(s) * slices);
    const auto own = [&](const Tensor& x, int64_t count) {  // the parts of the channels share a batch entry
      T* to = parts > 1 ? memory.take<T>(parts * count) : static_cast<T*>(x.data);
      if (to) memset(to, 0, sizeof(T) * (parts > 1 ? parts : 1) * count);
      return to;
    };
    if (dB && !s.channel_B) B = own(dB, total(B_rows));
    if (dC && !s.channel_C) C = own(dC, total(C_rows));
  }
  ChannelSums<T> of_slice(int slice) const { return {channel + slice * ChannelSums<T>::count(s), s}; }
  bool bias_per_sample() const { return dbias && dbias.shape[0] != 1; }

  // Adds the lanes of partial sums ([states / kStates][steps][kStates][lanes]) to a range of the rows of one batch
  // entry and group; `row(t)` is the row of step t.
  template <class Row>
  void collect_B(const T* partial, const StateRange& range, int64_t steps, int part, int64_t batch, int64_t group,
                 Row row) const {
    if (B) collect(partial, range, steps, B_rows, B + first_row(part, batch, group) * B_rows * s.states, row);
  }
  template <class Row>
  void collect_C(const T* partial, const StateRange& range, int64_t steps, int part, int64_t batch, int64_t group,
                 Row row) const {
    if (C) collect(partial, range, steps, C_rows, C + first_row(part, batch, group) * C_rows * s.states, row);
  }

  // dbias of each batch entry, whose sums are in `count` slices side by side.
  void put_bias_per_sample(int count) const {
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t i = 0; i < s.tiles; ++i) {
        const Tile tile = s.tile(i);
        T* to = static_cast<T*>(dbias.data) + b * s.channels + tile.channel;
        for (int c = 0; c < tile.channels; ++c) {
          to[c] = 0;
          for (int64_t k = 0; k < count; ++k) to[c] += of_slice(int(b * count + k)).bias[i * kTile + c];
        }
      }
  }

  void add_up() const {
    if (parts > 1 && B) add_parts(B, total(B_rows), static_cast<T*>(dB.data));
    if (parts > 1 && C) add_parts(C, total(C_rows), static_cast<T*>(dC.data));
    const int64_t stride = ChannelSums<T>::count(s);
    for (int slice = 1; slice < slices; ++slice)
      for (int64_t j = 0; j < stride; ++j) channel[j] += channel[slice * stride + j];
    const ChannelSums<T> sums(channel, s);
    for (int64_t i = 0; i < s.tiles; ++i) {
      const Tile tile = s.tile(i);
      const int64_t at = i * s.tile_states();
      const auto put = [&](const Tensor& x, const T* from) {
        if (x) memcpy(static_cast<T*>(x.data) + tile.channel, from + i * kTile, sizeof(T) * tile.channels);
      };
      if (dA) unpack_states<T>(sums.A + at, dA, s.all_states(), tile);
      if (dB && s.channel_B) unpack_states<T>(sums.B + at, dB, s.all_states(), tile);
      if (dC && s.channel_C) unpack_states<T>(sums.C + at, dC, s.all_states(), tile);
      put(dD, sums.D);
      if (!bias_per_sample()) put(dbias, sums.bias);
    }
  }

 private:
  int64_t rows(const Tensor& x) const { return x.rank == 2 ? 0 : x.shape[x.rank - 1] == 1 ? 1 : s.length; }
  int64_t total(int64_t rows) const { return s.batch * s.groups * rows * s.states; }

  void add_parts(const T* from, int64_t count, T* to) const {
    for (int64_t j = 0; j < count; ++j) {
      T sum = 0;
      for (int p = 0; p < parts; ++p) sum += from[p * count + j];
      to[j] = sum;
    }
  }

  int64_t first_row(int part, int64_t batch, int64_t group) const {
    return (part * s.batch + batch) * s.groups + group;
  }

  template <class Row>
  void collect(const T* partial, StateRange range, int64_t steps, int64_t rows, T* to, Row row_of) const {
    constexpr int S = kStates<T>, W = kLanes<T>;
    for (int64_t t = 0; t < steps; ++t) {
      T* row = to + (rows == 1 ? 0 : row_of(t)) * s.states;
      const auto lanes = [&](int64_t n, int k) { return partial + ((n + k / S * S) * steps + t * S + k % S) * W; };
      int64_t n = range.first;
      for (; n + W <= range.end; n += W) {
        Vec<T> r[W];
        for (int k = 0; k < W; ++k) r[k] = load<T>(lanes(n, k));
        transpose<T>(r);
        for (int half = W / 2; half > 0; half /= 2)
          for (int k = 0; k < half; ++k) r[k] += r[k + half];
        store<T>(row + n, load<T>(row + n) + r[0]);
      }
      for (int k = 0; n + k < range.end; ++k) row[n + k] += sum<T>(load<T>(lanes(n, k)));
    }
  }
};

}  // namespace
}  // namespace transmamba::TRANSMAMBA_ISA
