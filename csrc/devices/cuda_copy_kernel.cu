// Copies many runs of bytes at once, one block of threads a run. `make ptx` makes cuda_copy_kernel.hpp of this.
struct Copy {
  unsigned char* destination;
  const unsigned char* source;
  unsigned long long bytes;
};

extern "C" __global__ void yrfl_copy_runs(const Copy* copies, unsigned count) {
  for (unsigned i = blockIdx.x; i < count; i += gridDim.x) {
    const Copy copy = copies[i];
    unsigned long long done = 0;
    if (((reinterpret_cast<unsigned long long>(copy.destination) | reinterpret_cast<unsigned long long>(copy.source)) &
         15) == 0) {
      const uint4* from = reinterpret_cast<const uint4*>(copy.source);
      uint4* to = reinterpret_cast<uint4*>(copy.destination);
      const unsigned long long words = copy.bytes / sizeof(uint4);
#pragma unroll 4
      for (unsigned long long word = threadIdx.x; word < words; word += blockDim.x) to[word] = from[word];
      done = words * sizeof(uint4);
    }
    for (unsigned long long byte = done + threadIdx.x; byte < copy.bytes; byte += blockDim.x)
      copy.destination[byte] = copy.source[byte];
  }
}
