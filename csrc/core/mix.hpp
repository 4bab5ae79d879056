#pragma once

#include <cstdint>

namespace yr_fastload {

constexpr std::uint64_t kBlockKey = 0x9e3779b97f4a7c15ULL;

/// Finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace yr_fastload
