#include "core/mapping.hpp"

#include <sys/sysmacros.h>

#include <fstream>
#include <sstream>
#include <utility>

namespace yr_fastload {

bool Mapping::holds(Span<const std::byte> bytes) const noexcept {
  const auto address = reinterpret_cast<std::uint64_t>(bytes.data());
  return address >= begin && address < end && bytes.size() <= end - address;
}

std::optional<Mapping> parse_mapping(const std::string& line) {
  Mapping mapping;
  std::istringstream text(line);
  std::string permissions;
  std::uint64_t major = 0, minor = 0;
  char dash = 0, colon = 0;
  text >> std::hex >> mapping.begin >> dash >> mapping.end >> permissions >> mapping.offset >> major >> colon >> minor;
  text >> std::dec >> mapping.inode;
  if (!text) return std::nullopt;
  mapping.device = ::makedev(static_cast<unsigned>(major), static_cast<unsigned>(minor));
  std::getline(text >> std::ws, mapping.path);
  return mapping;
}

std::vector<Mapping> shared_mappings() {
  constexpr std::size_t kShared = 4;  // of " rw-s": most lines are others', and a stream takes longer than all the rest
  std::vector<Mapping> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::size_t at = line.find(' ');
    if (at == std::string::npos || at + kShared >= line.size() || line[at + kShared] != 's') continue;
    auto mapping = parse_mapping(line);
    if (mapping && mapping->inode != 0) found.push_back(std::move(*mapping));
  }
  return found;
}

}  // namespace yr_fastload
