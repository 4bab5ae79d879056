#include "core/transfer_progress.hpp"

#include <algorithm>
#include <string>

#include "core/copy.hpp"
#include "core/error.hpp"

namespace yr_fastload {
namespace {

/// Bytes copied between two checks of the cancel flag: under a millisecond of work.
constexpr std::size_t kSliceBytes = std::size_t{1} << 20;
static_assert(kSliceBytes % Digest::kBlockBytes == 0, "a slice ends where a digest block does");

}  // namespace

template <typename Work>
bool TransferProgress::slices(std::uint64_t bytes, DigestFold* fold, const Work& work) {
  Digest digest(options_.digest);
  for (std::uint64_t done = 0; done < bytes;) {
    if (cancelled_.raised()) return false;
    const auto slice = static_cast<std::size_t>(std::min<std::uint64_t>(bytes - done, kSliceBytes));
    work(done, slice, digest);
    done += slice;
    add(slice);
  }
  if (fold != nullptr) fold->add(digest.value());
  return true;
}

bool TransferProgress::copy(std::byte* destination, const std::byte* source, std::uint64_t bytes, DigestFold* fold) {
  Backing reached = backing(destination, bytes);
  return slices(bytes, fold, [&](std::uint64_t done, std::size_t slice, Digest& digest) {
    reached.reach(done + slice);
    if (fold != nullptr)
      digest.update_and_copy(destination + done, source + done, slice);
    else
      copy_bytes(destination + done, source + done, slice);
  });
}

bool TransferProgress::read(MappedFileReader& reader, const MappedFile& file, std::byte* destination,
                            const std::byte* source, std::uint64_t bytes, DigestFold* fold) {
  Backing reached = backing(destination, bytes);
  return slices(bytes, fold, [&](std::uint64_t done, std::size_t slice, Digest& digest) {
    reached.reach(done + slice);
    reader.read(file, source + done, destination + done, slice);
    if (fold != nullptr) digest.update(destination + done, slice);
  });
}

bool TransferProgress::digest(const std::byte* source, std::uint64_t bytes, DigestFold& fold) {
  return slices(bytes, &fold,
                [&](std::uint64_t done, std::size_t slice, Digest& digest) { digest.update(source + done, slice); });
}

void TransferProgress::wait(Crew& crew, const char* op) const {
  Tick tick;
  if (options_.progress) tick = [this] { options_.progress(bytes_.load(std::memory_order_relaxed)); };
  if (crew.wait(options_.deadline, tick)) {
    if (tick) tick();  // who watches sees the end
    return;
  }
  throw Error(ErrorCode::kTransferTimeout, op,
              "deadline passed with " + std::to_string(bytes_.load()) + " of " + std::to_string(total_bytes_) +
                  " bytes copied");
}

}  // namespace yr_fastload
