// Second of two kernels of the table linear: y[r, o] = scale[o] * sum_g T[g][code(o, g)][r] + bias.
//
// A block owns runs of output rows ("segments"); a lane owns UNITS rows of a segment. The table
// passes through shared memory in stages of SPAN positions, a ring of BUFFERS of them, filled by
// the copy engine at the orders of one more warp. All lanes of a warp look up the same position,
// each with the code of its own row: 32 words from 32 banks, in about 3.2 cycles for 256 codes.
//
// Codes: word w of row o is words[w * stride + o], so that a warp reads 128 bytes in a row. 32
// codes fill BITS words; their shifts are known when this is compiled.
//
// Sums of 4 entries are float16 (where a table is), all others float32. No atomics: the same input
// gives the same bits.
//
// Macros: BITS, LENGTH (entries of a position), POSITIONS, ROWS (of x), WORDS (32-bit words of a
// table entry), SPAN (divides 32), BUFFERS, UNITS, AHEAD (runs of 32 codes that are loaded before
// they are needed), THREADS, Y_TYPE, SCALE_TYPE, BIAS_TYPE (0: none), BULK (0: blocks copy stages
// themselves, BUFFERS is 1).

#include "ptx.cuh"

constexpr int RUN = 32;  // codes that fill whole words
constexpr int FULL = POSITIONS / RUN;
constexpr int TAIL = POSITIONS % RUN;
constexpr int TAIL_WORDS = (TAIL * BITS + 31) / 32;
constexpr int PARTS = RUN / SPAN;  // stages of a run
constexpr int STAGES = (POSITIONS + SPAN - 1) / SPAN;
constexpr int SHIFT = WORDS == 1 ? 2 : WORDS == 2 ? 3 : 4;
constexpr unsigned ROW_BYTES = (unsigned)LENGTH << SHIFT;  // of one position's entries
constexpr unsigned STAGE_BYTES = SPAN * ROW_BYTES;
constexpr int SUMS = ROWS == 1 ? 1 : 2 * WORDS;
constexpr int GROUP = WORDS == 4 ? 2 : 4;  // entries that are added before they are widened
constexpr unsigned ALIGNED = 1024;  // where shared memory starts

template <int N> struct Words {};
template <> struct Words<1> { typedef unsigned type; };
template <> struct Words<2> { typedef uint2 type; };
template <> struct Words<4> { typedef uint4 type; };
typedef Words<WORDS>::type Entry;

struct Segment {
  int table;  // which table the rows use
  int row;    // first of them, in `words`
  int rows;
  int out;    // first of them, in y
};

extern __shared__ __align__(ALIGNED) unsigned char shared[];

struct Ring {
  unsigned long long* full;
  unsigned long long* empty;
  int buffer;
  unsigned parity;

  __device__ __forceinline__ void advance() {
    if (++buffer == BUFFERS) {
      buffer = 0;
      parity ^= 1u;
    }
  }
};

__device__ __forceinline__ constexpr unsigned bytes_of_stage(int stage) {
  return stage + 1 < STAGES ? STAGE_BYTES : (POSITIONS - (STAGES - 1) * SPAN) * ROW_BYTES;
}

// The code of a run that is `p`th, as an offset in bytes into its position's entries.
__device__ __forceinline__ unsigned offset_of(const unsigned (&word)[BITS], int p) {
  const int low = p * BITS % 32, w = p * BITS / 32, right = low - SHIFT;
  unsigned bits;
  if (low + BITS > 32)
    bits = __funnelshift_r(word[w], word[(w + 1) % BITS], right);
  else
    bits = right >= 0 ? word[w] >> (right & 31) : word[w] << (-right & 31);
  return bits & (((1u << BITS) - 1u) << SHIFT);
}

__device__ __forceinline__ unsigned part_of(const unsigned& entry, int) { return entry; }
__device__ __forceinline__ unsigned part_of(const uint2& entry, int w) {
  return w == 0 ? entry.x : entry.y;
}
__device__ __forceinline__ unsigned part_of(const uint4& entry, int w) {
  return w == 0 ? entry.x : w == 1 ? entry.y : w == 2 ? entry.z : entry.w;
}

