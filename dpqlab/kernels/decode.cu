// Weights written out from their codes, several layers in one launch.
//
// A block first copies the codewords that its tile may use into shared memory: all of a small pool
// (WHOLE), or the codebooks of its G positions, 2^BITS rows each. A look-up there is some ten times
// cheaper than one through the L1 cache, where each of a warp's 32 codewords is a line of its own.
// Then G neighbouring lanes decode G neighbouring positions of a row, 128 bytes or more that are
// stored together.
//
// Nothing outside is ever read: an index into shared memory is below the rows copied there.

#include "ptx.cuh"

#define VALUES (D / 2)  // 32-bit words of a codeword

struct __align__(4 * VALUES) Codeword {
  unsigned words[VALUES];
};

__device__ __forceinline__ unsigned pack_pair(float low, float high) {
#if OUT_TYPE == BFLOAT16
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return pack_halves(low, high);
#endif
}

__device__ __forceinline__ Codeword scaled(Codeword stored, float scale) {
  Codeword result;
#pragma unroll
  for (int i = 0; i < VALUES; ++i) {
    float low = half_to_float((unsigned short)(stored.words[i] & 0xffff));
    float high = half_to_float((unsigned short)(stored.words[i] >> 16));
    result.words[i] = pack_pair(low * scale, high * scale);
  }
  return result;
}

// In the dtype of the result already, unless a row scale has to come between.
__device__ __forceinline__ Codeword as_kept(Codeword stored) {
#if SCALED || OUT_TYPE == FLOAT16
  return stored;
#else
  return scaled(stored, 1.0f);
#endif
}

struct Layer {
  const unsigned char* codes;
  const Codeword* pool;
  const int* first;
  const int* size;
  const int* table;
  const unsigned short* scale;
  unsigned short* out;
  long long rows, positions, entries, stride, start;  // start: its first block of the grid
};

// By value: a descriptor in memory would be one more latency before the first code can be asked for.
struct Layers {
  Layer layer[LAYERS];
};

extern "C" __global__ void __launch_bounds__(THREADS)
    decode_layers(const __grid_constant__ Layers layers, int count) {
  extern __shared__ __align__(16) unsigned char memory[];
  Codeword* kept = (Codeword*)memory;
  constexpr int STEP = THREADS / G;

  int which = 0;
#pragma unroll
  for (int i = 1; i < LAYERS; ++i)
    if (i < count && blockIdx.x >= layers.layer[i].start) which = i;
  const Layer& layer = layers.layer[which];
  const int rows = (int)layer.rows, positions = (int)layer.positions;
  const int across = (positions + G - 1) / G;
  const int tile = (int)(blockIdx.x - layer.start);
  const int left = tile % across * G, position = left + threadIdx.x % G;
  const int top = tile / across * (STEP * UNROLL), row = top + threadIdx.x / G;
  const bool there = position < positions;

  // Everything that does not depend on anything is asked for first: codes, scales, codewords.
  // 64 bits once a tile, 32 within it.
  const unsigned long long start = (unsigned long long)top * positions * BITS;
  const unsigned long long bytes = ((unsigned long long)rows * positions * BITS + 7) / 8;
  const unsigned long long rest = bytes - (start >> 3);
  const unsigned char* stream = layer.codes + (start >> 3);
  const unsigned end = rest < 0xffffffffull ? (unsigned)rest : 0xffffffffu;
  unsigned bit = (unsigned)(start & 7) + (unsigned)position * BITS +
                 (unsigned)(row - top) * (unsigned)positions * BITS;
  unsigned code[UNROLL];
#if SCALED
  unsigned short scale[UNROLL];
#endif
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned at = bit >> 3;
    code[u] = 0;
    if (there && row + u * STEP < rows) {
#pragma unroll
      for (int i = 0; i < LOADS; ++i)
        if (i == 0 || at + i < end) code[u] |= (unsigned)__ldg(stream + at + i) << (8 * i);
#if SCALED
      scale[u] = __ldg(layer.scale + row + u * STEP);
#endif
    }
    code[u] = (code[u] >> (bit & 7)) & ((1u << BITS) - 1);
    bit += (unsigned)STEP * (unsigned)positions * BITS;
  }
#if WHOLE
  const int begin = there ? __ldg(layer.first + position) : 0;
  const int last = there ? __ldg(layer.size + position) - 1 : 0;
  for (int i = threadIdx.x; i < layer.entries; i += THREADS)
    kept[i] = as_kept(layer.pool[layer.table == nullptr ? i : layer.table[i]]);
#else
#pragma unroll 4
  for (int i = threadIdx.x; i < (G << BITS); i += THREADS) {
    const int g = left + (i >> BITS), c = i & ((1 << BITS) - 1);
    if (g < positions) {
      const int last = __ldg(layer.size + g) - 1;
      const int entry = __ldg(layer.first + g) + (c < last ? c : last);
      kept[i] = as_kept(layer.pool[layer.table == nullptr ? entry : layer.table[entry]]);
    }
  }
#endif
  __syncthreads();
  if (!there) return;

#if !WHOLE
  const Codeword* mine = kept + ((threadIdx.x % G) << BITS);
#endif
  unsigned short* out = layer.out + (long long)position * D;
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    const int r = row + u * STEP;
    if (r < rows) {
#if WHOLE
      const int c = (int)code[u];
      Codeword value = kept[begin + (c < last ? c : last)];
#else
      Codeword value = mine[code[u]];
#endif
#if SCALED
      value = scaled(value, half_to_float(scale[u]));
#endif
      *(Codeword*)(out + r * layer.stride) = value;
    }
  }
}
