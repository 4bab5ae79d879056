#include <exception>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/common.hpp"
#include "core/error.hpp"

namespace yr_fastload::bindings {
namespace {

/// Raises the Python class from the error table, constructed as Python code would.
void raise(const Error& error) {
  const py::object type = py::module_::import("yr_fastload_native.errors").attr(error.row().python_class);
  const std::string prefix = error.op() + ": ";
  const std::string message = error.what();
  const py::object instance =
      type(message.substr(prefix.size()), py::arg("op") = error.op(), py::arg("failed_keys") = error.failed_keys());
  PyErr_SetObject(type.ptr(), instance.ptr());
}

std::vector<std::tuple<std::string, std::string, bool, std::string>> error_table() {
  std::vector<std::tuple<std::string, std::string, bool, std::string>> rows;
  for (const ErrorRow& row : kErrorTable) rows.emplace_back(row.name, row.python_class, row.retryable, row.meaning);
  return rows;
}

}  // namespace

void register_errors(py::module_& module) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise(error);
    }
  });
  module.def("error_table", &error_table,
             "Rows (code, Python class, retryable, meaning) of the one table of errors, csrc/core/error.hpp.");
}

}  // namespace yr_fastload::bindings