// Adds `count` entries to the sums.
__device__ __forceinline__ void add_group(const Entry (&found)[GROUP], int count,
                                          float (&sum)[SUMS]) {
#pragma unroll
  for (int w = 0; w < WORDS; ++w) {
    unsigned part[4];
#pragma unroll
    for (int q = 0; q < 4; ++q) part[q] = q < count ? part_of(found[q % GROUP], w) : 0u;
    if (ROWS == 1) {
#pragma unroll
      for (int q = 0; q < 4; ++q)
        if (q < count) sum[0] += __uint_as_float(part[q]);
      continue;
    }
    unsigned left = count > 1 ? add_halves(part[0], part[1]) : part[0];
    unsigned right = count > 3 ? add_halves(part[2], part[3]) : part[2];
    unsigned both = count > 2 ? add_halves(left, right) : left;
    sum[2 * w] += half_to_float((unsigned short)(both & 0xffffu));
    sum[2 * w + 1 < SUMS ? 2 * w + 1 : 0] += half_to_float((unsigned short)(both >> 16));
  }
}

__device__ __forceinline__ Entry entry_at(unsigned base, unsigned offset, unsigned further) {
  // one instruction less where the stage starts at a multiple of what offsets reach
  const unsigned address = ROW_BYTES <= ALIGNED ? (base | offset) : base + offset;
  return *(const Entry*)from_shared(address + further);
}

// Looks up codes `first` to `first + COUNT - 1` of a run in the stage at a shared address.
template <int COUNT>
__device__ __forceinline__ void look_up_codes(const unsigned (&word)[BITS], int first,
                                              unsigned base, float (&sum)[SUMS]) {
#pragma unroll
  for (int p = 0; p < COUNT; p += GROUP) {
    Entry found[GROUP];
#pragma unroll
    for (int q = 0; q < GROUP; ++q)
      if (p + q < COUNT)
        found[q] = entry_at(base, offset_of(word, first + p + q), (p + q) * ROW_BYTES);
    add_group(found, COUNT - p < GROUP ? COUNT - p : GROUP, sum);
  }
}

// Loads a run of codes of one row; none behind the last.
__device__ __forceinline__ void load_run(unsigned (&word)[BITS], const unsigned* row,
                                         long long stride, int run) {
  const unsigned* from = row + run * BITS * stride;
  if (run < FULL) {
#pragma unroll
    for (int w = 0; w < BITS; ++w) word[w] = load_once(from + w * stride);
  } else if (TAIL != 0 && run == FULL) {
#pragma unroll
    for (int w = 0; w < TAIL_WORDS; ++w) word[w] = load_once(from + w * stride);
  }
}

// Returns the shared address of a stage, once all of it is there.
__device__ __forceinline__ unsigned acquire(Ring& ring, const unsigned char* table, int stage) {
#if BULK
  barrier_wait(ring.full + ring.buffer, ring.parity);
  return shared_address(shared) + ring.buffer * STAGE_BYTES;
#else
  __syncthreads();
  const uint4* from = (const uint4*)(table + (size_t)stage * STAGE_BYTES);
  for (unsigned i = threadIdx.x; i < bytes_of_stage(stage) / 16; i += blockDim.x)
    ((uint4*)shared)[i] = from[i];
  __syncthreads();
  return shared_address(shared);
#endif
}

__device__ __forceinline__ void release(Ring& ring) {
#if BULK
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + ring.buffer);
  ring.advance();
#endif
}

#if BULK
// What the last warp does: keeps the ring full.
__device__ __forceinline__ void fill_ring(Ring ring, const unsigned char* tables,
                                          const Segment* segments, int count) {
  bool used = false;  // whether the buffer held a stage before
  wait_for_previous();
  for (int s = 0; s < count; ++s) {
    const unsigned char* from =
        tables + (size_t)segments[s].table * POSITIONS * ROW_BYTES;
    for (int stage = 0; stage < STAGES; ++stage) {
      if (used) barrier_wait(ring.empty + ring.buffer, ring.parity ^ 1u);
      copy_bulk(shared + (size_t)ring.buffer * STAGE_BYTES, from, bytes_of_stage(stage),
                ring.full + ring.buffer);
      from += STAGE_BYTES;
      ring.advance();
      if (ring.buffer == 0) used = true;
    }
  }
}
#endif

template <int TYPE>
__device__ __forceinline__ float value_at(const void* values, size_t i) {
  return widened<TYPE>(((const typename Stored<TYPE>::word*)values)[i]);
}

