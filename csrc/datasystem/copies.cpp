#include "datasystem/copies.hpp"

#include <datasystem/object_client.h>

#include <utility>
#include <vector>

#include "datasystem/clients.hpp"
#include "datasystem/status.hpp"

namespace yr_fastload {

namespace ds = ::datasystem;

namespace {

/// At most 64 keys a call (object_client_impl.cpp, 0.8.1).
constexpr std::size_t kBatchKeys = 64;
/// Of the time that is left: whoever asks has more to do, and this may wait for a worker that is gone.
constexpr double kShare = 0.25;

}  // namespace

/// Of the one thread that makes calls, which may outlive the rest.
struct Copies::State {
  explicit State(const Connection& shown) : options(connect_options(shown)), tenant(shown.credentials.tenant_id) {}

  Keys without(const Keys& keys) {
    Keys found;
    connect();
    in_batches(keys, kBatchKeys, [&](const Keys& batch) {
      if (!client) return;
      std::vector<ds::ObjMetaInfo> known;
      const ds::Status status = client->GetObjMetaInfo(tenant, batch, known);
      is_told = status.GetCode() != ds::K_NOT_AUTHORIZED;
      if (!status.IsOk()) client = nullptr;  // not every one connects again to a worker that was restarted
      // Of keys that whoever keeps track of them does not answer for, there is not even a size.
      for (std::size_t i = 0; i < batch.size() && i < known.size(); ++i)
        if (known[i].objSize > 0 && known[i].locations.empty()) found.push_back(batch[i]);
    });
    return found;
  }

  void connect() {
    if (client || !is_told) return;
    auto made = make_client<ds::ObjectClient>(options);
    if (made->Init().IsOk()) client = std::move(made);
  }

  const ds::ConnectOptions options;
  const std::string tenant;
  bool is_told = true;  // with authorization_enable, only who has an access key is
  std::shared_ptr<ds::ObjectClient> client;
};

Copies::Copies(const Connection& connection)
    : state_(connection.is_alone ? nullptr : std::make_shared<State>(connection)), runner_(1, kCloseSeconds) {}

Keys Copies::without(const Keys& keys, Deadline deadline) noexcept {
  if (!state_) return {};
  try {
    const Deadline end = Deadline::after(deadline.left() * kShare);
    return runner_.run("copies", end,
                       [state = state_, keys, end] { return end.passed() ? Keys() : state->without(keys); });
  } catch (...) {
    return {};  // late
  }
}

}  // namespace yr_fastload
