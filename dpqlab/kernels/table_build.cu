// First of two kernels of the table linear: all products of x with codewords, for all positions.
//
//   T[t][g][c][r] = sum_j x[r, g * d + j] * pool[entry(t, g, min(c, size[t][g] - 1)), j]
//
// Rows of x lie side by side in an entry: one float32 (one row of x) or 2, 4, 8 float16. A table
// has LENGTH >= 2^BITS entries a position, whatever the codebook's size: no code reads outside.
//
// float16 has little range: x is scaled by a power of two so that no sum of 4 entries overflows,
// and `undo` holds the inverse for each row of x.
//
// Macros: LENGTH, POSITIONS, D, COLUMNS, ROWS (of x), WORDS (32-bit words of an entry), X_TYPE,
// POOL_TYPE, X_VECTOR, POOL_VECTOR (bytes of a load), INDEXED, BULK.

#include "ptx.cuh"

#define LARGEST_EXPONENT 12  // of an entry: 4 of them stay below 65,504

template <int BYTES> struct Block {};
template <> struct Block<2> { unsigned short word; };
template <> struct Block<4> { unsigned word; };
template <> struct Block<8> { uint2 word; };
template <> struct Block<16> { uint4 word; };

// Reads VECTOR bytes as floats.
template <int TYPE, int VECTOR>
__device__ __forceinline__ void load_floats(const typename Stored<TYPE>::word* from, float* to) {
  typedef typename Stored<TYPE>::word word;
  union {
    Block<VECTOR> block;
    word words[VECTOR / sizeof(word)];
  } loaded;
  loaded.block = *(const Block<VECTOR>*)from;
#pragma unroll
  for (int i = 0; i < (int)(VECTOR / sizeof(word)); ++i) to[i] = widened<TYPE>(loaded.words[i]);
}

// The power of two that each row of x is multiplied by, and its inverse.
__device__ __forceinline__ void find_scales(const Stored<X_TYPE>::word* x, int codeword_exponent,
                                            float (&scale)[ROWS], float (&undo)[ROWS]) {
  __shared__ unsigned peak[ROWS];
  if (threadIdx.x < ROWS) peak[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    unsigned most = 0;  // magnitudes compare like the integers that spell them
    for (int i = threadIdx.x; i < COLUMNS; i += blockDim.x) {
      unsigned bits = __float_as_uint(widened<X_TYPE>(x[(size_t)row * COLUMNS + i])) & 0x7fffffffu;
      most = bits > most ? bits : most;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      unsigned other = __shfl_xor_sync(0xffffffffu, most, distance);
      most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0) atomicMax(&peak[row], most);
  }
  __syncthreads();
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    int exponent = (int)(peak[row] >> 23) - 126;  // |x| < 2^exponent
    int shift = LARGEST_EXPONENT - exponent - codeword_exponent;
    shift = shift > 126 ? 126 : shift < -126 ? -126 : shift;
    // zeros need no scale; infinities and NaNs are to come out as they are
    if (ROWS == 1 || peak[row] == 0 || peak[row] >= 0x7f800000u) shift = 0;
    scale[row] = __uint_as_float((unsigned)(127 + shift) << 23);
    undo[row] = __uint_as_float((unsigned)(127 - shift) << 23);
  }
}

// Grid: (blocks that share the entries of a table, tables). All codewords have
// sum_j |codeword_j| < 2^codeword_exponent.
extern "C" __global__ void __launch_bounds__(256)
    build_tables(const Stored<X_TYPE>::word* __restrict__ x,
                 const Stored<POOL_TYPE>::word* __restrict__ pool, const int* __restrict__ first,
                 const int* __restrict__ size, const int* __restrict__ indices,
                 unsigned* __restrict__ tables, float* __restrict__ undo, int codeword_exponent) {
  const int STEP_X = X_VECTOR / sizeof(Stored<X_TYPE>::word);
  const int STEP_POOL = POOL_VECTOR / sizeof(Stored<POOL_TYPE>::word);
  const int STEP = STEP_X < STEP_POOL ? STEP_X : STEP_POOL;
  let_next_start();
  float scale[ROWS], inverse[ROWS];
  find_scales(x, codeword_exponent, scale, inverse);
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0)
    for (int row = 0; row < ROWS; ++row) undo[row] = inverse[row];

  const size_t table = blockIdx.y;
  first += table * POSITIONS;
  size += table * POSITIONS;
  tables += table * POSITIONS * LENGTH * WORDS;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < POSITIONS * LENGTH;
       i += gridDim.x * blockDim.x) {
    const unsigned position = i / LENGTH, code = i % LENGTH;
    const unsigned last = size[position] - 1;
    unsigned entry = first[position] + (code < last ? code : last);
    if (INDEXED) entry = indices[entry];
    float sum[2 * WORDS];
#pragma unroll
    for (int row = 0; row < 2 * WORDS; ++row) sum[row] = 0.0f;
#pragma unroll(D <= 16 ? D : 1)
    for (int j = 0; j < D; j += STEP) {
      const unsigned column = position * D + j;
      if (column >= COLUMNS) break;  // zeros stand behind the last column
      float word[STEP];
      load_floats<POOL_TYPE, STEP * sizeof(Stored<POOL_TYPE>::word)>(
          pool + (size_t)entry * D + j, word);
#pragma unroll
      for (int row = 0; row < ROWS; ++row) {
        float value[STEP];
        load_floats<X_TYPE, STEP * sizeof(Stored<X_TYPE>::word)>(
            x + (size_t)row * COLUMNS + column, value);
#pragma unroll
        for (int s = 0; s < STEP; ++s) sum[row] = fmaf(value[s] * scale[row], word[s], sum[row]);
      }
    }
    if (ROWS == 1) {
      tables[i] = __float_as_uint(sum[0]);
    } else {
#pragma unroll
      for (int w = 0; w < WORDS; ++w)
        tables[(size_t)i * WORDS + w] = pack_halves(sum[2 * w], sum[2 * w + 1]);
    }
  }
}
