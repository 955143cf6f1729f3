// Weights written out from their codes, several layers in one launch.
//
// A block first copies the codewords that its tile may use into shared memory: all of a small pool
// (WHOLE), or the codebooks of its G positions, 2^BITS rows each. A look-up there is some ten times
// cheaper than one through the L1 cache, where each of a warp's 32 codewords is a line of its own.
// Then G neighbouring lanes decode G neighbouring positions of a row, 128 bytes or more that are
// stored together.
//
// What a GPU has least of here is instructions: the shape of a row is known when this is compiled,
// so that addresses are constants apart, and the rows of a thread are multiples of eight apart, so
// that all of its codes start at the same bit of a byte.
//
// Nothing outside is ever read: an index into shared memory is below the rows copied there, and a
// byte of the stream is asked for only if it holds bits of a code.
//
// Macros: D, BITS, WHOLE, G, SCALED, OUT_TYPE, POSITIONS (of a row), STRIDE (values from row to row
// of the result), LOADS (bytes that a code may lie in), THREADS, UNROLL (rows that a thread asks for
// at once), LOOPS (times that it does so), LAYERS.

#include "ptx.cuh"

#define VALUES (D / 2)  // 32-bit words of a codeword

constexpr int STEP = THREADS / G;                              // rows between those of a thread
constexpr unsigned ROW_BITS = (unsigned)POSITIONS * BITS;
constexpr unsigned LEAP = ROW_BITS * (STEP / 8);               // bytes between their codes
constexpr int BATCH = STEP * UNROLL;
static_assert(STEP % 8 == 0, "all codes of a thread start at the same bit of a byte");

struct __align__(4 * VALUES) Codeword {
  unsigned words[VALUES];
};

__device__ __forceinline__ unsigned pack_pair(float low, float high) {
  return OUT_TYPE == BFLOAT16 ? pack_bfloats(low, high) : pack_halves(low, high);
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
  long long rows, entries, start;  // start: its first block of the grid
};

// By value: a descriptor in memory would be one more latency before the first code can be asked for.
struct Layers {
  Layer layer[LAYERS];
};

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    decode_layers(const __grid_constant__ Layers layers, int count) {
  extern __shared__ __align__(16) unsigned char memory[];
  Codeword* kept = (Codeword*)memory;

  int which = 0;
#pragma unroll
  for (int i = 1; i < LAYERS; ++i)
    if (i < count && blockIdx.x >= layers.layer[i].start) which = i;
  const Layer& layer = layers.layer[which];
  const int tile = (int)(blockIdx.x - layer.start);
  constexpr int ACROSS = (POSITIONS + G - 1) / G;
  const int left = tile % ACROSS * G, top = tile / ACROSS * (BATCH * LOOPS);
  const int rows = (int)layer.rows, bottom = min(rows, top + BATCH * LOOPS);
  const int position = left + threadIdx.x % G;
  const bool there = POSITIONS % G == 0 || position < POSITIONS;
  int row = there ? top + threadIdx.x / G : bottom;

  const unsigned long long bit =
      (unsigned long long)row * ROW_BITS + (unsigned)position * BITS;
  const unsigned char* code_at = layer.codes + (bit >> 3);
  const unsigned shift = (unsigned)bit & 7;
#if SCALED
  const unsigned short* scale_at = layer.scale + row;
#endif
  unsigned short* out = layer.out + (long long)row * STRIDE + position * D;

  // Everything that does not depend on anything is asked for first: codes, scales, codewords.
  unsigned bytes[UNROLL];
#if SCALED
  unsigned short factors[UNROLL];
#endif
  auto load = [&]() {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      if (row + u * STEP < bottom) {
        bytes[u] = __ldg(code_at + u * LEAP);
#pragma unroll
        for (int i = 1; i < LOADS; ++i)
          if (shift + BITS > 8 * i) bytes[u] |= (unsigned)__ldg(code_at + u * LEAP + i) << (8 * i);
#if SCALED
        factors[u] = __ldg(scale_at + u * STEP);
#endif
      }
    }
  };
  load();
#if WHOLE
  const int begin = there ? __ldg(layer.first + position) : 0;
  const int last = there ? __ldg(layer.size + position) - 1 : 0;
  for (int i = threadIdx.x; i < layer.entries; i += THREADS)
    kept[i] = as_kept(layer.pool[layer.table == nullptr ? i : layer.table[i]]);
#else
#pragma unroll 2
  for (int i = threadIdx.x; i < (G << BITS); i += THREADS) {
    const int g = left + (i >> BITS), c = i & ((1 << BITS) - 1);
    if (g < POSITIONS) {
      const int last = __ldg(layer.size + g) - 1;
      const int entry = __ldg(layer.first + g) + (c < last ? c : last);
      kept[i] = as_kept(layer.pool[layer.table == nullptr ? entry : layer.table[entry]]);
    }
  }
  const Codeword* mine = kept + ((threadIdx.x % G) << BITS);
#endif
  __syncthreads();

#pragma unroll 1
  for (int loop = 0; loop < LOOPS; ++loop) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      if (row + u * STEP < bottom) {
        const unsigned code = (bytes[u] >> shift) & ((1u << BITS) - 1);
#if WHOLE
        Codeword value = kept[begin + min((int)code, last)];
#else
        Codeword value = mine[code];
#endif
#if SCALED
        value = scaled(value, half_to_float(factors[u]));
#endif
        *(Codeword*)(out + (long long)u * STEP * STRIDE) = value;
      }
    }
    if (loop + 1 < LOOPS) {
      row += BATCH;
      code_at += UNROLL * LEAP;
      out += (long long)BATCH * STRIDE;
#if SCALED
      scale_at += BATCH;
#endif
      load();
    }
  }
}
