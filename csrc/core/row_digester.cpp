#include "core/row_digester.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

constexpr std::size_t kComparedRows = 32;
constexpr std::size_t kRowBytes = RowSums::kRowBytes;

RowSums sums_at(const std::byte* landed, std::size_t row) noexcept {
  RowSums sums;
  std::memcpy(sums.values.data(), landed + row * RowDigester::kSumBytes, sizeof sums.values);
  return sums;
}

/// int8[kRowBytes, kDeviceColumns]
void write_matrix(std::byte* matrix, std::size_t bytes) noexcept {
  const auto& numbers = matrix_numbers();
  std::memset(matrix, 0, bytes);
  for (std::size_t i = 0; i < kRowBytes; ++i)
    for (std::size_t column = 0; column < RowSums::kColumns; ++column)
      matrix[i * RowSums::kDeviceColumns + column] = static_cast<std::byte>(numbers[i + RowSums::kShift * column]);
}

}  // namespace

RowDigester::RowDigester(Device& device, PinnedPool& pool, Deadline deadline, Done done)
    : device_(device), pool_(pool), deadline_(deadline), done_(std::move(done)), stream_(device.make_row_stream()) {}

RowDigester::~RowDigester() {
  try {
    if (memory_ != nullptr) stream_->synchronize(Deadline::after(kDrainSeconds));
  } catch (...) {
    if (landing_) landing_->abandon();  // the device may still write to it
  }
}

bool RowDigester::works() {
  if (stream_ == nullptr) return false;
  try {
    prepare();
    return compare();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kTransferTimeout) throw;
    return false;  // without memory for it, or an operator that this device lacks: others take the digests
  }
}

void RowDigester::prepare() {
  constexpr std::size_t kSlotBytes = kRowsBytes + kSumsBytes;
  memory_ = device_.allocate(kMatrixBytes + kSlots * kSlotBytes, deadline_);
  landing_.emplace(pool_.lease(std::max(kMatrixBytes, kSlots * kSumsBytes) + kComparedRows * kRowBytes, deadline_));
  for (std::size_t i = 0; i < kSlots; ++i) {
    slots_[i].rows = memory_->data() + kMatrixBytes + i * kSlotBytes;
    slots_[i].sums = slots_[i].rows + kRowsBytes;
    slots_[i].landed = landing_->data() + i * kSumsBytes;
    slots_[i].done = stream_->make_event();
  }
  write_matrix(landing_->data(), kMatrixBytes);
  stream_->copy(Direction::kToDevice, {memory_->data(), landing_->data(), kMatrixBytes});
  stream_->synchronize(deadline_);
}

bool RowDigester::compare() {
  std::byte* const rows = landing_->data() + std::max(kMatrixBytes, kSlots * kSumsBytes);
  for (std::size_t row = 0; row < kComparedRows; ++row)
    for (std::size_t i = 0; i < kRowBytes; ++i)  // the first ones are the largest that a sum can get
      rows[row * kRowBytes + i] = static_cast<std::byte>(row < 2 ? 0x7f + row : (i * (2 * row + 1) + (i >> 8)) & 0xff);
  Slot& first = slots_[0];
  stream_->copy(Direction::kToDevice, {first.rows, rows, kComparedRows * kRowBytes});
  first.used = kComparedRows;
  begin(first);
  first.done->wait(deadline_);
  first.under_way = false;
  first.used = 0;
  for (std::size_t row = 0; row < kComparedRows; ++row)
    if (sums_at(first.landed, row).values != row_sums(rows + row * kRowBytes, kRowBytes).values) return false;
  return true;
}

RowDigester::Slot& RowDigester::slot() {
  Slot& current = slots_[turn_ % kSlots];
  if (current.under_way) take_in(current);
  if (current.used < kRows) return current;
  begin(current);
  ++turn_;
  return slot();
}

void RowDigester::begin(Slot& slot) {
  slot.under_way = true;  // before the first of it is: the second may fail to begin
  stream_->multiply(slot.rows, slot.used, memory_->data(), slot.sums, deadline_);
  stream_->copy(Direction::kToHost, {const_cast<std::byte*>(slot.landed), slot.sums, slot.used * kSumBytes});
  slot.done->record();
}

void RowDigester::add(const std::byte* source, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    Slot& current = slot();
    const auto run =
        static_cast<std::size_t>(std::min<std::uint64_t>(bytes - done, (kRows - current.used) * kRowBytes));
    const std::size_t rows = (run + kRowBytes - 1) / kRowBytes;
    std::byte* const to = current.rows + current.used * kRowBytes;
    if (run % kRowBytes != 0 && !current.zeroed) {
      stream_->zero({to, (kRows - current.used) * kRowBytes});
      current.zeroed = true;
    }
    stream_->copy(Direction::kOnDevice, {to, source + done, run});
    done += run;
    current.used += rows;
    current.runs.push_back({rows, run - (rows - 1) * kRowBytes, done == bytes});
  }
  bytes_ += bytes;
}

void RowDigester::end_chunk(std::size_t index) {
  Slot& current = slots_[turn_ % kSlots];
  current.ends.push_back({current.runs.size(), index, std::exchange(bytes_, 0)});
}

void RowDigester::finish() {
  Slot& current = slots_[turn_ % kSlots];
  if (!current.under_way && current.used > 0) {
    begin(current);
    ++turn_;
  }
  for (std::size_t i = 0; i < kSlots; ++i) take_in(slots_[(turn_ + i) % kSlots]);
}

void RowDigester::take_in(Slot& slot) {
  if (slot.under_way) slot.done->wait(deadline_);
  slot.under_way = false;
  std::size_t row = 0;
  auto end = slot.ends.begin();
  const auto end_before = [&](std::size_t run) {
    for (; end != slot.ends.end() && end->run == run; ++end)
      done_(end->index, std::exchange(fold_, {}).value(), end->bytes);
  };
  for (std::size_t run = 0; run < slot.runs.size(); ++run) {
    end_before(run);
    const Run& each = slot.runs[run];
    for (std::size_t i = 0; i < each.rows; ++i, ++row)
      digest_.add_block(sums_at(slot.landed, row).folded(), i + 1 == each.rows ? each.last_bytes : kRowBytes);
    if (each.ends_blob) fold_.add(std::exchange(digest_, Digest(DigestKind::kMatrix)).value());
  }
  end_before(slot.runs.size());
  slot.runs.clear();
  slot.ends.clear();
  slot.used = 0;
  slot.zeroed = false;
}

}  // namespace yr_fastload
