#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace yr_fastload {

/// Sums of a block of bytes that a device's matrix unit computes at the speed of its memory: what `DigestKind::kMatrix`
/// takes for block(j).
///
/// A block is a row x of `kRowBytes` signed bytes, padded with zeros. With k[] fixed random numbers of 0 to 127:
///
///     sum(c)  = sum_i x[i] * k[i + kShift * c]        for 10 columns c
///     state   = 0; for each two sums: state = mix(state * key + sum(2c) + 2^32 * sum(2c + 1))
///
/// The sums are exact in 32 bits, |sum| <= 8192 * 128 * 127 < 2^27, and those of pairs in 16, as AVX2 has them.
///
/// Two different rows have equal sums with a probability of at most 2^-70, if the numbers k are independent of them:
/// let d be the rows' difference and l the last i with d[i] != 0. In column c, k[l + kShift * c] has a higher index
/// than all that d multiplies beside it there, and in the columns before. Whatever these are, at most one of its 128
/// values makes the column's sum of d zero. So all 10 are zero with at most 128^-10. Folding 320 bits into 64 adds what
/// any mixing does. As with `DigestKind::kNh`, this is for accidents: the numbers are no secret.
struct RowSums {
  static constexpr std::size_t kRowBytes = 8192;
  static constexpr std::size_t kColumns = 10;
  /// Of the matrix that a device is given: a matrix unit takes no fewer. Those beyond `kColumns` count for nothing.
  static constexpr std::size_t kDeviceColumns = 16;
  /// Of one vector register, the widest: so a column's numbers are aligned like the row.
  static constexpr std::size_t kShift = 64;

  std::array<std::int32_t, kColumns> values{};

  std::uint64_t folded() const noexcept;
};

/// The numbers k.
constexpr std::size_t kMatrixNumbers = RowSums::kRowBytes + RowSums::kShift * (RowSums::kColumns - 1);
const std::array<std::uint8_t, kMatrixNumbers>& matrix_numbers() noexcept;

/// Sums of one row of at most `kRowBytes`, by the best code for this CPU.
RowSums row_sums(const std::byte* row, std::size_t bytes) noexcept;

/// "avx512-vnni", "avx2", "neon-dotprod" or "generic".
const char* matrix_backend() noexcept;

namespace detail {

/// By name, to compare those that this CPU has with "generic". Null where it has not.
using RowFunction = RowSums (*)(const std::byte* row, std::size_t bytes) noexcept;
RowFunction row_function(const char* backend) noexcept;

}  // namespace detail
}  // namespace yr_fastload
