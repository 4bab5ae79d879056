#include "transports/ipc_reader.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "core/device_copies.hpp"

namespace yr_fastload {
namespace {

/// A chunk that the device has copied to its tensors.
class Copied final : public ObjectView {
 public:
  Copied(std::uint64_t bytes, std::optional<std::uint64_t> digest) : bytes_(bytes), digest_(digest) {}
  Span<const std::byte> bytes() const noexcept override { return {nullptr, bytes_}; }
  Place place() const noexcept override { return Place::kTensors; }
  std::optional<std::uint64_t> digest() const noexcept override { return digest_; }

 private:
  const std::uint64_t bytes_;
  const std::optional<std::uint64_t> digest_;
};

}  // namespace

/// Closes the other process's memory once nothing reads it any more; what a device that hangs may read stays open.
class IpcReader::Closing {
 public:
  Closing(DeviceCopies& copies, std::vector<Opened>& opened) : copies_(copies), opened_(opened) {}
  Closing(const Closing&) = delete;
  Closing& operator=(const Closing&) = delete;
  ~Closing() {
    const bool idle = copies_.drain();
    for (Opened& each : opened_) {
      if (!idle) static_cast<void>(each.memory.release());
      each.memory.reset();
    }
  }

 private:
  DeviceCopies& copies_;
  std::vector<Opened>& opened_;
};

IpcReader::IpcReader(std::shared_ptr<Device> device, std::shared_ptr<PinnedPool> pool, std::shared_ptr<const Plan> plan,
                     RemoteTensors there, std::vector<std::uint64_t> addresses, bool digests)
    : device_(std::move(device)),
      pool_(std::move(pool)),
      plan_(std::move(plan)),
      there_(std::move(there)),
      addresses_(std::move(addresses)),
      digests_(digests) {
  if (there_.addresses.size() != plan_->tensors)
    throw Error(ErrorCode::kIntegrity, "load", there_.process + " describes other tensors");
  for (std::size_t i = 0; i < there_.allocations.size(); ++i) {
    const SharedAllocation& each = there_.allocations[i];
    if (each.bytes > std::numeric_limits<std::uint64_t>::max() - each.address)
      throw Error(ErrorCode::kIntegrity, "load", there_.process + " describes memory that cannot be");
    opened_.push_back({each.address, each.address + each.bytes, i, nullptr});
  }
  std::sort(opened_.begin(), opened_.end(), [](const Opened& a, const Opened& b) { return a.first < b.first; });
  for (const Blob& blob : plan_->blobs) holder(there_.addresses[blob.tensor] + blob.tensor_offset, blob.bytes);
}

IpcReader::Opened& IpcReader::holder(std::uint64_t address, std::uint64_t bytes) {
  auto next = std::upper_bound(opened_.begin(), opened_.end(), address,
                               [](std::uint64_t value, const Opened& each) { return value < each.first; });
  if (next == opened_.begin() || (--next)->end < address || next->end - address < bytes)
    throw Error(ErrorCode::kIntegrity, "load", there_.process + " describes tensors outside its memory");
  return *next;
}

void IpcReader::open(Deadline deadline) {
  std::vector<std::string> handles;
  for (const Opened& each : opened_) handles.push_back(there_.allocations[each.allocation].handle);
  std::vector<std::unique_ptr<Memory>> memory = device_->open_shared(handles, deadline);
  if (memory.size() != opened_.size())
    throw Error(ErrorCode::kTransferTimeout, "load", "the memory of " + there_.process + " was not opened in time");
  for (std::size_t i = 0; i < memory.size(); ++i) {
    Opened& each = opened_[i];
    each.memory = std::move(memory[i]);
    if (each.memory->bytes() < each.end - each.first)
      throw Error(ErrorCode::kDevice, "load", there_.process + " describes more memory than it shares");
  }
}

void IpcReader::read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                     Deadline deadline) {
  device_->bind_thread();
  try {
    for (const Opened& each : opened_)
      if (each.memory == nullptr) throw Error(ErrorCode::kInvalidArgument, "load", "the memory was not opened");
    copy(chunks, deliver, cancelled, deadline);
  } catch (const Error& error) {
    left_because_ = error.what();
  }
  for (std::size_t i = arrived_; i < chunks.size() && !cancelled.raised(); ++i)
    if (!deliver({chunks[i], nullptr, ErrorCode::kPartialTransfer, there_.process + ": " + left_because_})) return;
}

void IpcReader::copy(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                     Deadline deadline) {
  // Copies by the kernel that takes digests are quicker than those of the driver, one for each run, wanted or not.
  DeviceCopies copies(*device_, *pool_,
                      device_->takes_digests() ? DeviceCopies::Digests::kTaken : DeviceCopies::Digests::kNone,
                      deadline);
  const auto take = [&] {
    std::optional<std::uint64_t> digest = copies.take();
    if (!digests_) digest.reset();
    const std::uint64_t chunk = chunks[arrived_++];
    return deliver({chunk, std::make_unique<Copied>(plan_->chunk_bytes[chunk], digest)});
  };
  bool more = true;
  const Closing closing(copies, opened_);
  for (std::size_t i = 0; more && i < chunks.size() && !cancelled.raised(); ++i) {
    copies.begin(runs(chunks[i]));
    while (more && copies.busy() && copies.under_way() > 0) more = take();
  }
  while (more && copies.under_way() > 0 && !cancelled.raised()) more = take();
}

std::vector<Copy> IpcReader::runs(std::uint64_t chunk) {
  std::vector<Copy> made;
  for (const Blob& blob : plan_->chunk(chunk)) {
    const std::uint64_t address = there_.addresses[blob.tensor] + blob.tensor_offset;
    Opened& from = holder(address, blob.bytes);
    made.push_back({reinterpret_cast<std::byte*>(addresses_[blob.tensor] + blob.tensor_offset),
                    from.memory->data() + (address - from.first), static_cast<std::size_t>(blob.bytes)});
  }
  return made;
}

}  // namespace yr_fastload
