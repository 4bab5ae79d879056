#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/object_store.hpp"
#include "core/span.hpp"

namespace yr_fastload {

/// An object in shared memory at an address of this process's own: its pages are those that everybody maps until
/// somebody here writes to one, who then gets a copy of that page. No byte moves.
///
/// What the object's owner does with its memory shows in pages that nobody here has written, so the object is held.
/// That holds it as long as its store knows this process as alive.
class PrivateMemory {
 public:
  PrivateMemory(std::unique_ptr<ObjectView> view, void* mapping, std::size_t mapped, std::size_t offset) noexcept;
  PrivateMemory(const PrivateMemory&) = delete;
  PrivateMemory& operator=(const PrivateMemory&) = delete;
  ~PrivateMemory();

  Span<std::byte> bytes() const noexcept { return bytes_; }
  /// The same bytes where all see them, to compare with: nobody here writes there.
  Span<const std::byte> shared() const noexcept { return view_->bytes(); }

  /// Copies the pages that nobody has written yet: nobody else changes any byte from then on.
  void detach() noexcept;
  /// Whoever touches the bytes from now on ends the process.
  void forbid() noexcept;

 private:
  std::unique_ptr<ObjectView> view_;
  void* mapping_;
  std::size_t mapped_;
  Span<std::byte> bytes_;
};

/// Private memory of each view, null where the view is. Throws kDevice if their bytes are in no file that this process
/// could open: it looks among its own descriptors and those of processes that it may look into, which are those of the
/// same user in the same container.
std::vector<std::unique_ptr<PrivateMemory>> map_private(std::vector<std::unique_ptr<ObjectView>> views);

}  // namespace yr_fastload
