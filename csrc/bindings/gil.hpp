#pragma once

#include <pybind11/pybind11.h>

#include <optional>

namespace yr_fastload::bindings {

/// Runs native code without the GIL, and takes it back at the end.
///
/// A thread that requests the GIL while the interpreter ends blocks for ever. Python does that itself from 3.14 on;
/// older versions end the thread by unwinding its stack, and a destructor on the way aborts the process.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil();

 private:
  PyThreadState* const state_;
};

/// Whether this thread has the GIL; false if the interpreter is nearly gone (PyGILState_Check then always says yes).
bool has_gil() noexcept;

/// Takes the GIL in a thread that released it or never had it, with the same care.
class WithGil {
 public:
  WithGil();

 private:
  std::optional<pybind11::gil_scoped_acquire> gil_;
};

/// Ends every transfer in this process, including later ones, with SystemExit in the waiting thread.
void end_transfers() noexcept;

/// Called with the GIL: throws what received signals or `end_transfers` raise.
void check_interrupts();

}  // namespace yr_fastload::bindings
