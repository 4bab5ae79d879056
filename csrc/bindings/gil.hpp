#pragma once

#include <pybind11/pybind11.h>

#include <optional>

namespace yr_fastload::bindings {

/// Runs native code without the GIL, and takes it back at the end.
///
/// A thread that asks for the GIL once the interpreter goes never gets on. Python does so from 3.14 on; before, it ends
/// the thread by unwinding its stack, and a destructor that is met on the way aborts the process.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil();

 private:
  PyThreadState* const state_;
};

/// Whether this thread has the GIL; false where the interpreter is nearly gone (there PyGILState_Check says yes to
/// all).
bool has_gil() noexcept;

/// Takes the GIL in a thread that gave it up or never had it; with the same care.
class WithGil {
 public:
  WithGil();

 private:
  std::optional<pybind11::gil_scoped_acquire> gil_;
};

/// Asks every transfer of this process to end, also those that begin later: SystemExit, in the thread that waits.
void end_transfers() noexcept;

/// With the GIL: throws what the signals that came, or `end_transfers`, raise.
void check_interrupts();

}  // namespace yr_fastload::bindings
