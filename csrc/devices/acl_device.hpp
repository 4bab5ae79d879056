#pragma once

#include <memory>

#include "core/device.hpp"

namespace yr_fastload {

/// Device `index` of Ascend's runtime, real or simulated, through `libascendcl.so` (dlopen: nothing links it).
/// Throws kDevice if there is no such library or no such device.
std::unique_ptr<Device> open_acl_device(int index);

/// Number of devices that the runtime knows; 0 if it cannot be loaded. Loads it.
unsigned acl_device_count() noexcept;

/// The calling thread's device; -1 if it has none, or if the runtime cannot be loaded. Loads it.
int current_acl_device() noexcept;

}  // namespace yr_fastload
