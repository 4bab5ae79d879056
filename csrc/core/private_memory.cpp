#include "core/private_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "core/descriptor.hpp"
#include "core/error.hpp"
#include "core/mapping.hpp"

namespace yr_fastload {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorCode::kDevice, "load", "tensors cannot use the worker's memory itself: " + why);
}

std::string reason(int error) { return std::generic_category().message(error); }

/// Throws kDevice if the line is malformed.
Mapping parse(const std::string& line) {
  auto mapping = parse_mapping(line);
  if (!mapping) refuse("/proc/self/maps has a line " + line);
  return std::move(*mapping);
}

Mapping mapping_of(Span<const std::byte> bytes) {
  const auto address = reinterpret_cast<std::uint64_t>(bytes.data());
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    char* dash = nullptr;  // most lines are others', and a stream takes longer than all the rest
    const std::uint64_t begin = std::strtoull(line.c_str(), &dash, 16);
    if (address < begin || *dash != '-' || address >= std::strtoull(dash + 1, nullptr, 16)) continue;
    Mapping mapping = parse(line);
    if (mapping.holds(bytes)) return mapping;
  }
  refuse("it is not in one mapping of this process");
}

bool is_worker(const fs::path& process) {
  std::string name;
  std::ifstream comm(process / "comm");
  return std::getline(comm, name) && name.rfind("datasystem", 0) == 0;
}

/// Anonymous files that processes have open. A worker's memory is spread over several, so lookups are cached.
class NamelessFiles {
 public:
  /// Throws kDevice if no process that this one may inspect has it open.
  Descriptor open(const Mapping& mapping) {
    if (mapping.inode == 0) refuse("it is no file's");
    // Whoever maps chunks as they come would search each time. Only names are kept: a descriptor keeps memory.
    thread_local std::deque<Seen> found;
    for (const Seen& each : found)
      if (each.inode == mapping.inode && each.device == mapping.device)
        if (std::optional<Descriptor> file = same(each, mapping)) return std::move(*file);
    auto [seen, file] = search(mapping);
    found.push_front(std::move(seen));
    if (found.size() > kKept) found.pop_back();
    return std::move(file);
  }

 private:
  struct Seen {
    fs::path path;
    ino_t inode;
    dev_t device;
  };

  static constexpr std::size_t kKept = 8;

  std::pair<Seen, Descriptor> search(const Mapping& mapping) {
    std::size_t next = 0;
    do {
      for (; next < seen_.size(); ++next)
        if (seen_[next].inode == mapping.inode && seen_[next].device == mapping.device)
          if (std::optional<Descriptor> file = same(seen_[next], mapping)) return {seen_[next], std::move(*file)};
    } while (look_into_next());
    refuse("no process that this one may look into has " + mapping.path +
           " open; run the worker as the same user and in the same container");
  }

  static std::optional<Descriptor> same(const Seen& seen, const Mapping& mapping) {
    Descriptor file(::open(seen.path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat found{};
    if (file.get() < 0 || ::fstat(file.get(), &found) != 0) return std::nullopt;
    if (found.st_ino != mapping.inode || found.st_dev != mapping.device) return std::nullopt;  // another one by now
    return file;
  }

  bool look_into_next() {
    if (!listed_) list();
    if (processes_.empty()) return false;
    std::error_code error;
    const fs::path folder = processes_.front() / "fd";
    processes_.pop_front();
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
      std::error_code gone;
      struct stat found{};
      if (fs::read_symlink(entry->path(), gone).string().rfind("/memfd:", 0) == 0 &&
          ::stat(entry->path().c_str(), &found) == 0)
        seen_.push_back({entry->path(), found.st_ino, found.st_dev});
    }
    return true;
  }

  /// Searches this process first, then workers: a search of all processes takes ten times as long.
  void list() {
    listed_ = true;
    std::error_code error;
    for (fs::directory_iterator entry("/proc", error), end; !error && entry != end; entry.increment(error))
      if (entry->path().filename().string().find_first_not_of("0123456789") == std::string::npos)
        processes_.push_back(entry->path());
    std::stable_partition(processes_.begin(), processes_.end(), is_worker);
    processes_.push_front("/proc/self");
  }

  std::vector<Seen> seen_;
  std::deque<fs::path> processes_;
  bool listed_ = false;
};

struct File {
  Mapping mapping;
  Descriptor descriptor;
};

std::unique_ptr<PrivateMemory> map_one(std::unique_ptr<ObjectView> view, const Mapping& mapping, int file) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t place = reinterpret_cast<std::uint64_t>(view->bytes().data()) - mapping.begin + mapping.offset;
  const std::uint64_t first = place / page * page;
  const std::size_t length = place - first + view->bytes().size();
  void* const mapped =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, static_cast<off_t>(first));
  if (mapped == MAP_FAILED) refuse("mmap: " + reason(errno));
  return std::make_unique<PrivateMemory>(std::move(view), mapped, length, place - first);
}

}  // namespace

PrivateMemory::PrivateMemory(std::unique_ptr<ObjectView> view, void* mapping, std::size_t mapped,
                             std::size_t offset) noexcept
    : view_(std::move(view)),
      mapping_(mapping),
      mapped_(mapped),
      bytes_(static_cast<std::byte*>(mapping) + offset, mapped - offset) {}

PrivateMemory::~PrivateMemory() { ::munmap(mapping_, mapped_); }

void PrivateMemory::detach() noexcept {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  auto* const begin = static_cast<unsigned char*>(mapping_);
  // An atomic add of zero is a write, and loses no concurrent one.
  for (std::size_t at = 0; at < mapped_; at += page) __atomic_fetch_add(begin + at, 0, __ATOMIC_RELAXED);
}

void PrivateMemory::forbid() noexcept { ::mprotect(mapping_, mapped_, PROT_NONE); }

std::vector<std::unique_ptr<PrivateMemory>> map_private(std::vector<std::unique_ptr<ObjectView>> views) {
  std::vector<std::unique_ptr<PrivateMemory>> made;
  NamelessFiles nameless;
  std::vector<File> files;
  for (auto& view : views) {
    if (!view || view->bytes().size() == 0) {
      made.emplace_back();
      continue;
    }
    const auto bytes = view->bytes();
    auto file = std::find_if(files.begin(), files.end(), [&](const File& each) { return each.mapping.holds(bytes); });
    if (file == files.end()) {
      Mapping mapping = mapping_of(bytes);
      Descriptor descriptor = nameless.open(mapping);
      file = files.insert(file, File{std::move(mapping), std::move(descriptor)});
    }
    made.push_back(map_one(std::move(view), file->mapping, file->descriptor.get()));
  }
  return made;
}

}  // namespace yr_fastload
