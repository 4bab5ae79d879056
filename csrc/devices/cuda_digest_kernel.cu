// Takes digests (core/digest.hpp) of pieces of memory, and copies them on the way; one block of threads a piece, one
// warp a block of the digest. `make ptx` makes cuda_digest_kernel.hpp of this.
using u64 = unsigned long long;

struct Piece {
  unsigned char* destination;
  const unsigned char* source;
  u64 bytes;
  u64 first_block;
};

constexpr u64 kBlockKey = 0x9e3779b97f4a7c15ULL;
constexpr unsigned kBlockBytes = 8192;
constexpr unsigned kColumns = kBlockBytes / sizeof(u64);
constexpr unsigned kLanes = 32;
constexpr unsigned kWarps = 8;
constexpr unsigned kAhead = 4;  // loads of a lane before its first store

__device__ u64 mix(u64 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

__device__ u64 term(u64 word, u64 key) {
  const unsigned low = static_cast<unsigned>(word) + static_cast<unsigned>(key);
  const unsigned high = static_cast<unsigned>(word >> 32) + static_cast<unsigned>(key >> 32);
  return static_cast<u64>(low) * high + word;
}

__device__ u64 sum_of_warp(u64 value) {
  for (unsigned step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// This lane's part of a block's sum, from a whole number of pairs of words.
__device__ u64 aligned(unsigned char* to, const unsigned char* from, unsigned pairs, const u64* keys, unsigned lane) {
  const ulonglong2* const words = reinterpret_cast<const ulonglong2*>(from);
  ulonglong2* const copies = reinterpret_cast<ulonglong2*>(to);
  const ulonglong2* const pair_keys = reinterpret_cast<const ulonglong2*>(keys);
  u64 sum = 0;
  const auto take = [&](unsigned i, ulonglong2 word) {
    if (to != nullptr) copies[i] = word;
    const ulonglong2 key = pair_keys[i];
    sum += term(word.x, key.x) + term(word.y, key.y);
  };
  unsigned i = lane;
  for (; i + (kAhead - 1) * kLanes < pairs; i += kAhead * kLanes) {
    ulonglong2 word[kAhead];
#pragma unroll
    for (unsigned k = 0; k < kAhead; ++k) word[k] = words[i + k * kLanes];
#pragma unroll
    for (unsigned k = 0; k < kAhead; ++k) take(i + k * kLanes, word[k]);
  }
  for (; i < pairs; i += kLanes) take(i, words[i]);
  return sum;
}

// The same byte by byte, from a multiple of 8 on; the last word is padded with zeros.
__device__ u64 bytewise(unsigned char* to, const unsigned char* from, unsigned first, unsigned bytes, const u64* keys,
                        unsigned lane) {
  u64 sum = 0;
  for (unsigned column = first / sizeof(u64) + lane; column * sizeof(u64) < bytes; column += kLanes) {
    u64 word = 0;
    for (unsigned i = column * sizeof(u64); i < bytes && i < (column + 1) * sizeof(u64); ++i) {
      const unsigned char byte = from[i];
      if (to != nullptr) to[i] = byte;
      word |= static_cast<u64>(byte) << (i % sizeof(u64) * 8);
    }
    sum += term(word, keys[column]);
  }
  return sum;
}

extern "C" __global__ void __launch_bounds__(kWarps* kLanes) yrfl_digest_pieces(const Piece* pieces, u64* sums) {
  __shared__ __align__(16) u64 keys[kColumns];
  __shared__ u64 sum_of[kWarps];
  for (unsigned column = threadIdx.x; column < kColumns; column += kWarps * kLanes)
    keys[column] = mix((column + 1) * kBlockKey);
  __syncthreads();

  const Piece piece = pieces[blockIdx.x];
  const unsigned lane = threadIdx.x % kLanes;
  const unsigned warp = threadIdx.x / kLanes;
  const bool wide = ((reinterpret_cast<u64>(piece.destination) | reinterpret_cast<u64>(piece.source)) & 15) == 0;
  u64 mixed = 0;
  for (u64 block = warp; block * kBlockBytes < piece.bytes; block += kWarps) {
    const u64 begin = block * kBlockBytes;
    const u64 left = piece.bytes - begin;
    const unsigned bytes = left < kBlockBytes ? static_cast<unsigned>(left) : kBlockBytes;
    unsigned char* const to = piece.destination == nullptr ? nullptr : piece.destination + begin;
    const unsigned char* const from = piece.source + begin;
    const unsigned pairs = wide ? bytes / sizeof(ulonglong2) : 0;
    const u64 sum =
        aligned(to, from, pairs, keys, lane) + bytewise(to, from, pairs * sizeof(ulonglong2), bytes, keys, lane);
    mixed += mix(sum_of_warp(sum) + (piece.first_block + block + 1) * kBlockKey);
  }
  if (lane == 0) sum_of[warp] = mixed;
  __syncthreads();
  if (threadIdx.x == 0) {
    u64 total = 0;
    for (unsigned i = 0; i < kWarps; ++i) total += sum_of[i];
    sums[blockIdx.x] = total;
  }
}
