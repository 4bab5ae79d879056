#include "core/device_copies.hpp"

#include <algorithm>
#include <utility>

#include "core/digest.hpp"

namespace yr_fastload {
namespace {

/// Small enough that a chunk keeps every part of the device busy, and large beside what a piece costs.
constexpr std::uint64_t kPieceBytes = 8 * Digest::kBlockBytes;
/// Runs from the host up to this size are read by the kernel, dozens at a time; a larger one is worth a copy of its
/// own.
constexpr std::uint64_t kSmallRun = kPieceBytes;
/// Of the first batch, which the device waits for: it is busy with it for as long as the CPU describes a whole one.
constexpr std::size_t kFirstPieces = 1024;

}  // namespace

DeviceCopies::DeviceCopies(Device& device, PinnedPool::Lease memory, Digests digests, Deadline deadline)
    : digests_(digests), deadline_(deadline), memory_(std::move(memory)) {
  auto* const pieces = reinterpret_cast<DigestedPiece*>(memory_->data());
  auto* const sums = reinterpret_cast<std::uint64_t*>(pieces + kBatches * kPieces);
  auto** const sum_of = reinterpret_cast<std::uint64_t**>(sums + kBatches * kPieces);
  for (std::size_t i = 0; i < kBatches; ++i) {
    Batch& batch = batches_[i];
    batch.pieces = pieces + i * kPieces;
    batch.sums = sums + i * kPieces;
    batch.sum_of = sum_of + i * kPieces;
    batch.stream = device.make_stream();
    batch.done = batch.stream->make_event();
  }
}

DeviceCopies::~DeviceCopies() {
  if (!drain()) memory_->abandon();  // the device may still read or write it
}

bool DeviceCopies::drain() noexcept {
  if (hangs_) return false;
  const Deadline deadline = Deadline::after(kDrainSeconds);
  try {
    for (Batch& batch : batches_) {
      if (batch.copying) batch.done->record();
      if (batch.under_way) batch.done->wait(deadline);
      batch.under_way = batch.copying = false;
    }
    return true;
  } catch (...) {
    hangs_ = true;
    return false;
  }
}

void DeviceCopies::begin(Span<const Copy> runs) {
  Chunk& chunk = chunks_.emplace_back();
  if (digests_ == Digests::kNone) {
    if (filling_ >= kBatches) wait_for(filling_ - kBatches);
    Batch& mine = batch(filling_);
    mine.under_way = true;  // before the first copy is: the second may fail to begin
    const Span<std::byte> notes{reinterpret_cast<std::byte*>(mine.pieces), kPieces * sizeof(DigestedPiece)};
    mine.stream->copy_all(Direction::kOnDevice, runs, notes);
    mine.done->record();
    chunk.last_batch = filling_++;
    return;
  }
  chunk.runs.reserve(runs.size());
  for (const Copy& run : runs) add(run, chunk.runs.emplace_back(Run{run.bytes, 0}), nullptr);
  chunk.last_batch = filling_;
}

void DeviceCopies::begin_from_host(Span<const Copy> runs, std::ptrdiff_t shift) {
  Chunk& chunk = chunks_.emplace_back();
  chunk.runs.reserve(runs.size());
  for (const Copy& run : runs)
    add({run.destination, run.source + shift, run.bytes}, chunk.runs.emplace_back(Run{run.bytes, 0}), run.source);
  chunk.last_batch = filling_;
}

void DeviceCopies::add(const Copy& run, Run& digested, const std::byte* from_host) {
  const bool copied_first = from_host != nullptr && run.bytes > kSmallRun;
  for (std::uint64_t done = 0; done < run.bytes;) {
    if (batch(filling_).count == room()) launch();
    if (filling_ >= kBatches) wait_for(filling_ - kBatches);
    Batch& mine = batch(filling_);
    const std::uint64_t end = std::min(run.bytes, done + (room() - mine.count) * kPieceBytes);
    if (copied_first) {
      mine.under_way = mine.copying = true;
      mine.stream->copy(Direction::kToDevice, {run.destination + done, from_host + done, end - done});
    }
    for (; done < end; done += std::min(end - done, kPieceBytes)) {
      std::byte* const to = run.destination == nullptr ? nullptr : run.destination + done;
      DigestedPiece& piece = mine.pieces[mine.count];
      piece = {to, run.source + done, std::min(end - done, kPieceBytes), done / Digest::kBlockBytes};
      if (copied_first) piece.source = std::exchange(piece.destination, nullptr);
      mine.sum_of[mine.count++] = &digested.sum;
    }
  }
}

std::size_t DeviceCopies::room() const noexcept { return filling_ == 0 ? kFirstPieces : kPieces; }

void DeviceCopies::launch() {
  Batch& mine = batch(filling_++);
  mine.under_way = true;
  mine.stream->digest({mine.pieces, mine.count}, mine.sums);
  mine.done->record();
  mine.copying = false;
}

/// Waits for a batch, and for those before it.
void DeviceCopies::wait_for(std::uint64_t number) {
  for (; waited_ <= number; ++waited_) {
    Batch& mine = batch(waited_);
    mine.done->wait(deadline_);
    mine.under_way = false;
    for (std::size_t i = 0; i < mine.count; ++i) *mine.sum_of[i] += mine.sums[i];
    mine.count = 0;
  }
}

std::optional<std::uint64_t> DeviceCopies::take() {
  const Chunk& chunk = chunks_.front();
  if (chunk.last_batch == filling_) launch();
  wait_for(chunk.last_batch);
  std::optional<std::uint64_t> digest;
  if (digests_ == Digests::kTaken) {
    DigestFold fold;
    for (const Run& run : chunk.runs) fold.add(Digest::value_of(run.bytes, run.sum));
    digest = fold.value();
  }
  chunks_.pop_front();
  return digest;
}

}  // namespace yr_fastload
