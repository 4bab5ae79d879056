#include "core/matrix_sums.hpp"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

#include "core/mix.hpp"

namespace yr_fastload {
namespace {

constexpr std::size_t kColumns = RowSums::kColumns;
constexpr std::size_t kShift = RowSums::kShift;
constexpr std::uint64_t kNumberKey = 0xbb67ae8584caa73bULL;  // other numbers than the keys of `DigestKind::kNh`

constexpr std::array<std::uint8_t, kMatrixNumbers> make_numbers() noexcept {
  std::array<std::uint8_t, kMatrixNumbers> numbers{};
  for (std::size_t i = 0; i < kMatrixNumbers; ++i)
    numbers[i] = static_cast<std::uint8_t>(mix((i + 1) * kNumberKey) >> 57);
  return numbers;
}

alignas(64) constexpr std::array<std::uint8_t, kMatrixNumbers> kNumbers = make_numbers();

RowSums sums_generic(const std::byte* row, std::size_t bytes) noexcept {
  RowSums sums;
  for (std::size_t column = 0; column < kColumns; ++column) {
    const std::uint8_t* const numbers = kNumbers.data() + kShift * column;
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < bytes; ++i) sum += static_cast<std::int8_t>(row[i]) * numbers[i];
    sums.values[column] = sum;
  }
  return sums;
}

#if defined(__x86_64__)

#define YRFL_AVX2 __attribute__((target("avx2")))
#define YRFL_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

YRFL_AVX2 RowSums sums_avx2(const std::byte* row, std::size_t bytes) noexcept {
  constexpr std::size_t kPart = sizeof(__m256i);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i totals[kColumns];
#pragma GCC unroll 16
  for (std::size_t column = 0; column < kColumns; ++column) totals[column] = _mm256_setzero_si256();
  for (std::size_t offset = 0; offset < bytes; offset += kPart) {
    alignas(kPart) std::byte rest[kPart] = {};
    const std::byte* part = row + offset;
    if (bytes - offset < kPart) part = static_cast<std::byte*>(std::memcpy(rest, part, bytes - offset));
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part));
#pragma GCC unroll 16
    for (std::size_t column = 0; column < kColumns; ++column) {
      const auto* numbers = reinterpret_cast<const __m256i*>(kNumbers.data() + offset + kShift * column);
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_load_si256(numbers), values);
      totals[column] = _mm256_add_epi32(totals[column], _mm256_madd_epi16(pairs, ones));
    }
  }
  RowSums sums;
#pragma GCC unroll 16
  for (std::size_t column = 0; column < kColumns; ++column) {
    alignas(kPart) std::int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), totals[column]);
    for (const std::int32_t lane : lanes) sums.values[column] += lane;
  }
  return sums;
}

YRFL_VNNI RowSums sums_vnni(const std::byte* row, std::size_t bytes) noexcept {
  constexpr std::size_t kParts = 4;
  __m512i totals[kColumns];
#pragma GCC unroll 16
  for (std::size_t column = 0; column < kColumns; ++column) totals[column] = _mm512_setzero_si512();
  std::size_t offset = 0;
  // Column c of part p takes the numbers that column c - 1 of part p + 1 takes: of four parts they are loaded once.
  for (; bytes - offset >= kParts * kShift; offset += kParts * kShift) {
    __m512i values[kParts];
#pragma GCC unroll 4
    for (std::size_t part = 0; part < kParts; ++part) values[part] = _mm512_loadu_si512(row + offset + kShift * part);
#pragma GCC unroll 13
    for (std::size_t place = 0; place < kParts + kColumns - 1; ++place) {
      const __m512i numbers = _mm512_load_si512(kNumbers.data() + offset + kShift * place);
#pragma GCC unroll 4
      for (std::size_t part = 0; part < kParts; ++part)
        if (place >= part && place - part < kColumns)
          totals[place - part] = _mm512_dpbusd_epi32(totals[place - part], numbers, values[part]);
    }
  }
  for (; offset < bytes; offset += kShift) {
    const std::size_t left = bytes - offset;
    const __mmask64 there = left >= kShift ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    const __m512i values = _mm512_maskz_loadu_epi8(there, row + offset);
#pragma GCC unroll 16
    for (std::size_t column = 0; column < kColumns; ++column)
      totals[column] =
          _mm512_dpbusd_epi32(totals[column], _mm512_load_si512(kNumbers.data() + offset + kShift * column), values);
  }
  RowSums sums;
#pragma GCC unroll 16
  for (std::size_t column = 0; column < kColumns; ++column)
    sums.values[column] = _mm512_reduce_add_epi32(totals[column]);
  return sums;
}

#elif defined(__aarch64__)

#define YRFL_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))

YRFL_DOTPROD RowSums sums_dotprod(const std::byte* row, std::size_t bytes) noexcept {
  int32x4_t totals[kColumns];
#pragma GCC unroll 16
  for (std::size_t column = 0; column < kColumns; ++column) totals[column] = vdupq_n_s32(0);
  for (std::size_t offset = 0; offset < bytes; offset += sizeof(int8x16_t)) {
    std::int8_t rest[sizeof(int8x16_t)] = {};
    const auto* part = reinterpret_cast<const std::int8_t*>(row + offset);
    if (bytes - offset < sizeof rest) part = static_cast<std::int8_t*>(std::memcpy(rest, part, bytes - offset));
    const int8x16_t values = vld1q_s8(part);
#pragma GCC unroll 16
    for (std::size_t column = 0; column < kColumns; ++column) {
      const uint8x16_t numbers = vld1q_u8(kNumbers.data() + offset + kShift * column);
      totals[column] = vdotq_s32(totals[column], values, vreinterpretq_s8_u8(numbers));
    }
  }
  RowSums sums;
  for (std::size_t column = 0; column < kColumns; ++column) sums.values[column] = vaddvq_s32(totals[column]);
  return sums;
}

#endif

struct Backend {
  const char* name;
  detail::RowFunction sums;
};

constexpr Backend kGeneric = {"generic", sums_generic};

/// From the best on, as far as this CPU has them.
Backend choose(const char* named) noexcept {
  const auto wanted = [named](const char* name) { return named == nullptr || std::strcmp(named, name) == 0; };
#if defined(__x86_64__)
  if (wanted("avx512-vnni") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw"))
    return {"avx512-vnni", sums_vnni};
  if (wanted("avx2") && __builtin_cpu_supports("avx2")) return {"avx2", sums_avx2};
#elif defined(__aarch64__)
  if (wanted("neon-dotprod") && (::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) return {"neon-dotprod", sums_dotprod};
#endif
  return wanted(kGeneric.name) ? kGeneric : Backend{nullptr, nullptr};
}

const Backend kBackend = choose(nullptr);

}  // namespace

std::uint64_t RowSums::folded() const noexcept {
  std::uint64_t state = 0;
  for (std::size_t column = 0; column < kColumns; column += 2) {
    const std::uint64_t low = static_cast<std::uint32_t>(values[column]);
    const std::uint64_t high = static_cast<std::uint32_t>(values[column + 1]);
    state = mix(state * kBlockKey + (low | high << 32));
  }
  return state;
}

const std::array<std::uint8_t, kMatrixNumbers>& matrix_numbers() noexcept { return kNumbers; }

RowSums row_sums(const std::byte* row, std::size_t bytes) noexcept { return kBackend.sums(row, bytes); }

const char* matrix_backend() noexcept { return kBackend.name; }

detail::RowFunction detail::row_function(const char* backend) noexcept { return choose(backend).sums; }

}  // namespace yr_fastload
