// ptx.cuh for a CPU: the few functions of it that decode.cu needs, and CUDA's words.
#include <barrier>
#include <cstdint>
#include <cstring>
#include <vector>
#include <thread>

#define FLOAT32 1
#define FLOAT16 2
#define BFLOAT16 3

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index { unsigned x; };
thread_local Index threadIdx, blockIdx;
std::barrier<>* together;
#define __syncthreads() together->arrive_and_wait()
template <class T> T __ldg(const T* address) { return *address; }
inline int min(int a, int b) { return a < b ? a : b; }

inline float half_to_float(unsigned short half) {
  _Float16 value;
  std::memcpy(&value, &half, 2);
  return (float)value;
}

inline unsigned pack_halves(float low, float high) {
  _Float16 both[2] = {(_Float16)low, (_Float16)high};
  unsigned word;
  std::memcpy(&word, both, 4);
  return word;
}

// As the GPU's cvt.rn: to nearest, ties to even.
inline unsigned pack_bfloats(float low, float high) {
  unsigned words[2];
  float values[2] = {low, high};
  std::memcpy(words, values, 8);
  for (unsigned& word : words) word = (word + 0x7fff + (word >> 16 & 1)) >> 16;
  return words[0] | words[1] << 16;
}
