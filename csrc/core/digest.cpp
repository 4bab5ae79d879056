#include "core/digest.hpp"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/copy.hpp"
#include "core/mix.hpp"

namespace yr_fastload {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the digest reads words as they lie in memory");

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);
constexpr std::size_t kColumns = Digest::kBlockBytes / kWordBytes;
constexpr std::uint64_t kLow = 0xffffffffULL;
constexpr std::uint64_t kLengthKey = 0xd6e8feb86659fd93ULL;

constexpr std::array<std::uint64_t, kColumns> make_keys() noexcept {
  std::array<std::uint64_t, kColumns> keys{};
  for (std::size_t i = 0; i < kColumns; ++i) keys[i] = mix((i + 1) * kBlockKey);
  return keys;
}

alignas(64) constexpr std::array<std::uint64_t, kColumns> kKeys = make_keys();

std::uint64_t word_term(std::uint64_t word, std::uint64_t key) noexcept {
  const std::uint64_t low = (word + key) & kLow;
  const std::uint64_t high = ((word >> 32) + (key >> 32)) & kLow;
  return low * high + word;
}

/// Terms of the columns from `first` on, the last word padded with zeros.
std::uint64_t tail_sum(const std::byte* data, std::size_t bytes, std::size_t first) noexcept {
  std::uint64_t sum = 0;
  for (std::size_t column = first; column * kWordBytes < bytes; ++column) {
    const std::size_t offset = column * kWordBytes;
    std::uint64_t word = 0;
    std::memcpy(&word, data + offset, bytes - offset < kWordBytes ? bytes - offset : kWordBytes);
    sum += word_term(word, kKeys[column]);
  }
  return sum;
}

#if defined(__x86_64__)

static_assert(kLeastStreamed >= Digest::kBlockBytes, "only whole blocks are copied past the caches");

/// With `kCopy`, whole blocks are also written to `copy` (aligned to 16 bytes) by non-temporal stores.
template <bool kCopy>
__attribute__((target("avx2"))) std::uint64_t block_sum_avx2(const std::byte* data, std::size_t bytes,
                                                             std::byte* copy) noexcept {
  __m256i even = _mm256_setzero_si256();
  __m256i odd = _mm256_setzero_si256();
  std::size_t column = 0;
  for (; (column + 8) * kWordBytes <= bytes; column += 8) {
    const auto* words = reinterpret_cast<const __m256i*>(data + column * kWordBytes);
    const auto* keys = reinterpret_cast<const __m256i*>(&kKeys[column]);
    const __m256i word0 = _mm256_loadu_si256(words);
    const __m256i word1 = _mm256_loadu_si256(words + 1);
    if constexpr (kCopy) {
      _mm_prefetch(reinterpret_cast<const char*>(words) + kAheadBytes, _MM_HINT_T0);
      auto* to = reinterpret_cast<__m128i*>(copy + column * kWordBytes);
      _mm_stream_si128(to, _mm256_castsi256_si128(word0));
      _mm_stream_si128(to + 1, _mm256_extracti128_si256(word0, 1));
      _mm_stream_si128(to + 2, _mm256_castsi256_si128(word1));
      _mm_stream_si128(to + 3, _mm256_extracti128_si256(word1, 1));
    }
    const __m256i keyed0 = _mm256_add_epi32(word0, _mm256_load_si256(keys));
    const __m256i keyed1 = _mm256_add_epi32(word1, _mm256_load_si256(keys + 1));
    const __m256i product0 = _mm256_mul_epu32(keyed0, _mm256_srli_epi64(keyed0, 32));
    const __m256i product1 = _mm256_mul_epu32(keyed1, _mm256_srli_epi64(keyed1, 32));
    even = _mm256_add_epi64(even, _mm256_add_epi64(product0, word0));
    odd = _mm256_add_epi64(odd, _mm256_add_epi64(product1, word1));
  }
  alignas(32) std::uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi64(even, odd));
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + tail_sum(data, bytes, column);
}

std::uint64_t sum_avx2(const std::byte* data, std::size_t bytes) noexcept {
  return block_sum_avx2<false>(data, bytes, nullptr);
}

