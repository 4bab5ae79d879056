#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace yr_fastload {

/// Smaller copies are better kept in the caches.
constexpr std::size_t kLeastStreamed = 8192;
/// Prefetch distance of a copy past the caches (measured: better than none, and than 2,048).
constexpr std::size_t kAheadBytes = 512;

/// Whether a copy to `destination` bypasses the caches. Weights are larger than any cache, and a non-temporal store
/// need not read the line that it writes.
inline bool streams(const std::byte* destination, std::size_t bytes) noexcept {
#if defined(__x86_64__)
  return bytes >= kLeastStreamed && reinterpret_cast<std::uintptr_t>(destination) % sizeof(__m128i) == 0;
#else
  static_cast<void>(destination);
  static_cast<void>(bytes);
  return false;
#endif
}

/// To be called after stores past the caches, before another thread is told about them.
inline void end_of_stream() noexcept {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

/// memcpy that bypasses the caches where that is better.
void copy_bytes(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept;

}  // namespace yr_fastload
