#include "transports/host_store.hpp"

#include <datasystem/kv_client.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "core/call_runner.hpp"
#include "core/error.hpp"
#include "datasystem/clients.hpp"
#include "datasystem/copies.hpp"
#include "datasystem/exits.hpp"
#include "datasystem/graveyard.hpp"
#include "datasystem/status.hpp"

namespace yr_fastload {
namespace {

namespace ds = ::datasystem;

constexpr unsigned kCallThreads = 4;
constexpr double kLongestCallSeconds = 600.0;
/// openYuanrong takes at most 2,000 keys in MCreate and MSet and 10,000 in other calls (kv_client.h, 0.8.1).
constexpr std::size_t kBatchKeys = 1000;

using Client = std::shared_ptr<ds::KVClient>;

bool not_found(const ds::Status& status) noexcept { return status.GetCode() == ds::K_NOT_FOUND; }

/// The client asks again until its time is up: the last answer may be a timeout, the earlier ones are in the message.
bool no_room(const ds::Status& status) {
  const std::string retried = ds::Status::StatusCodeName(ds::K_OUT_OF_MEMORY) + " *";
  return code_of(status.GetCode()) == ErrorCode::kResourceExhausted ||
         status.GetMsg().find(retried) != std::string::npos;
}

class View final : public ObjectView {
 public:
  View(Client client, ds::Buffer buffer) : client_(std::move(client)), buffer_(std::move(buffer)) {
    bytes_ = {static_cast<const std::byte*>(buffer_.ImmutableData()), static_cast<std::size_t>(buffer_.GetSize())};
  }
  Span<const std::byte> bytes() const noexcept override { return bytes_; }

 private:
  Client client_;  // the mapping belongs to the client
  ds::Buffer buffer_;
  Span<const std::byte> bytes_;
};

class Draft final : public ObjectDraft {
 public:
  Draft(Client client, std::shared_ptr<ds::Buffer> buffer) : client_(std::move(client)), buffer_(std::move(buffer)) {
    bytes_ = {static_cast<std::byte*>(buffer_->MutableData()), static_cast<std::size_t>(buffer_->GetSize())};
  }
  Span<std::byte> bytes() const noexcept override { return bytes_; }
  const std::shared_ptr<ds::Buffer>& buffer() const noexcept { return buffer_; }

 private:
  Client client_;
  std::shared_ptr<ds::Buffer> buffer_;
  Span<std::byte> bytes_;
};

class HostStore final : public ObjectStore {
 public:
  explicit HostStore(const Connection& connection)
      : reserve_keys_(keys_at_once(connection, kBatchKeys)), copies_(connection) {
    check_left_behind();
    expect_forks();
    try {
      const Deadline deadline = Deadline::after(connection.connect_timeout_s + kCloseSeconds);
      client_ = runner_.run("connect", deadline, [options = connect_options(connection)] {
        Client client = make_client<ds::KVClient>(options);
        check(client->Init(), "connect", {});
        return client;
      });
    } catch (const Error& error) {
      throw cannot_connect(connection, error);
    }
  }

  const char* transport() const noexcept override { return "host"; }

  bool answers(Deadline deadline) noexcept override {
    try {
      return call("answer", deadline, [](ds::KVClient& client) {
        const ds::StatusCode code = client.HealthCheck().GetCode();
        const bool rpc_failed = code >= ds::K_RPC_CANCELLED && code <= ds::K_RPC_STREAM_END;
        return !rpc_failed && code != ds::K_CLIENT_WORKER_DISCONNECT;
      });
    } catch (...) {
      return false;  // not in time
    }
  }

  void set(const std::string& key, const std::string& value, std::uint32_t ttl_s, Deadline deadline) override {
    call("set", deadline, [key, value, ttl_s](ds::KVClient& client) {
      ds::SetParam param;
      param.ttlSecond = ttl_s;
      check(client.Set(key, ds::StringView(value.data(), value.size()), param), "set", {key});
    });
  }

