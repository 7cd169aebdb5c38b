#include "core/workspace.h"

#include <cstdlib>
#include <new>

namespace transmamba {

Workspace::Workspace(int64_t bytes) {
  const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  block_ = std::aligned_alloc(kAlignment, static_cast<size_t>(rounded > 0 ? rounded : kAlignment));
  if (!block_) throw std::bad_alloc();
  next_ = static_cast<char*>(block_);
}

Workspace::~Workspace() { std::free(block_); }

}  // namespace transmamba
