#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/span.hpp"

namespace yr_fastload {

/// Memory of a file without a name, as a worker's pool is: so its bytes can be mapped once more (`map_private`).
/// No address is given out twice; the pages of a block go back to the kernel with it. Not for use across a fork.
class SharedArena : public std::enable_shared_from_this<SharedArena> {
 public:
  /// A part of it, given back by its destructor.
  class Block {
   public:
    Block(std::shared_ptr<SharedArena> arena, Span<std::byte> bytes) noexcept;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block();
    Span<std::byte> bytes() const noexcept { return bytes_; }

   private:
    const std::shared_ptr<SharedArena> arena_;
    const Span<std::byte> bytes_;
  };

  /// Throws kResourceExhausted where the kernel gives no memory.
  static std::shared_ptr<SharedArena> make();
  SharedArena(int file, std::byte* mapping) noexcept;
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;
  ~SharedArena();

  /// Zeroed. Throws kResourceExhausted once all addresses were given out.
  std::shared_ptr<Block> take(std::uint64_t bytes);
  /// Bytes of all blocks that live.
  std::uint64_t used() const noexcept { return used_; }
  /// Whether this is the process that made it.
  bool is_here() const noexcept;

 private:
  void give_back(Span<std::byte> bytes) noexcept;

  const pid_t pid_;
  const int file_;
  std::byte* const mapping_;
  std::atomic<std::uint64_t> next_{0};
  std::atomic<std::uint64_t> used_{0};
};

}  // namespace yr_fastload
