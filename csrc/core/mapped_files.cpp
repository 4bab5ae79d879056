#include "core/mapped_files.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

std::string path_of(int file) { return "/proc/self/fd/" + std::to_string(file); }

[[noreturn]] void refuse(ErrorCode code, int file, const std::string& why) {
  std::error_code unknown;
  const std::string name = std::filesystem::read_symlink(path_of(file), unknown).string();
  throw Error(code, "publish", name + ": " + why, {name});
}

}  // namespace

const MappedFile* MappedFileReader::find(const std::byte* from, std::uint64_t bytes) const noexcept {
  for (const MappedFile& file : files_)
    if (from >= file.begin && from < file.begin + file.bytes &&
        bytes <= static_cast<std::uint64_t>(file.begin + file.bytes - from))
      return &file;
  return nullptr;
}

void MappedFileReader::read(const MappedFile& file, const std::byte* from, std::byte* to, std::size_t bytes) {
  auto mine = mine_.find(file.file);
  if (mine == mine_.end())
    mine = mine_.emplace(file.file, Descriptor(::open(path_of(file.file).c_str(), O_RDONLY | O_CLOEXEC))).first;
  const int opened = mine->second.get() < 0 ? file.file : mine->second.get();
  auto offset = static_cast<off_t>(from - file.begin);
  while (bytes > 0) {
    const ssize_t got = ::pread(opened, to, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      refuse(ErrorCode::kInvalidArgument, file.file,
             "it cannot be read: " + std::generic_category().message(errno) + "; see whether its disk is well");
    if (got == 0) refuse(ErrorCode::kIntegrity, file.file, "it became shorter; start again when it is whole");
    to += got;
    offset += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

}  // namespace yr_fastload