// The same, of what a layer may lack.
template <int TYPE>
__device__ __forceinline__ float value_or(const void* values, size_t i, float missing) {
  return TYPE == 0 ? missing : value_at<TYPE == 0 ? FLOAT32 : TYPE>(values, i);
}

// Block b works on segments starts[b] to starts[b + 1] - 1; no segment has more rows than
// 32 * UNITS * (warps that look up). y is (ROWS, total). `undo` is volatile: it may be written while
// this runs, and must not be read before wait_for_previous().
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    table_linear(const unsigned* __restrict__ words, const Segment* __restrict__ segments,
                 const int* __restrict__ starts, const unsigned char* __restrict__ tables,
                 const volatile float* undo, const void* __restrict__ scale,
                 const void* __restrict__ bias, Stored<Y_TYPE>::word* __restrict__ y,
                 long long stride, int total) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warps = blockDim.x / 32 - (BULK ? 1 : 0);
  const int count = starts[blockIdx.x + 1] - starts[blockIdx.x];
  segments += starts[blockIdx.x];
  Ring ring = {};
#if BULK
  ring.full = (unsigned long long*)(shared + BUFFERS * STAGE_BYTES);
  ring.empty = ring.full + BUFFERS;
  if (threadIdx.x == 0) {
    for (int i = 0; i < BUFFERS; ++i) {
      barrier_init(ring.full + i, 1);
      barrier_init(ring.empty + i, warps);
    }
    barriers_made();
  }
  __syncthreads();
  if (warp == warps) {
    if (lane == 0) fill_ring(ring, tables, segments, count);
    return;
  }
#else
  wait_for_previous();
#endif

  for (int s = 0; s < count; ++s) {
    const Segment segment = segments[s];
    const unsigned char* table = tables + (size_t)segment.table * POSITIONS * ROW_BYTES;
    const int units = (segment.rows + 31) / 32;
    const int mine = units <= warp ? 0 : (units - warp - 1) / warps + 1;  // of UNITS
    const unsigned* row = words + segment.row + warp * 32 + lane;
    unsigned held[AHEAD][UNITS][BITS];
    float sum[UNITS][SUMS];
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
#pragma unroll
      for (int i = 0; i < SUMS; ++i) sum[u][i] = 0.0f;
#pragma unroll
      for (int a = 0; a < AHEAD; ++a)
        if (u < mine) load_run(held[a][u], row + u * warps * 32, stride, a);
    }

#pragma unroll 1
    for (int run = 0; run < FULL; run += AHEAD) {
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
        if (FULL % AHEAD != 0 && run + a >= FULL) break;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
          const unsigned base = acquire(ring, table, (run + a) * PARTS + part);
#pragma unroll
          for (int u = 0; u < UNITS; ++u) {
            if (u >= mine) continue;
            look_up_codes<SPAN>(held[a][u], part * SPAN, base, sum[u]);
            if (part == PARTS - 1)
              load_run(held[a][u], row + u * warps * 32, stride, run + a + AHEAD);
          }
          release(ring);
        }
      }
    }
    if (TAIL != 0) {
      constexpr int LAST = TAIL % SPAN;
#pragma unroll
      for (int part = 0; part < (TAIL + SPAN - 1) / SPAN; ++part) {
        const unsigned base = acquire(ring, table, FULL * PARTS + part);
#pragma unroll
        for (int u = 0; u < UNITS; ++u) {
          if (u >= mine) continue;
          if ((part + 1) * SPAN <= TAIL)
            look_up_codes<SPAN>(held[FULL % AHEAD][u], part * SPAN, base, sum[u]);
          else
            look_up_codes<LAST>(held[FULL % AHEAD][u], part * SPAN, base, sum[u]);
        }
        release(ring);
      }
    }

    wait_for_previous();  // for `undo`; the table has come long ago
    float factors[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) factors[r] = undo[r];
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
      const int i = (warp + u * warps) * 32 + lane;
      if (u >= mine || i >= segment.rows) continue;
      const size_t out = segment.out + i;
      const float factor = value_or<SCALE_TYPE>(scale, out, 1.0f);
      const float shift = value_or<BIAS_TYPE>(bias, out, 0.0f);
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
        y[r * (size_t)total + out] = narrowed<Y_TYPE>(fmaf(sum[u][r] * factors[r], factor, shift));
    }
  }
}