  bool set_all_if_absent(const KeyValues& entries, std::uint32_t ttl_s, Deadline deadline) override {
    return call("set_if_absent", deadline, [entries, ttl_s](ds::KVClient& client) {
      ds::MSetParam param;
      param.ttlSecond = ttl_s;
      param.existence = ds::ExistenceOpt::NX;
      Keys keys;
      std::vector<ds::StringView> values;
      for (const auto& [key, value] : entries) {
        keys.push_back(key);
        values.emplace_back(value.data(), value.size());
      }
      // MSetTx, not MSet: only the transaction tells that a key was there (measured, 0.8.1).
      const ds::Status status = client.MSetTx(keys, values, param);
      if (status.GetCode() == ds::K_OC_KEY_ALREADY_EXIST) return false;
      check(status, "set_if_absent", keys);
      return true;
    });
  }

  std::optional<std::string> get(const std::string& key, Deadline deadline) override {
    return call("get", deadline, [key](ds::KVClient& client) -> std::optional<std::string> {
      std::string value;
      const ds::Status status = client.Get(key, value);
      if (not_found(status)) return std::nullopt;
      check(status, "get", {key});
      return value;
    });
  }

  std::vector<std::optional<std::string>> get_many(const Keys& keys, Deadline deadline) override {
    std::vector<std::optional<std::string>> values;
    for (const auto& view : fetch(keys, deadline)) {
      if (!view) {
        values.emplace_back();
        continue;
      }
      const auto bytes = view->bytes();
      values.emplace_back(std::in_place, reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    return values;
  }

  std::vector<bool> exist(const Keys& keys, Deadline deadline) override {
    return call("exist", deadline, [keys](ds::KVClient& client) {
      std::vector<bool> all;
      in_batches(keys, kBatchKeys, [&](const Keys& batch) {
        std::vector<bool> some;
        check(client.Exist(batch, some), "exist", batch);
        all.insert(all.end(), some.begin(), some.end());
      });
      return all;
    });
  }

  Keys expire(const Keys& keys, std::uint32_t ttl_s, Deadline deadline) override {
    // On threads of their own: where a worker does not answer, a call takes longer than a lease leaves it, and the next
    // one is made meanwhile.
    Keys missing = call_by(renewals_, "expire", deadline, [keys, ttl_s, deadline](ds::KVClient& client) {
      Keys gone;
      if (deadline.passed()) return gone;  // nobody waits for it any more
      in_batches(keys, kBatchKeys, [&](const Keys& batch) {
        Keys failed;
        const ds::Status status = client.Expire(batch, ttl_s, failed);
        if (not_found(status) && failed.empty()) failed = batch;
        if (!not_found(status)) check(status, "expire", batch);
        if (!failed.empty()) check_known(client, failed);
        gone.insert(gone.end(), failed.begin(), failed.end());
      });
      return gone;
    });
    for (const auto& key : copies_.without(keys, deadline))
      if (std::find(missing.begin(), missing.end(), key) == missing.end()) missing.push_back(key);
    return missing;
  }

  void erase(const Keys& keys, Deadline deadline) override {
    call("erase", deadline, [keys](ds::KVClient& client) {
      in_batches(keys, kBatchKeys, [&](const Keys& batch) {
        Keys failed;
        const ds::Status status = client.Del(batch, failed);
        if (!not_found(status)) check(status, "erase", batch);
      });
    });
  }

  std::vector<std::unique_ptr<ObjectDraft>> reserve(const Keys& keys, Span<const std::uint64_t> sizes,
                                                    std::uint32_t ttl_s, Deadline deadline) override {
    const std::vector<std::uint64_t> owned_sizes(sizes.begin(), sizes.end());
    return call("reserve", deadline, [client = client_, keys, owned_sizes, ttl_s, most = reserve_keys_](ds::KVClient&) {
      std::vector<std::unique_ptr<ObjectDraft>> drafts;
      ds::SetParam param;
      param.ttlSecond = ttl_s;
      std::size_t first = 0;
      in_batches(keys, most, [&](const Keys& batch) {
        const auto begin = owned_sizes.begin() + static_cast<std::ptrdiff_t>(first);
        const std::vector<std::uint64_t> batch_sizes(begin, begin + static_cast<std::ptrdiff_t>(batch.size()));
        std::vector<std::shared_ptr<ds::Buffer>> buffers;
        check_room(client->MCreate(batch, batch_sizes, param, buffers), batch, owned_sizes);
        for (auto& buffer : buffers) drafts.push_back(std::make_unique<Draft>(client, std::move(buffer)));
        first += batch.size();
      });
      return drafts;
    });
  }

  void seal(std::vector<std::unique_ptr<ObjectDraft>> drafts, Deadline deadline) override {
    std::vector<std::shared_ptr<ds::Buffer>> buffers;
    buffers.reserve(drafts.size());
    for (const auto& draft : drafts) buffers.push_back(static_cast<const Draft&>(*draft).buffer());
    call("seal", deadline, [buffers](ds::KVClient& client) {
      for (std::size_t first = 0; first < buffers.size(); first += kBatchKeys) {
        const auto begin = buffers.begin() + static_cast<std::ptrdiff_t>(first);
        const auto count = static_cast<std::ptrdiff_t>(std::min(kBatchKeys, buffers.size() - first));
        check(client.MSet({begin, begin + count}), "seal", {});
      }
    });
  }

  using ObjectStore::fetch;
  std::vector<std::unique_ptr<ObjectView>> fetch(const Keys& keys, Deadline deadline, double call_s) override {
    const auto call_ms = static_cast<std::int32_t>(std::min(call_s, kLongestCallSeconds) * 1000);
    return call("fetch", deadline, [client = client_, keys, call_ms](ds::KVClient&) {
      std::vector<std::unique_ptr<ObjectView>> views;
      in_batches(keys, kBatchKeys, [&](const Keys& batch) {
        std::vector<ds::Optional<ds::Buffer>> buffers;
        const ds::Status status = client->Get(batch, buffers, call_ms);
        if (no_room(status))
          throw Error(ErrorCode::kResourceExhausted, "fetch",
                      "the shared memory of this host's worker has no room for " + std::to_string(batch.size()) +
                          " objects of another host; start it with a larger shared_memory_size_mb (" +
                          describe(status) + ") " + abbreviate(batch),
                      batch);
        if (!not_found(status)) check(status, "fetch", batch);
        buffers.resize(batch.size());  // empty where all are missing
        for (auto& buffer : buffers)
          views.push_back(buffer ? std::make_unique<View>(client, std::move(*buffer)) : nullptr);
      });
      return views;
    });
  }

 private:
  /// `Expire` names keys that are gone and keys whose directory, on another host, does not answer (seen in 0.8.1:
  /// ExpireFromMaster). `Exist` tells them apart: it fails where the directory does not answer, and of an object in the
  /// local worker's memory it says that it is there.
  static void check_known(ds::KVClient& client, const Keys& failed) {
    std::vector<bool> exist;
    check(client.Exist(failed, exist), "expire", failed);
    Keys unknown;
    for (std::size_t i = 0; i < failed.size() && i < exist.size(); ++i)
      if (exist[i]) unknown.push_back(failed[i]);
    if (!unknown.empty())
      throw Error(ErrorCode::kUnavailable, "expire",
                  "the worker that keeps track of them does not answer " + abbreviate(unknown), unknown);
  }

  static void check_room(const ds::Status& status, const Keys& keys, const std::vector<std::uint64_t>& sizes) {
    if (status.IsOk()) return;
    std::uint64_t bytes = 0;
    for (const std::uint64_t size : sizes) bytes += size;
    if (!no_room(status)) check(status, "reserve", keys);
    throw Error(ErrorCode::kResourceExhausted, "reserve",
                "the worker's shared memory has no room for " + std::to_string(bytes) +
                    " bytes; start it with a larger shared_memory_size_mb, or evict other models (" + describe(status) +
                    ")",
                keys);
  }

  template <typename Act>
  auto call(const char* op, Deadline deadline, Act act) -> std::invoke_result_t<Act&, ds::KVClient&> {
    return call_by(runner_, op, deadline, std::move(act));
  }

  template <typename Act>
  auto call_by(CallRunner& runner, const char* op, Deadline deadline, Act act)
      -> std::invoke_result_t<Act&, ds::KVClient&> {
    if (::getpid() != pid_)
      throw Error(ErrorCode::kInvalidArgument, op,
                  "this connection was made before a fork; make a new one in the child");
    return runner.run(op, deadline, [client = client_, act = std::move(act)]() mutable { return act(*client); });
  }

  const pid_t pid_ = ::getpid();
  const std::size_t reserve_keys_;
  Copies copies_;
  CallRunner runner_{kCallThreads, kCloseSeconds};
  CallRunner renewals_{kCallThreads, kCloseSeconds};
  Client client_;
};

}  // namespace

std::unique_ptr<ObjectStore> connect_host_store(const Connection& connection) {
  return std::make_unique<HostStore>(connection);
}

}  // namespace yr_fastload
