#include "transports/staged.hpp"

#include <algorithm>
#include <deque>
#include <future>
#include <set>
#include <utility>

#include "datasystem/exits.hpp"
#include "datasystem/status.hpp"
#include "transports/packing.hpp"

namespace yr_fastload {
namespace {

namespace ds = ::datasystem;

/// One call at a time: each call raises the flags of the pipeline that it takes, also those by which a call before it
/// says that a buffer is free (0.8.1, AclPipelineResource::NotifyStart). openYuanrong overlaps copies to the device
/// with those from the worker within a call, and we overlap calls with copies to the tensors.
constexpr std::size_t kCalls = 1;
constexpr std::chrono::milliseconds kSlice{100};

bool is_full(const ds::Status& status) {
  return code_of(status.GetCode()) == ErrorCode::kResourceExhausted ||
         status.GetMsg().find(ds::Status::StatusCodeName(ds::K_OUT_OF_MEMORY) + " *") != std::string::npos;
}

void store(ds::HeteroClient& client, const Keys& keys, const std::vector<BlobList>& lists, std::uint32_t ttl_s,
           Deadline deadline) {
  ds::SetParam param;
  param.ttlSecond = ttl_s;
  const ds::Status status = client.MSetD2H(keys, lists, param);
  if (deadline.passed()) {
    // The waiting caller has erased these keys and left.
    std::vector<std::string> failed;
    const std::string erased = describe(client.Delete(keys, failed));
    throw Error(ErrorCode::kTransferTimeout, "publish", "was late, and its copies were deleted (" + erased + ")", keys);
  }
  if (is_full(status))
    throw Error(ErrorCode::kResourceExhausted, "publish",
                "the worker's shared memory has no room for a staged copy; start it with a larger "
                "shared_memory_size_mb, or evict other models (" +
                    describe(status) + ")",
                keys);
  check(status, "publish", keys);
}

struct Call {
  std::vector<std::uint64_t> chunks;
  Keys keys;
  std::vector<Landing> landings;
  std::shared_future<ds::AsyncResult> result;
};

}  // namespace

void publish_staged(HeteroReceiver& connection, std::shared_ptr<const Plan> plan, TensorMemory memory,
                    const std::string& key_prefix, std::uint32_t ttl_s, Deadline deadline) {
  const std::shared_ptr<HeteroSession> session = connection.session(deadline);
  const Keys all = chunk_keys(key_prefix, plan->chunks());
  std::uint64_t chunk = 0;
  try {
    in_batches(all, keys_at_once(connection.connection(), kPublishKeys), [&](const Keys& keys) {
      std::vector<BlobList> lists;
      for (std::size_t i = 0; i < keys.size(); ++i)
        lists.push_back(tensor_blobs(*plan, chunk++, memory, connection.device_index()));
      session->call("publish", deadline, [=, owners = memory.owners](ds::HeteroClient& client) {
        store(client, keys, lists, ttl_s, deadline);
      });
    });
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kTransferTimeout) connection.discard(session);
    throw;
  }
}

/// One read: calls in flight, oldest first.
class StagedReader::Pull {
 public:
  Pull(StagedReader& reader, Span<const std::uint64_t> chunks, const Deliver& deliver, Deadline deadline)
      : reader_(reader),
        wanted_(chunks.begin(), chunks.end()),
        deliver_(deliver),
        deadline_(deadline),
        session_(reader.receiver_->session(deadline)) {}

  ~Pull() {
    if (calls_.empty()) return;
    // Calls in flight may still write: their memory is kept until the session's client is gone.
    session_->keep(std::make_shared<std::deque<Call>>(std::move(calls_)));
    reader_.receiver_->discard(session_);
  }

  void run(const CancelFlag& cancelled) {
    while (!cancelled.raised() && !(wanted_.empty() && calls_.empty())) {
      while (calls_.size() < kCalls && !wanted_.empty() && ask()) {
      }
      if (calls_.empty() || calls_.front().result.wait_for(kSlice) != std::future_status::ready) continue;
      const Call call = std::move(calls_.front());
      calls_.pop_front();
      if (!take(call)) return;
    }
  }

 private:
  /// False if there is no room at the moment.
  bool ask() {
    Call call;
    std::vector<BlobList> lists;
    const std::size_t most = std::max<std::size_t>(1, reader_.chunks_ahead_ / kCalls);
    while (!wanted_.empty() && call.chunks.size() < most) {
      const std::uint64_t chunk = wanted_.front();
      Landing landing =
          reader_.receiver_->land(reader_.plan_->chunk_bytes[chunk], calls_.empty() && call.chunks.empty(), deadline_);
      if (!landing) break;
      lists.push_back(landing_blobs(*reader_.plan_, chunk, landing, reader_.receiver_->device_index()));
      call.keys.push_back(chunk_key(reader_.key_prefix_, chunk));
      call.landings.push_back(std::move(landing));
      call.chunks.push_back(chunk);
      wanted_.pop_front();
    }
    if (call.chunks.empty()) return false;
    const std::chrono::duration<double, std::milli> left = deadline_.at() - Deadline::Clock::now();
    const auto left_ms = static_cast<std::uint64_t>(std::max(1.0, left.count()));
    AtWork::for_good();  // ~RemoteH2DManager, an exit handler, takes 30 s (0.8.1)
    call.result = session_->call(
        "load", deadline_, [keys = call.keys, lists, landings = call.landings, left_ms](ds::HeteroClient& client) {
          return client.AsyncMGetH2D(keys, lists, std::min<std::uint64_t>(left_ms, 1'000'000));
        });
    calls_.push_back(std::move(call));
    return true;
  }

  bool take(const Call& call) {
    const ds::AsyncResult result = call.result.get();
    std::set<std::string> failed(result.failedList.begin(), result.failedList.end());
    if (result.status.IsError()) failed.insert(call.keys.begin(), call.keys.end());
    for (std::size_t i = 0; i < call.chunks.size(); ++i) {
      const std::uint64_t chunk = call.chunks[i];
      Arrival arrival;
      arrival.chunk = chunk;
      if (failed.count(call.keys[i]) == 0)
        arrival.view = landing_view(call.landings[i], reader_.plan_->chunk_bytes[chunk]);
      else
        arrival.detail = result.status.IsError() ? describe(result.status) : "is not in the worker any more";
      if (!deliver_(std::move(arrival))) return false;
    }
    return true;
  }

  StagedReader& reader_;
  std::deque<std::uint64_t> wanted_;
  const Deliver& deliver_;
  const Deadline deadline_;
  const std::shared_ptr<HeteroSession> session_;
  std::deque<Call> calls_;
};

StagedReader::StagedReader(std::shared_ptr<HeteroReceiver> receiver, std::shared_ptr<const Plan> plan,
                           std::string key_prefix, std::size_t chunks_ahead)
    : receiver_(std::move(receiver)),
      plan_(std::move(plan)),
      key_prefix_(std::move(key_prefix)),
      chunks_ahead_(chunks_ahead) {}

void StagedReader::read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                        Deadline deadline) {
  Pull(*this, chunks, deliver, deadline).run(cancelled);
}

}  // namespace yr_fastload