std::uint64_t copy_sum_avx2(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept {
  return block_sum_avx2<true>(source, bytes, destination);
}

#elif defined(__aarch64__)

std::uint64_t sum_neon(const std::byte* data, std::size_t bytes) noexcept {
  uint64x2_t even = vdupq_n_u64(0);
  uint64x2_t odd = vdupq_n_u64(0);
  std::size_t column = 0;
  for (; (column + 4) * kWordBytes <= bytes; column += 4) {
    const auto* words = reinterpret_cast<const std::uint8_t*>(data) + column * kWordBytes;
    const auto* keys = reinterpret_cast<const std::uint8_t*>(&kKeys[column]);
    const uint32x4_t word0 = vreinterpretq_u32_u8(vld1q_u8(words));
    const uint32x4_t word1 = vreinterpretq_u32_u8(vld1q_u8(words + 16));
    const uint32x4_t keyed0 = vaddq_u32(word0, vreinterpretq_u32_u8(vld1q_u8(keys)));
    const uint32x4_t keyed1 = vaddq_u32(word1, vreinterpretq_u32_u8(vld1q_u8(keys + 16)));
    const uint32x4_t low = vuzp1q_u32(keyed0, keyed1);
    const uint32x4_t high = vuzp2q_u32(keyed0, keyed1);
    even = vaddq_u64(vmlal_u32(even, vget_low_u32(low), vget_low_u32(high)), vreinterpretq_u64_u32(word0));
    odd = vaddq_u64(vmlal_high_u32(odd, low, high), vreinterpretq_u64_u32(word1));
  }
  return vaddvq_u64(vaddq_u64(even, odd)) + tail_sum(data, bytes, column);
}

#endif

struct Backend {
  const char* name;
  std::uint64_t (*block_sum)(const std::byte*, std::size_t) noexcept;
  std::uint64_t (*copy_sum)(std::byte*, const std::byte*, std::size_t) noexcept;  ///< of what `streams`; may be null
};

Backend choose_backend() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return {"avx2", sum_avx2, copy_sum_avx2};
#elif defined(__aarch64__)
  return {"neon", sum_neon, nullptr};
#endif
  return {"generic", detail::block_sum_generic, nullptr};
}

const Backend kBackend = choose_backend();

}  // namespace

std::uint64_t detail::block_sum_generic(const std::byte* data, std::size_t bytes) noexcept {
  const std::size_t whole = bytes / kWordBytes;
  std::uint64_t sum = 0;
  for (std::size_t column = 0; column < whole; ++column) {
    std::uint64_t word;
    std::memcpy(&word, data + column * kWordBytes, kWordBytes);
    sum += word_term(word, kKeys[column]);
  }
  return sum + tail_sum(data, bytes, whole);
}

std::uint64_t detail::block_sum_best(const std::byte* data, std::size_t bytes) noexcept {
  return kBackend.block_sum(data, bytes);
}

std::optional<DigestKind> digest_kind(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kDigestNames.size(); ++i)
    if (name == kDigestNames[i]) return static_cast<DigestKind>(i);
  return std::nullopt;
}

std::uint64_t Digest::block_sum(const std::byte* data, std::size_t bytes) const noexcept {
  return kind_ == DigestKind::kNh ? kBackend.block_sum(data, bytes) : row_sums(data, bytes).folded();
}

void Digest::add_block(std::uint64_t sum, std::size_t bytes) noexcept {
  bytes_ += bytes;
  sum_ += mix(sum + ++blocks_ * kBlockKey);
}

template <typename BlockSum>
void Digest::add_blocks(std::size_t bytes, const BlockSum& block_sum) noexcept {
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t block = std::min(bytes - done, kBlockBytes);
    add_block(block_sum(done, block), block);
    done += block;
  }
}

void Digest::update(const std::byte* data, std::size_t bytes) noexcept {
  add_blocks(bytes, [&](std::size_t done, std::size_t block) { return block_sum(data + done, block); });
}

void Digest::update_and_copy(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept {
  const auto fused = kind_ == DigestKind::kNh ? kBackend.copy_sum : nullptr;
  add_blocks(bytes, [&](std::size_t done, std::size_t block) {
    if (fused != nullptr && streams(destination + done, block)) return fused(destination + done, source + done, block);
    std::memcpy(destination + done, source + done, block);
    return block_sum(destination + done, block);
  });
  end_of_stream();
}

void Digest::update_and_keep(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept {
  add_blocks(bytes, [&](std::size_t done, std::size_t block) {
    std::memcpy(destination + done, source + done, block);
    return block_sum(destination + done, block);
  });
}

std::uint64_t Digest::value_of(std::uint64_t bytes, std::uint64_t sum) noexcept {
  return mix(bytes * kLengthKey + sum);
}

std::uint64_t Digest::value() const noexcept { return value_of(bytes_, sum_); }

void DigestFold::add(std::uint64_t digest) noexcept { state_ = mix(state_ * kBlockKey + digest); }

const std::array<std::uint64_t, kColumns>& digest_keys() noexcept { return kKeys; }

const char* digest_backend() noexcept { return kBackend.name; }

}  // namespace yr_fastload
