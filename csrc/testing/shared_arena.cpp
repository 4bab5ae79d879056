#include "testing/shared_arena.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

/// Addresses, not memory: pages come when they are written to.
constexpr std::uint64_t kArenaBytes = std::uint64_t{1} << 36;

std::uint64_t whole_pages(std::uint64_t bytes) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

[[noreturn]] void no_memory(const std::string& why) {
  throw Error(ErrorCode::kResourceExhausted, "reserve", "the store has no memory: " + why);
}

}  // namespace

SharedArena::Block::Block(std::shared_ptr<SharedArena> arena, Span<std::byte> bytes) noexcept
    : arena_(std::move(arena)), bytes_(bytes) {}

SharedArena::Block::~Block() { arena_->give_back(bytes_); }

std::shared_ptr<SharedArena> SharedArena::make() {
  const int file = ::memfd_create("yr-fastload-store", MFD_CLOEXEC);
  if (file < 0) no_memory(std::generic_category().message(errno));
  void* const mapping = ::ftruncate(file, static_cast<off_t>(kArenaBytes)) != 0
                            ? MAP_FAILED
                            : ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (mapping == MAP_FAILED) {
    const int reason = errno;
    ::close(file);
    no_memory(std::generic_category().message(reason));
  }
  return std::make_shared<SharedArena>(file, static_cast<std::byte*>(mapping));
}

SharedArena::SharedArena(int file, std::byte* mapping) noexcept : pid_(::getpid()), file_(file), mapping_(mapping) {}

SharedArena::~SharedArena() {
  ::munmap(mapping_, kArenaBytes);
  ::close(file_);
}

std::shared_ptr<SharedArena::Block> SharedArena::take(std::uint64_t bytes) {
  const std::uint64_t length = bytes > kArenaBytes ? kArenaBytes : whole_pages(bytes);
  std::uint64_t first = next_;
  do {
    if (bytes > kArenaBytes - first || length > kArenaBytes - first) no_memory("all its addresses were given out");
  } while (!next_.compare_exchange_weak(first, first + length));
  used_ += bytes;
  return std::make_shared<Block>(shared_from_this(), Span<std::byte>(mapping_ + first, bytes));
}

bool SharedArena::is_here() const noexcept { return ::getpid() == pid_; }

void SharedArena::give_back(Span<std::byte> bytes) noexcept {
  if (!is_here()) return;  // in a forked child the pages are still the parent's
  used_ -= bytes.size();
  if (bytes.size() != 0) ::madvise(bytes.data(), whole_pages(bytes.size()), MADV_REMOVE);
}

}  // namespace yr_fastload
