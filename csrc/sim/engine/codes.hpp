#pragma once

/// Results of CANN's interfaces that are used here: aclError (acl_base.h, rt_error_codes.h) and HcclResult
/// (hccl_types.h), both of the public CANN toolkit.
namespace yr_fastload::sim {

enum AclError : int {
  kAclSuccess = 0,
  kAclInvalidParam = 100000,
  kAclRepeatInitialize = 100002,
  kAclRtParamInvalid = 107000,
  kAclRtInvalidDevice = 107001,
  kAclRtContextNull = 107002,
  kAclRtStreamSubscribe = 107011,
  kAclRtThreadSubscribe = 107012,
  kAclRtStreamNoCallbackRegistered = 107015,
  kAclRtInvalidHandle = 107017,
  kAclRtStreamCaptured = 107027,
  kAclRtStreamNotCaptured = 107029,
  kAclRtCaptureModeNotSupported = 107030,
  kAclRtFeatureNotSupported = 207000,
  kAclRtMemoryAllocation = 207001,
  kAclRtMemoryFree = 207002,
  kAclRtInternalError = 507000,
  kAclRtReportTimeout = 507012,
  kAclRtStreamSyncTimeout = 507046,
  kAclRtEventSyncTimeout = 507047,
  kAclRtFftsPlusTimeout = 507048,  ///< what a transfer whose peer does not answer ends with
  kAclRtCopyData = 507052,
  kAclRtSuspectRemoteError = 507057,
};

enum HcclResult : int {
  kHcclSuccess = 0,
  kHcclParameter = 1,
  kHcclPointer = 2,
  kHcclInternal = 4,
  kHcclTimeout = 9,
  kHcclTcpConnect = 11,
  kHcclRuntime = 15,
  kHcclRemote = 21,
};

}  // namespace yr_fastload::sim
