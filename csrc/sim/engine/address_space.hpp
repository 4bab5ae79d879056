#pragma once

#include <cstddef>

#include "engine/memory.hpp"

namespace yr_fastload::sim {

/// Addresses to which memory is mapped piece by piece, as expandable segments and allocators that can sleep have it.
/// All return an aclError.
int reserve(std::size_t bytes, void** data, Reach reach);
/// What is mapped there has to be unmapped before.
int unreserve(void* data);

/// Puts memory behind reserved addresses; it holds zeros.
int map(void* data, std::size_t bytes, int device);
/// Of a piece as it was mapped. What it held is lost.
int unmap(void* data);

/// Memory of a device that is not mapped yet, from when it is made until it goes.
class Physical {
 public:
  Physical(int device, std::size_t bytes) : device_(device), bytes_(bytes) {}
  Physical(const Physical&) = delete;
  Physical& operator=(const Physical&) = delete;
  ~Physical();

  /// False if the device has no room for it.
  bool take();

  int device() const { return device_; }
  std::size_t bytes() const { return bytes_; }

 private:
  int device_;
  std::size_t bytes_;
  bool taken_ = false;
};

}  // namespace yr_fastload::sim
