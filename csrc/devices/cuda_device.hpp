#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/device.hpp"

namespace yr_fastload {

/// Device `index` of CUDA's driver, real or simulated, through `libcuda.so.1` (dlopen: nothing links it). Throws
/// kDevice where there is no driver or no such device.
std::unique_ptr<Device> open_cuda_device(int index);

/// How many devices the driver knows; 0 where it cannot be loaded. Loads it.
unsigned cuda_device_count() noexcept;

/// The newest CUDA that the driver knows, as 12040 for 12.4. Loads it; throws kDevice where there is none.
int cuda_driver_version();

/// "NVIDIA H200"; a slice of a card has "MIG" in it. Throws kDevice where there is no such device.
std::string cuda_device_name(int index);

/// Whether a device can copy from the memory of another one. Throws kDevice where there is no such device.
bool cuda_device_reaches(int index, int other);

/// The device whose memory is at an address. Throws kDevice if it is no device's.
int cuda_device_of(std::uint64_t address);

}  // namespace yr_fastload
