#include "core/direct_copies.hpp"

#include <utility>
#include <vector>

namespace yr_fastload {

DirectCopies::~DirectCopies() {
  if (copies_.drain()) return;
  for (FetchedChunk& item : items_) {
    static_cast<void>(item.view.release());
    static_cast<void>(std::make_unique<std::shared_ptr<const LockedChunk>>(std::move(item.locked)).release());
  }
}

void DirectCopies::begin(FetchedChunk item, Span<const Copy> runs) {
  const LockedChunk& locked = *item.locked;
  const std::byte* const shown = item.view->bytes().data();
  std::vector<Copy> own(runs.begin(), runs.end());
  for (Copy& run : own) run.source = locked.data() + (run.source - shown);
  items_.push_back(std::move(item));
  copies_.begin_from_host(own, locked.on_device() - locked.data());
}

DirectCopies::Taken DirectCopies::take() {
  const std::uint64_t digest = copies_.take().value_or(0);
  Taken taken{std::move(items_.front()), digest};
  items_.pop_front();
  return taken;
}

}  // namespace yr_fastload
