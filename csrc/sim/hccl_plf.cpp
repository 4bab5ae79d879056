// libhccl_plf.so: the platform layer of HCCL, used by P2P-Transfer only.
#include "unimplemented.hpp"

YRFL_SIM_UNIMPLEMENTED(hrtGetDevicePhyIdByIndex)
YRFL_SIM_UNIMPLEMENTED(hrtGetDeviceRefresh)
YRFL_SIM_UNIMPLEMENTED(_Z11HcclNetInit13NICDeploymentiibb)
YRFL_SIM_UNIMPLEMENTED(_Z13HcclNetDeInit13NICDeploymentiib)
