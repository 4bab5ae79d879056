#include <map>
#include <utility>
#include <vector>

#include "bindings/common.hpp"
#include "bindings/dlpack.hpp"

namespace yr_fastload::bindings {
namespace {

/// Reads tensors of one framework's class and its subclasses through the DLPack exchange API, in a quarter of the time
/// that attribute access takes. Anything not plain (another type, an unknown device, another layout, a lazy negative,
/// whatever the framework refuses) is left to the slower path, which can say what is wrong.
class DlpackReader {
 public:
  DlpackReader(py::handle kind, const py::capsule& api, py::object number_of, py::object device_of, py::object make)
      : kind_(kind), number_of_(std::move(number_of)), device_of_(std::move(device_of)), make_(std::move(make)) {
    constexpr const char* kName = "dlpack_exchange_api";
    if (!PyCapsule_IsValid(api.ptr(), kName)) return;
    const auto* table = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(api.ptr(), kName));
    if (table->major == 1) read_ = table->dltensor_from_py_object;
  }

  py::object read(py::handle name, py::handle value) {
    if (read_ == nullptr || !is_plain(Py_TYPE(value.ptr()))) return py::none();
    DLTensor tensor{};
    if (read_(value.ptr(), &tensor) != 0) {
      PyErr_Clear();
      return py::none();
    }
    const std::uint64_t address = reinterpret_cast<std::uint64_t>(tensor.data) + tensor.byte_offset;
    const std::uint64_t count = dense_count(tensor);
    const bool is_complex = tensor.dtype.code == kDlpackComplex;  // which may be a lazy conjugate
    const py::handle device = device_of(tensor.device);
    if (device.is_none() || is_complex || count == 0 || address == 0) return py::none();
    const Number& number = number_of(value);
    const py::object is_neg = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(value.ptr(), neg_.ptr()));
    if (!is_neg) throw py::error_already_set();
    if (is_neg.ptr() != Py_False) return py::none();
    const Layout& layout = layout_of(tensor);
    const py::int_ bytes(count * number.bytes);
    const py::int_ place(address);
    PyObject* arguments[] = {name.ptr(),  number.name.ptr(), layout.shape.ptr(), layout.strides.ptr(),
                             bytes.ptr(), place.ptr(),       value.ptr(),        device.ptr()};
    py::object made =
        py::reinterpret_steal<py::object>(PyObject_Vectorcall(make_.ptr(), arguments, std::size(arguments), nullptr));
    if (!made) throw py::error_already_set();
    return made;
  }

 private:
  struct Number {
    py::object dtype;  ///< Kept alive, so that its address stays unique.
    py::object name;
    std::uint64_t bytes;
  };
  struct Layout {
    py::tuple shape;
    py::tuple strides;
  };

  /// Devices are few, tensors are many.
  py::handle device_of(DLDevice device) {
    const auto key = std::make_pair(device.device_type, device.device_id);
    const auto found = devices_.find(key);
    if (found != devices_.end()) return found->second;
    return devices_.emplace(key, device_of_(device.device_type, device.device_id)).first->second;
  }

  /// Types are few, too.
  bool is_plain(PyTypeObject* type) {
    if (type == plain_) return true;
    const py::handle handle(reinterpret_cast<PyObject*>(type));
    const int is_kind = PyObject_IsSubclass(handle.ptr(), kind_.ptr());
    if (is_kind < 0) throw py::error_already_set();
    if (is_kind == 0 || py::hasattr(handle, "materialize")) return false;  // torch's UninitializedParameter
    plain_ = type;
    return true;
  }

  /// Uses the framework's own dtype: DLPack cannot tell some apart, such as torch's int4 and int8.
  const Number& number_of(py::handle value) {
    const py::object dtype = py::reinterpret_steal<py::object>(PyObject_GetAttr(value.ptr(), dtype_.ptr()));
    if (!dtype) throw py::error_already_set();
    const auto found = numbers_.find(dtype.ptr());
    if (found != numbers_.end()) return found->second;
    const py::tuple made = number_of_(dtype);
    return numbers_.emplace(dtype.ptr(), Number{dtype, made[0], made[1].cast<std::uint64_t>()}).first->second;
  }

  /// Number of elements of a C-contiguous tensor; 0 if it is not contiguous, or empty.
  static std::uint64_t dense_count(const DLTensor& tensor) {
    std::int64_t count = 1;
    for (std::int32_t i = tensor.ndim; i-- > 0;) {
      if (tensor.strides != nullptr && tensor.shape[i] != 1 && tensor.strides[i] != count) return 0;
      count *= tensor.shape[i];
    }
    return static_cast<std::uint64_t>(count);
  }

  const Layout& layout_of(const DLTensor& tensor) {
    shape_.assign(tensor.shape, tensor.shape + tensor.ndim);
    const auto found = layouts_.find(shape_);
    if (found != layouts_.end()) return found->second;
    const auto rank = static_cast<std::size_t>(tensor.ndim);
    Layout made{py::tuple(rank), py::tuple(rank)};
    std::int64_t stride = 1;
    for (std::size_t i = rank; i-- > 0;) {
      made.shape[i] = py::int_(shape_[i]);
      made.strides[i] = py::int_(stride);
      stride *= shape_[i];
    }
    return layouts_.emplace(shape_, std::move(made)).first->second;
  }

  int (*read_)(void*, DLTensor*) = nullptr;
  py::handle kind_;
  py::object number_of_;
  py::object device_of_;
  py::object make_;
  py::str neg_{"is_neg"};
  py::str dtype_{"dtype"};
  PyTypeObject* plain_ = nullptr;
  std::map<PyObject*, Number> numbers_;
  std::map<std::pair<std::int32_t, std::int32_t>, py::object> devices_;
  std::vector<std::int64_t> shape_;
  std::map<std::vector<std::int64_t>, Layout> layouts_;
};

}  // namespace

void register_tensor_reader(py::module_& module) {
  module.def(
      "read_tensors",
      [](const py::typing::List<py::str>& names, const py::typing::List<py::object>& values, const py::type& kind,
         const py::capsule& api, const py::object& number_of, const py::object& device_of, const py::object& make) {
        if (names.size() != values.size()) throw py::value_error("names and values differ in length");
        DlpackReader reader(kind, api, number_of, device_of, make);
        py::typing::List<py::object> found(names.size());
        for (std::size_t i = 0; i < names.size(); ++i) found[i] = reader.read(names[i], values[i]);
        return found;
      },
      py::arg("names"), py::arg("values"), py::arg("kind"), py::arg("api"), py::arg("number_of"), py::arg("device_of"),
      py::arg("make"),
      "make(name, dtype, shape, strides, bytes, address, value, device) of each value that is a dense tensor of this "
      "class, by the class's DLPack exchange API; None for others. number_of(dtype): its name and item size; "
      "device_of(type, number): what `make` is given of a DLPack device, None where tensors are not read so.");
}

}  // namespace yr_fastload::bindings
