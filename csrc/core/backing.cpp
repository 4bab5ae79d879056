#include "core/backing.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "core/deadline.hpp"

#ifndef MADV_POPULATE_WRITE  // headers older than Linux 5.14
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE  // headers older than Linux 6.1
#define MADV_COLLAPSE 25
#endif

namespace yr_fastload {
namespace {

constexpr std::uintptr_t kPage = 4096;
constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
/// Faulting in a huge page takes 0.15 ms; in a virtual machine that returns free blocks to its host it took 4 ms,
/// because the host has to back the whole page again (vLLM, 2.18 GiB: 4.7 s, against 1.8 s in small pages).
constexpr double kSlowSeconds = 1e-3;

bool advise(std::uintptr_t begin, std::uintptr_t end, int advice) noexcept {
  return ::madvise(reinterpret_cast<void*>(begin), end - begin, advice) == 0;
}

/// The administrator's setting, which MADV_COLLAPSE ignores.
bool huge_pages_allowed() noexcept {
  static const bool allowed = [] {
    std::string setting;
    std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), setting);
    return !setting.empty() && setting.find("[never]") == std::string::npos;
  }();
  return allowed;
}

/// At least one page must be resident for MADV_COLLAPSE to work.
bool back_with_huge_page(std::uintptr_t begin, Backing::HugePages& huge) noexcept {
  if (!huge || !huge_pages_allowed()) return false;
  const Stopwatch watch;
  const bool backed =
      advise(begin, begin + kPage, MADV_POPULATE_WRITE) && advise(begin, begin + kHugePage, MADV_COLLAPSE);
  if (watch.seconds() > kSlowSeconds) huge = false;
  return backed;
}

/// Populating pages that are resident already costs 15 % of a copy, so the last one is checked first.
void back(std::uintptr_t begin, std::uintptr_t end, Backing::HugePages& huge) noexcept {
  begin = (begin + kPage - 1) & ~(kPage - 1);
  end &= ~(kPage - 1);
  unsigned char there = 0;
  if (begin >= end || ::mincore(reinterpret_cast<void*>(end - kPage), kPage, &there) != 0 || (there & 1U) != 0) return;
  if (end - begin < kHugePage || !back_with_huge_page(begin, huge)) advise(begin, end, MADV_POPULATE_WRITE);
}

}  // namespace

Backing::Backing(std::byte* destination, std::uint64_t bytes, HugePages& huge) noexcept
    : at_(reinterpret_cast<std::uintptr_t>(destination)), begin_(at_), end_(at_ + bytes), huge_(huge) {}

void Backing::reach(std::uint64_t bytes) noexcept {
  while (at_ < begin_ + bytes) {
    const std::uintptr_t next = std::min(end_, (at_ / kHugePage + 1) * kHugePage);
    back(at_, next, huge_);
    at_ = next;
  }
}

}  // namespace yr_fastload
