#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/gil.hpp"
#include "core/span.hpp"

namespace yr_fastload::bindings {

namespace py = pybind11;

/// Borrowed uint64 array of a Python object with the buffer protocol (array.array("Q"), numpy.uint64); the object is
/// held, and cannot be resized, as long as this lives. Throws kInvalidArgument for anything else.
class U64Array {
 public:
  U64Array(const py::buffer& array, const char* name);
  Span<const std::uint64_t> span() const noexcept { return span_; }
  std::size_t size() const noexcept { return span_.size(); }

 private:
  py::buffer_info info_;
  Span<const std::uint64_t> span_;
};

/// The values as a flat memoryview of uint64 or int64, a copy that Python owns.
py::memoryview to_python(const std::vector<std::uint64_t>& values);
py::memoryview to_python(const std::vector<std::int64_t>& values);

/// Python's `progress(done_bytes, total_bytes)`, or None.
using Progress = std::optional<py::typing::Callable<void(std::uint64_t, std::uint64_t)>>;

/// Looks at signals (Ctrl-C) and calls `progress`; throws what they raise. To be called without the GIL.
std::function<void(std::uint64_t)> progress_callback(const Progress& progress, std::uint64_t total_bytes);

/// Owns a Python object from any thread: the last owner gives it back with the GIL, or leaves it to a process that
/// ends.
std::shared_ptr<void> keep_python(py::object object);

/// Shares an object whose destructor may wait for the worker: it runs without the GIL, whoever drops the last owner.
/// Not in a forked child, where it would wait for threads that stayed in the parent: there the object stays.
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
void register_exchange(py::module_& module);
void register_devices(py::module_& module);
void register_stores(py::module_& module);
void register_hetero(py::module_& module);
void register_transfer(py::module_& module);
void register_lease(py::module_& module);
void register_testing(py::module_& core);

}  // namespace yr_fastload::bindings
