#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/matrix_sums.hpp"

namespace yr_fastload {

/// What block(j) of a digest is. A manifest names it, so a new one gets a new name.
enum class DigestKind : std::uint8_t {
  kNh,      ///< "nh64-1": products of a CPU's words.
  kMatrix,  ///< "matrix64-1": `RowSums`, for devices that have a matrix unit.
};

constexpr std::array<const char*, 2> kDigestNames = {"nh64-1", "matrix64-1"};
std::optional<DigestKind> digest_kind(std::string_view name) noexcept;

/// Digest of a run of bytes, designed so that C++ and tensor operations on a device compute the same value.
///
/// The bytes are cut into blocks of `kBlockBytes`; a block is a row of little-endian 64-bit words w[i] (the last word
/// padded with zeros). With k[i] the 64-bit key of column i, lo() and hi() the 32-bit halves, all sums modulo 2^64:
///
///     digest    = mix( bytes * kLengthKey + sum_j mix( block(j) + (j + 1) * kBlockKey ) )
///
/// and, with `DigestKind::kNh`,
///
///     block(j)  = sum_i ( lo(w[i]) + lo(k[i]) mod 2^32 ) * ( hi(w[i]) + hi(k[i]) mod 2^32 ) + w[i]
///
/// A sum over rows needs no sequential pass, which suits a device; a row costs one multiply and two adds per word,
/// which suits a CPU. The product is the NH family (Black et al., UMAC, 1999): two different blocks collide with
/// probability of about 2^-32 if the keys are unknown to whoever chose them. It detects accidents (stale, torn,
/// shifted, zeroed or flipped bytes); it is no defence against somebody who forges bytes on purpose.
class Digest {
 public:
  static constexpr std::size_t kBlockBytes = 8192;
  static_assert(kBlockBytes == RowSums::kRowBytes, "a block is a row, whatever is done with it");

  explicit Digest(DigestKind kind = DigestKind::kNh) noexcept : kind_(kind) {}

  /// Adds bytes. Every call but the last must add a multiple of `kBlockBytes`.
  void update(const std::byte* data, std::size_t bytes) noexcept;

  /// The same, and copies the bytes: each is read once, and exactly what was added is written. 1 GiB takes 0.67 of the
  /// time of memcpy alone with one thread, 0.83 with two (AMD EPYC, AVX2).
  void update_and_copy(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept;

  /// The same for memory that is read again at once: the copy goes to the caches.
  void update_and_keep(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept;

  /// Adds a block of so many bytes whose sum a device has computed.
  void add_block(std::uint64_t sum, std::size_t bytes) noexcept;

  std::uint64_t value() const noexcept;

  /// The value for so many bytes whose blocks, each mixed with its number, add up to `sum`: of whoever adds them up
  /// elsewhere, in any order.
  static std::uint64_t value_of(std::uint64_t bytes, std::uint64_t sum) noexcept;

 private:
  template <typename BlockSum>
  void add_blocks(std::size_t bytes, const BlockSum& block_sum) noexcept;
  std::uint64_t block_sum(const std::byte* data, std::size_t bytes) const noexcept;

  DigestKind kind_;
  std::uint64_t bytes_ = 0;
  std::uint64_t blocks_ = 0;
  std::uint64_t sum_ = 0;
};

/// Folds the digests of a chunk's blobs, in order, into the chunk's digest.
class DigestFold {
 public:
  void add(std::uint64_t digest) noexcept;
  std::uint64_t value() const noexcept { return state_; }

 private:
  std::uint64_t state_ = 0x9ae16a3b2f90404fULL;
};

/// The key of every column, for other implementations of this digest.
const std::array<std::uint64_t, Digest::kBlockBytes / 8>& digest_keys() noexcept;

/// Name of the instruction set that `DigestKind::kNh` uses on this machine: "avx2", "neon" or "generic".
const char* digest_backend() noexcept;

namespace detail {

/// Sum of one block of at most `Digest::kBlockBytes`, from each implementation, for tests that compare them.
std::uint64_t block_sum_generic(const std::byte* data, std::size_t bytes) noexcept;
std::uint64_t block_sum_best(const std::byte* data, std::size_t bytes) noexcept;

}  // namespace detail
}  // namespace yr_fastload
