#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

/// The one table of errors. Columns: enumerator, code string (`.code` in Python), Python class, whether the same call
/// may succeed later unchanged, meaning. C++ codes, Python classes, the errors page and the tests that compare them all
/// come from here.
#define YRFL_ERROR_TABLE(X)                                                                                    \
  X(kInvalidArgument, "INVALID_ARGUMENT", "InvalidArgumentError", false,                                       \
    "The caller passed something that can never work.")                                                        \
  X(kNotPublished, "NOT_PUBLISHED", "NotPublishedError", true,                                                 \
    "No live source publishes this identity; load from disk.")                                                 \
  X(kLayoutMismatch, "LAYOUT_MISMATCH", "LayoutMismatchError", false,                                          \
    "Names, dtypes, shapes, strides or sharing differ from what was published; nothing was written.")          \
  X(kIntegrity, "INTEGRITY", "IntegrityError", false,                                                          \
    "Bytes or a manifest do not match their digest or their format.")                                          \
  X(kPartialTransfer, "PARTIAL_TRANSFER", "PartialTransferError", true,                                        \
    "Some chunks could not be transferred; `failed_keys` names them.")                                         \
  X(kTransferTimeout, "TRANSFER_TIMEOUT", "TransferTimeoutError", true,                                        \
    "The call's deadline passed before it was done.")                                                          \
  X(kUnavailable, "UNAVAILABLE", "UnavailableError", true,                                                     \
    "The openYuanrong worker cannot be reached, or could not be started.")                                     \
  X(kResourceExhausted, "RESOURCE_EXHAUSTED", "ResourceExhaustedError", true,                                  \
    "A limit was reached: the worker's shared memory or clients, page-locked memory, tensors, manifest size.") \
  X(kDevice, "DEVICE", "DeviceError", false, "A device call failed, or the transport cannot reach this device.")

namespace yr_fastload {

enum class ErrorCode : std::uint8_t {
#define YRFL_ENUMERATOR(enumerator, ...) enumerator,
  YRFL_ERROR_TABLE(YRFL_ENUMERATOR)
#undef YRFL_ENUMERATOR
};

struct ErrorRow {
  ErrorCode code;
  const char* name;
  const char* python_class;
  bool retryable;
  const char* meaning;
};

inline constexpr ErrorRow kErrorTable[] = {
#define YRFL_ROW(enumerator, name, python_class, retryable, meaning) \
  {ErrorCode::enumerator, name, python_class, retryable, meaning},
    YRFL_ERROR_TABLE(YRFL_ROW)
#undef YRFL_ROW
};

/// The only exception that leaves the core. `op` is the operation that the user called, `failed_keys` what it failed
/// on.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string op, const std::string& detail, std::vector<std::string> failed_keys = {})
      : std::runtime_error(op + ": " + detail), code_(code), op_(std::move(op)), failed_keys_(std::move(failed_keys)) {}

  ErrorCode code() const noexcept { return code_; }
  const ErrorRow& row() const noexcept { return kErrorTable[static_cast<std::size_t>(code_)]; }
  const std::string& op() const noexcept { return op_; }
  const std::vector<std::string>& failed_keys() const noexcept { return failed_keys_; }

 private:
  ErrorCode code_;
  std::string op_;
  std::vector<std::string> failed_keys_;
};

/// "[k1, k2, +3]": the first keys of a possibly long list.
std::string abbreviate(const std::vector<std::string>& keys);

}  // namespace yr_fastload
