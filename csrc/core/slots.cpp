#include "core/slots.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

namespace yr_fastload {
namespace {

constexpr std::size_t aligned(std::size_t bytes) noexcept {
  return (bytes + kBlobAlignment - 1) / kBlobAlignment * kBlobAlignment;
}

/// Bytes of a blob that go into a slot with so much room: all that is left, or a whole number of digest blocks.
std::size_t run_bytes(std::uint64_t left, std::size_t room) noexcept {
  return left <= room ? static_cast<std::size_t>(left) : room / Digest::kBlockBytes * Digest::kBlockBytes;
}

}  // namespace

unsigned Slots::threads(const PinnedPool& pool, unsigned wanted, std::uint64_t taken) noexcept {
  const std::uint64_t cap = pool.stats().cap_bytes;
  return static_cast<unsigned>(std::clamp<std::uint64_t>((cap - std::min(cap, taken)) / kBytes, 1, wanted));
}

Slots::Slots(Device& device, PinnedPool& pool, Direction direction, Deadline deadline)
    : direction_(direction), deadline_(deadline), memory_(pool.lease(kBytes, deadline)), stream_(device.make_stream()) {
  for (std::size_t i = 0; i < kSlots; ++i) {
    slots_[i].data = memory_->data() + i * kSlotBytes;
    slots_[i].done = stream_->make_event();
  }
}

Slots::~Slots() {
  const Deadline deadline = Deadline::after(kDrainSeconds);
  try {
    for (Slot& slot : slots_)
      if (slot.under_way) slot.done->wait(deadline);
  } catch (...) {
    memory_->abandon();  // the device may still read or write it
  }
}

Slots::Slot& Slots::next() {
  Slot& slot = slots_[turn_++ % kSlots];
  wait(slot);
  slot.copies.clear();
  slot.used = 0;
  return slot;
}

void Slots::begin(Slot& slot) {
  if (slot.copies.empty()) return;
  slot.under_way = true;  // before the first copy is: the second may fail to begin
  stream_->copy_all(direction_, slot.copies, {slot.data + kPayloadBytes, kNotesBytes});
  slot.done->record();
}

void Slots::wait(Slot& slot) {
  if (slot.under_way) slot.done->wait(deadline_);
  slot.under_way = false;
}

void Slots::drain() {
  for (Slot& slot : slots_) wait(slot);
}

bool Uploader::copy(std::byte* destination, const std::byte* source, std::uint64_t bytes, DigestFold* fold,
                    const Step& step) {
  Digest digest(digest_);
  for (std::uint64_t done = 0; done < bytes;) {
    if (slot_ == nullptr) slot_ = &slots_.next();
    const std::size_t run = run_bytes(bytes - done, slot_->room());
    if (run == 0) {
      flush();
      continue;
    }
    std::byte* const staged = slot_->data + slot_->used;
    if (fold != nullptr)
      digest.update_and_keep(staged, source + done, run);
    else
      std::memcpy(staged, source + done, run);
    slot_->copies.push_back({destination + done, staged, run});
    slot_->used = aligned(slot_->used + run);
    done += run;
    if (!step(run)) return false;
  }
  if (fold != nullptr) fold->add(digest.value());
  return true;
}

void Uploader::flush() {
  if (slot_ != nullptr) slots_.begin(*std::exchange(slot_, nullptr));
}

void Uploader::drain() {
  flush();
  slots_.drain();
}

bool Downloader::read(Span<const Blob> blobs, Span<const std::uint64_t> addresses, const Take& take) {
  std::deque<Batch> under_way;
  const auto begin = [&] {
    slots_.begin(*under_way.back().slot);
    if (under_way.size() < Slots::kSlots) return true;
    const bool more = take_in(under_way.front(), take);
    under_way.pop_front();
    return more;
  };
  for (const Blob& blob : blobs) {
    const std::byte* const source = blob.in(addresses);
    for (std::uint64_t done = 0; done < blob.bytes;) {
      if (under_way.empty() || under_way.back().slot->under_way) under_way.push_back({&slots_.next(), {}});
      Batch& batch = under_way.back();
      Slots::Slot& slot = *batch.slot;
      const std::size_t run = run_bytes(blob.bytes - done, slot.room());
      if (run == 0) {
        if (!begin()) return false;
        continue;
      }
      slot.copies.push_back({slot.data + slot.used, source + done, run});
      batch.runs.push_back({&blob, done, slot.used, run});
      slot.used = aligned(slot.used + run);
      done += run;
    }
  }
  if (!under_way.empty() && !under_way.back().slot->under_way) slots_.begin(*under_way.back().slot);
  for (const Batch& batch : under_way)
    if (!take_in(batch, take)) return false;
  return true;
}

bool Downloader::take_in(const Batch& batch, const Take& take) {
  slots_.wait(*batch.slot);
  for (const Run& run : batch.runs)
    if (!take(*run.blob, run.offset, batch.slot->data + run.slot_offset, run.bytes)) return false;
  return true;
}

}  // namespace yr_fastload
