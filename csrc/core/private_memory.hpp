#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/object_store.hpp"
#include "core/span.hpp"

namespace yr_fastload {

/// A private mapping of an object in shared memory: its pages are shared with everybody until this process writes to
/// one and gets its own copy of that page. No byte moves.
///
/// Changes by the object's owner show in pages that were not written here, so the object is held. That works as long as
/// the store knows that this process is alive.
class PrivateMemory {
 public:
  PrivateMemory(std::unique_ptr<ObjectView> view, void* mapping, std::size_t mapped, std::size_t offset) noexcept;
  PrivateMemory(const PrivateMemory&) = delete;
  PrivateMemory& operator=(const PrivateMemory&) = delete;
  ~PrivateMemory();

  Span<std::byte> bytes() const noexcept { return bytes_; }
  /// The same bytes in the shared mapping, to compare with; never written here.
  Span<const std::byte> shared() const noexcept { return view_->bytes(); }

  /// Copies the pages that were not written yet, after which nobody else can change a byte.
  void detach() noexcept;
  /// From now on, touching the bytes ends the process.
  void forbid() noexcept;

 private:
  std::unique_ptr<ObjectView> view_;
  void* mapping_;
  std::size_t mapped_;
  Span<std::byte> bytes_;
};

/// Private memory for each view, null where the view is null. Throws kDevice if their bytes are in no file that this
/// process can open: it searches its own descriptors and those of processes that it may inspect, which are those of the
/// same user in the same container.
std::vector<std::unique_ptr<PrivateMemory>> map_private(std::vector<std::unique_ptr<ObjectView>> views);

}  // namespace yr_fastload
