#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/digest.hpp"

#ifndef MADV_POPULATE_WRITE  // headers older than Linux 5.14
#define MADV_POPULATE_WRITE 23
#endif

namespace yr_fastload {

/// Has the kernel back memory that is about to be written, in one call instead of one fault a page. What is there
/// already stays as it is. Copying into memory that nobody has touched takes 0.77 of the time (1.5 GiB, two threads,
/// medians, Linux 6.18). A kernel that cannot do it says so, and the copy faults its pages in as ever.
///
/// Asking for pages that are all there costs 15 % of a copy, so one of them is looked at first: the last.
inline void back_with_memory(std::byte* destination, std::size_t bytes) noexcept {
  constexpr std::uintptr_t kPage = 4096;
  const auto address = reinterpret_cast<std::uintptr_t>(destination);
  const std::uintptr_t first = (address + kPage - 1) & ~(kPage - 1);
  const std::uintptr_t end = (address + bytes) & ~(kPage - 1);
  unsigned char there = 0;
  if (first >= end || ::mincore(reinterpret_cast<void*>(end - kPage), kPage, &there) != 0 || (there & 1U) != 0) return;
  ::madvise(reinterpret_cast<void*>(first), end - first, MADV_POPULATE_WRITE);
}

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
