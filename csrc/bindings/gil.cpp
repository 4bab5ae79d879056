#include "bindings/gil.hpp"

#include <cxxabi.h>
#include <unistd.h>

#include <atomic>

namespace yr_fastload::bindings {
namespace {

std::atomic<bool> ending{false};

[[noreturn]] void stay_forever() {
  for (;;) ::pause();
}

}  // namespace

WithoutGil::~WithoutGil() {
  try {
    PyEval_RestoreThread(state_);
  } catch (abi::__forced_unwind&) {
    stay_forever();
  }
}

bool has_gil() noexcept { return PyGILState_GetThisThreadState() != nullptr && PyGILState_Check() != 0; }

WithGil::WithGil() {
  try {
    gil_.emplace();
  } catch (abi::__forced_unwind&) {
    stay_forever();
  }
}

void end_transfers() noexcept { ending = true; }

void check_interrupts() {
  if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  if (!ending) return;
  PyErr_SetString(PyExc_SystemExit, "the interpreter is about to end");
  throw pybind11::error_already_set();
}

}  // namespace yr_fastload::bindings
