#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>  // here, for all: a file without it converts no list, and does so in silence
#include <pybind11/typing.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/gil.hpp"
#include "core/digest.hpp"
#include "core/span.hpp"

namespace yr_fastload::bindings {

namespace py = pybind11;

/// A borrowed uint64 array from a Python object with the buffer protocol (array.array("Q"), numpy.uint64). The object
/// is held, and cannot be resized, as long as this lives. Throws kInvalidArgument for anything else.
class U64Array {
 public:
  U64Array(const py::buffer& array, const char* name);
  Span<const std::uint64_t> span() const noexcept { return span_; }
  std::size_t size() const noexcept { return span_.size(); }

 private:
  py::buffer_info info_;
  Span<const std::uint64_t> span_;
};

/// The bytes of a buffer. Throws ValueError if they have gaps or another order.
Span<const std::byte> contiguous(const py::buffer_info& info);

/// The values as a flat memoryview of uint64 or int64, a copy that Python owns.
py::memoryview to_python(const std::vector<std::uint64_t>& values);
py::memoryview to_python(const std::vector<std::int64_t>& values);

/// The digest of this name. Throws kInvalidArgument if there is none.
DigestKind digest_named(const std::string& name);

/// Python's `progress(done_bytes, total_bytes)`, or None.
using Progress = std::optional<py::typing::Callable<void(std::uint64_t, std::uint64_t)>>;

/// Checks signals (Ctrl-C) and calls `progress`; throws what they raise. Call it without the GIL.
std::function<void(std::uint64_t)> progress_callback(const Progress& progress, std::uint64_t total_bytes);

/// Owns a Python object from any thread: the last owner releases it with the GIL, or leaks it if the process is ending.
std::shared_ptr<void> keep_python(py::object object);

/// Shares an object whose destructor may wait for the worker: it runs without the GIL, whoever drops the last owner. In
/// a forked child it does not run, since it would wait for threads that exist only in the parent; there the object
/// leaks.
template <typename T>
std::shared_ptr<T> share_without_gil(std::unique_ptr<T> object) {
  return std::shared_ptr<T>(object.release(), [pid = ::getpid()](T* pointer) {
    if (::getpid() != pid) return;
    std::unique_ptr<T> owned(pointer);
    if (!has_gil()) return;
    const WithoutGil nogil;
    owned.reset();
  });
}

void register_errors(py::module_& module);
void register_plan(py::module_& module);
void register_digest(py::module_& module);
void register_tensors(py::module_& module);
void register_tensor_reader(py::module_& module);
void register_entries(py::module_& module);
void register_devices(py::module_& module);
void register_device_memory(py::module_& module);
void register_stores(py::module_& module);
void register_hetero(py::module_& module);
void register_ipc(py::module_& module);
void register_transfer(py::module_& module);
void register_lease(py::module_& module);
void register_testing(py::module_& core);

}  // namespace yr_fastload::bindings
