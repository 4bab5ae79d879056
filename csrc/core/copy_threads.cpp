#include "core/copy_threads.hpp"

#include <algorithm>

#include "core/peaks.hpp"
#include "core/slots.hpp"

namespace yr_fastload {

unsigned copy_threads(const TransferOptions& options, std::uint64_t chunks) {
  const auto size = static_cast<unsigned>(
      std::min<std::uint64_t>(std::max(1U, options.copy_threads), std::max<std::uint64_t>(1, chunks)));
  transfer_peaks().copy_threads.note(size);
  return size;
}

unsigned reading_threads(const Device& device, const PinnedPool& pool, const TransferOptions& options,
                         std::uint64_t chunks) {
  const unsigned size = copy_threads(options, chunks);
  return device.cpu_accessible() ? size : Slots::threads(pool, size);
}

}  // namespace yr_fastload
