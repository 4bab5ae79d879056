#include "datasystem/status.hpp"

namespace yr_fastload {

namespace ds = ::datasystem;

ErrorCode code_of(ds::StatusCode code) noexcept {
  switch (code) {
    case ds::K_INVALID:
    case ds::K_OUT_OF_RANGE:
    case ds::K_FILE_NAME_TOO_LONG:
    case ds::K_NOT_SUPPORTED:
      return ErrorCode::kInvalidArgument;
    case ds::K_OUT_OF_MEMORY:
    case ds::K_NO_SPACE:
    case ds::K_LRU_HARD_LIMIT:
    case ds::K_LRU_SOFT_LIMIT:
      return ErrorCode::kResourceExhausted;
    case ds::K_NOT_FOUND:
      return ErrorCode::kPartialTransfer;
    case ds::K_ACL_ERROR:
    case ds::K_HCCL_ERROR:
      return ErrorCode::kDevice;
    default:
      return ErrorCode::kUnavailable;
  }
}

std::string describe(const ds::Status& status) {
  const std::string message = status.GetMsg();
  return ds::Status::StatusCodeName(status.GetCode()) + " (" + std::to_string(status.GetCode()) +
         "): " + message.substr(0, message.find('\n'));
}

void check(const ds::Status& status, const char* op, const Keys& keys) {
  if (status.IsOk()) return;
  throw Error(code_of(status.GetCode()), op, describe(status) + " " + abbreviate(keys), keys);
}

}  // namespace yr_fastload
