#include "core/copy.hpp"

#include <cstring>

namespace yr_fastload {

void copy_bytes(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept {
#if defined(__x86_64__)
  if (streams(destination, bytes)) {
    constexpr std::size_t kLine = 64;
    for (; bytes >= kLine; bytes -= kLine, source += kLine, destination += kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(source) + kAheadBytes, _MM_HINT_T0);
      const auto* from = reinterpret_cast<const __m128i*>(source);
      auto* to = reinterpret_cast<__m128i*>(destination);
      for (std::size_t i = 0; i < kLine / sizeof(__m128i); ++i) _mm_stream_si128(to + i, _mm_loadu_si128(from + i));
    }
    end_of_stream();
  }
#endif
  std::memcpy(destination, source, bytes);
}

}  // namespace yr_fastload
