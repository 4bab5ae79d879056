#pragma once

#include <memory>

#include "core/device.hpp"

namespace yr_fastload::acl {

/// A stream of a device that multiplies by CANN's operator library; null where that is not installed.
std::unique_ptr<RowStream> make_row_stream(Device& device);

}  // namespace yr_fastload::acl
