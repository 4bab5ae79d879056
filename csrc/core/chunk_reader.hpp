#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/crew.hpp"
#include "core/deadline.hpp"
#include "core/error.hpp"
#include "core/object_store.hpp"
#include "core/span.hpp"

namespace yr_fastload {

/// A chunk that arrived, or did not: then `view` is null, and `code` and `detail` say why.
struct Arrival {
  std::uint64_t chunk = 0;
  std::unique_ptr<ObjectView> view;
  ErrorCode code = ErrorCode::kPartialTransfer;
  std::string detail;
};

/// Receives an arrival; returns false if no more are wanted.
using Deliver = std::function<bool(Arrival)>;

/// Brings the chunks of one generation to where they can be copied from. This is what a transport implements.
class ChunkReader {
 public:
  ChunkReader() = default;
  ChunkReader(const ChunkReader&) = delete;
  ChunkReader& operator=(const ChunkReader&) = delete;
  virtual ~ChunkReader() = default;

  virtual const char* transport() const noexcept = 0;

  /// Delivers each of `chunks` once, in any order, until `deliver` returns false or `cancelled` is raised. The bytes of
  /// a view stay valid as long as it lives. Returns by the deadline; throws errors that end the whole transfer. Called
  /// by one thread, and writes only to its own memory, not to the tensors.
  virtual void read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                    Deadline deadline) = 0;
};

}  // namespace yr_fastload
