#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/device.hpp"
#include "core/digest.hpp"
#include "core/pinned_pool.hpp"

namespace yr_fastload {

/// Digests of kind `kMatrix` by a device itself, of bytes in its memory. Used by one thread.
///
/// Blobs are copied, on the device, into rows that are all of one size, whatever the tensors' addresses and formats;
/// their sums come to the CPU, which makes digests of them:
///
///     blobs --device--> rows 0 --matrix--> sums 0 --device--> page-locked memory --thread--> digests
///                       rows 1             sums 1    while the thread takes one, the device fills the other
class RowDigester {
 public:
  /// Told of each chunk in the order of `end_chunk`: its index, its digest, and how many bytes it has.
  using Done = std::function<void(std::size_t index, std::uint64_t digest, std::uint64_t bytes)>;

  /// That are multiplied at once: 2 MiB of them.
  static constexpr std::size_t kRows = 256;
  /// Of one row's sums, as the device has them.
  static constexpr std::size_t kSumBytes = RowSums::kDeviceColumns * sizeof(std::int32_t);

  RowDigester(Device& device, PinnedPool& pool, Deadline deadline, Done done);
  RowDigester(const RowDigester&) = delete;
  RowDigester& operator=(const RowDigester&) = delete;
  /// Nothing is under way when it returns, unless the device hangs: then page-locked memory is kept from everybody.
  ~RowDigester();

  /// Whether the device has the operator, and its sums of some rows are those of the CPU.
  bool works();

  /// The next blob of a chunk.
  void add(const std::byte* source, std::uint64_t bytes);
  void end_chunk(std::size_t index);
  /// Takes in all that is left.
  void finish();

 private:
  /// So many rows in their order, and what ends with the last of them.
  struct Run {
    std::size_t rows = 0;
    std::size_t last_bytes = 0;  ///< Of the last row; the others are whole.
    bool ends_blob = false;
  };
  struct End {
    std::size_t run;  ///< It comes before this run.
    std::size_t index;
    std::uint64_t bytes;
  };
  struct Slot {
    std::byte* rows = nullptr;
    std::byte* sums = nullptr;          ///< On the device.
    const std::byte* landed = nullptr;  ///< The same, on the host.
    std::unique_ptr<Event> done;
    std::vector<Run> runs;
    std::vector<End> ends;
    std::size_t used = 0;  ///< Rows.
    bool zeroed = false;   ///< From `used` on.
    bool under_way = false;
  };
  static constexpr std::size_t kSlots = 2;
  static constexpr std::size_t kRowsBytes = kRows * RowSums::kRowBytes;
  static constexpr std::size_t kSumsBytes = kRows * kSumBytes;
  static constexpr std::size_t kMatrixBytes = RowSums::kRowBytes * RowSums::kDeviceColumns;

  void prepare();
  bool compare();
  Slot& slot();
  void begin(Slot& slot);
  void take_in(Slot& slot);

  Device& device_;
  PinnedPool& pool_;
  const Deadline deadline_;
  const Done done_;
  std::unique_ptr<Memory> memory_;  ///< The matrix, and each slot's rows and sums.
  std::optional<PinnedPool::Lease> landing_;
  std::unique_ptr<RowStream> stream_;  ///< Goes first.
  std::array<Slot, kSlots> slots_;
  std::size_t turn_ = 0;
  Digest digest_{DigestKind::kMatrix};
  DigestFold fold_;
  std::uint64_t bytes_ = 0;  ///< Of the chunk so far.
};

}  // namespace yr_fastload
