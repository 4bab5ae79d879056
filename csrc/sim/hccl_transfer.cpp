#include "hccl_transfer.hpp"

#include <chrono>
#include <string>
#include <utility>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

int acl_error(int result) {
  switch (result) {
    case kHcclSuccess:
      return kAclSuccess;
    case kHcclTimeout:
      return kAclRtFftsPlusTimeout;
    case kHcclRemote:
      return kAclRtSuspectRemoteError;
    default:
      return kAclRtInternalError;
  }
}

}  // namespace

Transfer::Transfer(std::shared_ptr<Comm> comm, std::uint64_t number, void* data, std::uint64_t bytes, std::int32_t type)
    : comm_(std::move(comm)), number_(number), data_(data), bytes_(bytes), type_(type) {}

Transfer::~Transfer() {
  if (!done_) comm_->fail(kHcclInternal);
}

int Transfer::finish(int result) {
  done_ = true;
  if (result != kHcclSuccess) comm_->fail(result);
  return acl_error(result);
}

void Transfer::sit_out_fault(const Patience& patience) const {
  sit_out(*hit_, [&] {
    return comm_->error() != 0 || patience.stream->interrupted() || std::chrono::steady_clock::now() >= patience.end;
  });
}

bool Transfer::announce() {
  if (!hit_) hit_ = match(Operation::kSend);
  return hit_->action == Action::kNone && offer();
}

/// False if the memory is not there.
bool Transfer::offer() {
  if (!memory_) memory_.emplace(data_, bytes_, "a send");
  if (!memory_->valid()) return false;
  comm_->offer(number_, memory_->bytes(), bytes_, type_);
  return true;
}

int Transfer::send(const Stream& stream) {
  const Comm::Running running(*comm_);
  const int result = finish(run_send({&stream, exec_deadline()}));
  memory_.reset();
  return result;
}

int Transfer::run_send(const Patience& patience) {
  const bool announced = memory_.has_value();
  if (!hit_) hit_ = match(Operation::kSend);
  if (hit_->action == Action::kFail) return kHcclInternal;
  if (hit_->action == Action::kDrop) return kHcclRemote;  // which fails the comm: the peer sees its socket close
  sit_out_fault(patience);
  if (!announced && !offer()) return kHcclInternal;
  const int result = memory_->valid() ? comm_->wait_answer(number_, patience) : static_cast<int>(kHcclInternal);
  if (result != kHcclSuccess) return result;
  if (!memory_->valid()) return kHcclInternal;
  count_sent(comm_->peer_pid(), bytes_);
  return kHcclSuccess;
}

int Transfer::receive(const Stream& stream) {
  const Comm::Running running(*comm_);
  return finish(run_receive({&stream, exec_deadline()}));
}

int Transfer::run_receive(const Patience& patience) {
  hit_ = match(Operation::kRecv);
  if (hit_->action == Action::kFail) return kHcclInternal;
  if (hit_->action == Action::kDrop) return kHcclRemote;
  sit_out_fault(patience);
  Word offer{};
  int result = comm_->wait_offer(number_, patience, offer);
  if (result != kHcclSuccess) return result;
  const MemoryInUse memory(data_, bytes_, "a receive");
  if (offer.bytes != bytes_ || offer.type != type_) {
    report("a receive of " + std::to_string(bytes_) + " bytes of type " + std::to_string(type_) + " meets a send of " +
           std::to_string(offer.bytes) + " bytes of type " + std::to_string(offer.type));
    result = kHcclParameter;
  } else {
    result = memory.valid() ? comm_->fetch(offer, memory.bytes(), patience) : static_cast<int>(kHcclInternal);
  }
  if (result == kHcclSuccess && !memory.valid()) result = kHcclInternal;
  if (result == kHcclSuccess && hit_->action == Action::kCorrupt) corrupt(memory.bytes(), bytes_, hit_->value);
  if (result == kHcclSuccess) count_received(comm_->peer_pid(), bytes_);
  comm_->answer(number_, result);
  return result;
}

}  // namespace yr_fastload::sim
