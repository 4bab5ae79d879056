#pragma once

#include <datasystem/utils/connection.h>
#include <unistd.h>

#include <memory>

#include "core/call_runner.hpp"
#include "datasystem/connection.hpp"
#include "datasystem/exits.hpp"

namespace yr_fastload {

/// A client of openYuanrong's of this kind, which is not connected yet.
///
/// Its destructor waits for the worker's answer: without a bound if the worker is frozen (measured: until it resumed),
/// and 17 s if it is gone. So its last owner (a store, a call or an object in use) runs it on a thread that can be
/// abandoned.
template <typename Kind>
std::shared_ptr<Kind> make_client(const ::datasystem::ConnectOptions& options) {
  struct Made {
    explicit Made(const ::datasystem::ConnectOptions& options) : client(options) {}
    AtWork at_work;
    Kind client;
  };
  auto made = std::make_unique<Made>(options);
  auto* const client = &made->client;
  return {client, [made = made.release(), pid = ::getpid()](Kind*) {
            if (::getpid() != pid) return;  // a forked child has none of its threads
            try {
              CallRunner(1, 0).run("close", Deadline::after(kCloseSeconds),
                                   [made] { std::unique_ptr<Made>(made).reset(); });
            } catch (...) {
              // Late: its thread ends when the worker answers or is gone.
            }
          }};
}

}  // namespace yr_fastload
