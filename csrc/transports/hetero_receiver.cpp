#include "transports/hetero_receiver.hpp"

#include <algorithm>
#include <utility>

#include "datasystem/status.hpp"

namespace yr_fastload {
namespace {

constexpr double kMomentSeconds = 0.05;

class LandingView final : public ObjectView {
 public:
  LandingView(Landing landing, std::uint64_t bytes) : landing_(std::move(landing)), bytes_(bytes) {}
  Span<const std::byte> bytes() const noexcept override { return {landing_->data(), bytes_}; }
  Place place() const noexcept override { return Place::kDevice; }

 private:
  const Landing landing_;
  const std::uint64_t bytes_;
};

}  // namespace

std::string greeting_key(const std::string& key_prefix) { return key_prefix + "hello"; }

std::vector<bool> are_served(::datasystem::HeteroClient& client, const Keys& keys) {
  std::vector<::datasystem::MetaInfo> sizes;
  Keys missing;
  const ::datasystem::Status status = client.GetMetaInfo(keys, true, sizes, missing);
  if (status.GetCode() != ::datasystem::K_NOT_FOUND) check(status, "load", keys);
  std::vector<bool> served(keys.size(), false);
  for (std::size_t i = 0; i < std::min(keys.size(), sizes.size()); ++i) served[i] = !sizes[i].blobSizeList.empty();
  return served;
}

HeteroReceiver::HeteroReceiver(Connection connection, std::shared_ptr<Device> device, std::uint64_t landing_bytes)
    : connection_(std::move(connection)),
      device_(std::move(device)),
      landing_(device_, landing_bytes, MemoryKind::kDevice),
      runner_(2, 0.0) {}

HeteroReceiver::Connecting HeteroReceiver::connecting() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (connecting_.valid()) return connecting_;
  auto promise = std::make_shared<std::promise<std::shared_ptr<HeteroSession>>>();
  connecting_ = promise->get_future().share();
  runner_.post([promise, connection = connection_, device = device_] {
    try {
      promise->set_value(std::make_shared<HeteroSession>(connection, device));
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  });
  return connecting_;
}

void HeteroReceiver::prepare() { connecting(); }

void HeteroReceiver::greet(const std::string& key) {
  const Connecting pending = connecting();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(greeted_, key) == key) return;
  }
  runner_.post([pending, key] {
    try {
      const std::shared_ptr<HeteroSession> session = pending.get();
      session->post_expecting([key, list = session->greeting()](::datasystem::HeteroClient& client) {
        std::vector<::datasystem::Future> futures;
        try {
          if (are_served(client, {key}).front()) static_cast<void>(client.DevSubscribe({key}, {list}, futures));
        } catch (const Error&) {
          // As below.
        }
        return futures;
      });
    } catch (...) {
      // The next request for chunks meets the same error and reports it.
    }
  });
}

std::shared_ptr<HeteroSession> HeteroReceiver::session(Deadline deadline) {
  const Connecting pending = connecting();
  if (pending.wait_until(deadline.at()) != std::future_status::ready)
    throw Error(ErrorCode::kTransferTimeout, "connect", "the openYuanrong worker did not answer before the deadline");
  try {
    return pending.get();
  } catch (...) {
    discard(nullptr);  // the next call tries again
    throw;
  }
}

Landing HeteroReceiver::land(std::size_t bytes, bool wait, Deadline deadline) {
  auto lease = wait ? landing_.lease_until(bytes, Deadline::after(kMomentSeconds), deadline)
                    : landing_.try_lease(bytes, deadline);
  return lease ? std::make_shared<PinnedPool::Lease>(std::move(*lease)) : nullptr;
}

void HeteroReceiver::discard(const std::shared_ptr<HeteroSession>& session) {
  if (session) session->give_up();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!connecting_.valid() || connecting_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
  bool same = session == nullptr;
  try {
    same = same || connecting_.get() == session;
  } catch (...) {
    same = true;
  }
  if (!same) return;
  connecting_ = {};
  greeted_.clear();
}

BlobList landing_blobs(const Plan& plan, std::uint64_t chunk, const Landing& landing, int device) {
  BlobList list;
  list.deviceIdx = device;
  for (const Blob& blob : plan.chunk(chunk)) list.blobs.push_back({landing->data() + blob.chunk_offset, blob.bytes});
  return list;
}

std::unique_ptr<ObjectView> landing_view(Landing landing, std::uint64_t bytes) {
  return std::make_unique<LandingView>(std::move(landing), bytes);
}

}  // namespace yr_fastload
