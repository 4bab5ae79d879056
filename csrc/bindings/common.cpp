#include "bindings/common.hpp"

#include <utility>

#include "core/error.hpp"

namespace yr_fastload::bindings {
namespace {

template <typename T>
py::memoryview copied(const std::vector<T>& values, const char* format) {
  const py::bytes bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return py::memoryview(bytes).attr("cast")(format);
}

}  // namespace

U64Array::U64Array(const py::buffer& array, const char* name) : info_(array.request()) {
  const bool is_u64 = info_.itemsize == 8 && (info_.format == "Q" || info_.format == "L");
  const bool is_flat = info_.ndim == 1 && (info_.size <= 1 || info_.strides[0] == info_.itemsize);
  if (!is_u64 || !is_flat)
    throw Error(ErrorCode::kInvalidArgument, "binding",
                std::string(name) + " is not a flat array of uint64 (format " + info_.format + ", " +
                    std::to_string(info_.ndim) + " dimensions)");
  span_ = {static_cast<const std::uint64_t*>(info_.ptr), static_cast<std::size_t>(info_.size)};
}

DigestKind digest_named(const std::string& name) {
  const auto kind = digest_kind(name);
  if (!kind) throw Error(ErrorCode::kInvalidArgument, "binding", "there is no digest '" + name + "'");
  return *kind;
}

Span<const std::byte> contiguous(const py::buffer_info& info) {
  py::ssize_t expected = info.itemsize;
  for (py::ssize_t i = info.ndim; i-- > 0; expected *= info.shape[i])
    if (info.shape[i] > 1 && info.strides[i] != expected) throw py::value_error("the buffer is not C-contiguous");
  return {static_cast<const std::byte*>(info.ptr), static_cast<std::size_t>(info.size * info.itemsize)};
}

py::memoryview to_python(const std::vector<std::uint64_t>& values) { return copied(values, "Q"); }
py::memoryview to_python(const std::vector<std::int64_t>& values) { return copied(values, "q"); }

std::function<void(std::uint64_t)> progress_callback(const Progress& progress, std::uint64_t total_bytes) {
  // Borrowed from the waiting call's argument: the lambda is copied and dropped without the GIL, where references must
  // not be counted.
  return [borrowed = progress ? py::handle(*progress) : py::handle(), total_bytes](std::uint64_t done_bytes) {
    const WithGil gil;
    check_interrupts();
    if (borrowed) borrowed(done_bytes, total_bytes);
  };
}

std::shared_ptr<void> keep_python(py::object object) {
  return {object.release().ptr(), [](void* pointer) {
#if PY_VERSION_HEX >= 0x030D0000
            const bool ending = Py_IsInitialized() == 0 || Py_IsFinalizing() != 0;
#else
            const bool ending = Py_IsInitialized() == 0 || _Py_IsFinalizing() != 0;
#endif
            if (ending) return;  // a thread that asked for the GIL now would never get it
            const WithGil gil;
            Py_DECREF(static_cast<PyObject*>(pointer));
          }};
}

}  // namespace yr_fastload::bindings
