#include "core/plan.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

constexpr std::uint64_t align_up(std::uint64_t offset) noexcept {
  return (offset + kBlobAlignment - 1) / kBlobAlignment * kBlobAlignment;
}

void check_limits(PlanLimits limits) {
  if (limits.chunk_bytes == 0 || limits.chunk_bytes % kBlobAlignment != 0)
    throw Error(ErrorCode::kInvalidArgument, "plan",
                "chunk_bytes=" + std::to_string(limits.chunk_bytes) + " is not a positive multiple of 64");
  // Far above any object that a worker can hold; keeps align_up() from overflowing.
  if (limits.chunk_bytes > std::uint64_t{1} << 40)
    throw Error(ErrorCode::kInvalidArgument, "plan", "chunk_bytes is above 1 TiB");
  if (limits.max_blobs == 0) throw Error(ErrorCode::kInvalidArgument, "plan", "max_blobs is 0");
}

/// Checked before anything is allocated: large tensors alone may need more chunks than there can be.
std::uint64_t check_totals(Span<const std::uint64_t> tensor_bytes, PlanLimits limits) {
  std::uint64_t total = 0;
  std::uint64_t full_chunks = 0;
  for (const std::uint64_t bytes : tensor_bytes) {
    if (bytes > std::numeric_limits<std::uint64_t>::max() - total)
      throw Error(ErrorCode::kResourceExhausted, "plan", "the tensors' sizes sum to more than 2^64 bytes");
    total += bytes;
    full_chunks += bytes / limits.chunk_bytes;
    if (full_chunks > kMaxChunks)
      throw Error(ErrorCode::kResourceExhausted, "plan",
                  "more than " + std::to_string(kMaxChunks) + " chunks; raise chunk_bytes");
  }
  return total;
}

class Builder {
 public:
  Builder(Plan& plan, PlanLimits limits) : plan_(plan), limits_(limits) {}

  void add(std::uint64_t tensor, std::uint64_t bytes) {
    const bool fits = align_up(end_) <= limits_.chunk_bytes && bytes <= limits_.chunk_bytes - align_up(end_);
    if (!fits || blobs_ == limits_.max_blobs) close();
    for (std::uint64_t offset = 0; offset < bytes;) {
      if (end_ == limits_.chunk_bytes) close();
      const std::uint64_t start = align_up(end_);
      const std::uint64_t piece = std::min(bytes - offset, limits_.chunk_bytes - start);
      plan_.blobs.push_back({tensor, offset, piece, start});
      end_ = start + piece;
      ++blobs_;
      offset += piece;
    }
  }

  void close() {
    if (blobs_ == 0) return;
    if (plan_.chunks() == kMaxChunks)
      throw Error(ErrorCode::kResourceExhausted, "plan",
                  "more than " + std::to_string(kMaxChunks) + " chunks; raise chunk_bytes or max_blobs");
    plan_.chunk_bytes.push_back(end_);
    plan_.first_blob.push_back(plan_.blobs.size());
    end_ = 0;
    blobs_ = 0;
  }

 private:
  Plan& plan_;
  const PlanLimits limits_;
  std::uint64_t end_ = 0;    // of the open chunk
  std::uint64_t blobs_ = 0;  // in the open chunk
};

}  // namespace

Plan make_plan(Span<const std::uint64_t> tensor_bytes, PlanLimits limits) {
  check_limits(limits);
  Plan plan;
  plan.total_bytes = check_totals(tensor_bytes, limits);
  plan.tensors = tensor_bytes.size();
  plan.first_blob.push_back(0);
  plan.blobs.reserve(tensor_bytes.size());
  Builder builder(plan, limits);
  for (const bool large : {true, false}) {
    for (std::uint64_t tensor = 0; tensor < tensor_bytes.size(); ++tensor)
      if (tensor_bytes[tensor] > 0 && large == (tensor_bytes[tensor] > kSmallTensorBytes))
        builder.add(tensor, tensor_bytes[tensor]);
    builder.close();
  }
  return plan;
}

Places places(const Plan& plan) {
  Places found{std::vector<std::int64_t>(plan.tensors, -1), std::vector<std::uint64_t>(plan.tensors, 0)};
  for (std::uint64_t chunk = 0; chunk < plan.chunks(); ++chunk) {
    for (const Blob& blob : plan.chunk(chunk)) {
      if (blob.tensor_offset != 0) continue;
      found.chunk[blob.tensor] = static_cast<std::int64_t>(chunk);
      found.offset[blob.tensor] = blob.chunk_offset;
    }
  }
  return found;
}

std::uint64_t first_shared_chunk(const Plan& plan) {
  std::vector<std::uint64_t> bytes(plan.tensors, 0);
  for (const Blob& blob : plan.blobs) bytes[blob.tensor] += blob.bytes;
  std::uint64_t chunk = 0;
  while (chunk < plan.chunks() && bytes[plan.chunk(chunk).begin()->tensor] > kSmallTensorBytes) ++chunk;
  return chunk;
}

Sharing find_sharing(Span<const std::uint64_t> addresses, Span<const std::uint64_t> bytes) {
  const std::size_t count = bytes.size();
  Sharing sharing;
  sharing.owner.resize(count);
  std::iota(sharing.owner.begin(), sharing.owner.end(), std::uint64_t{0});
  sharing.offset.assign(count, 0);
  sharing.moving.assign(bytes.begin(), bytes.end());

  std::vector<std::uint64_t> order;
  order.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (bytes[i] > std::numeric_limits<std::uint64_t>::max() - addresses[i])
      throw Error(ErrorCode::kInvalidArgument, "plan", "a tensor ends beyond the address space", {std::to_string(i)});
    if (bytes[i] > 0) order.push_back(i);
  }
  // By address, then longest first, then as named: an owner precedes the tensors inside it.
  std::sort(order.begin(), order.end(), [&](std::uint64_t a, std::uint64_t b) {
    if (addresses[a] != addresses[b]) return addresses[a] < addresses[b];
    if (bytes[a] != bytes[b]) return bytes[a] > bytes[b];
    return a < b;
  });

  std::uint64_t owner = 0;
  std::uint64_t owner_end = 0;
  for (const std::uint64_t i : order) {
    const std::uint64_t end = addresses[i] + bytes[i];
    if (addresses[i] >= owner_end) {
      owner = i;
      owner_end = end;
    } else if (end <= owner_end) {
      sharing.owner[i] = owner;
      sharing.offset[i] = addresses[i] - addresses[owner];
      sharing.moving[i] = 0;
    } else {
      throw Error(ErrorCode::kInvalidArgument, "plan", "two tensors overlap in memory and neither contains the other",
                  {std::to_string(owner), std::to_string(i)});
    }
  }
  return sharing;
}

}  // namespace yr_fastload
