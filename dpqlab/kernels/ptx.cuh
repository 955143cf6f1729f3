// What the kernels need of the hardware, without CUDA's headers: NVRTC alone compiles this.

#define FLOAT32 1
#define FLOAT16 2
#define BFLOAT16 3

template <int TYPE> struct Stored { typedef unsigned short word; };
template <> struct Stored<FLOAT32> { typedef unsigned word; };

__device__ __forceinline__ float half_to_float(unsigned short half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
  unsigned short half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}

__device__ __forceinline__ unsigned short float_to_bfloat(float value) {
  unsigned short word;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(word) : "f"(value));
  return word;
}

// Two float16 in a word, added without meeting.
__device__ __forceinline__ unsigned add_halves(unsigned a, unsigned b) {
  unsigned sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
  return sum;
}

__device__ __forceinline__ unsigned pack_halves(float low, float high) {
  unsigned word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

__device__ __forceinline__ unsigned pack_bfloats(float low, float high) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <int TYPE> __device__ __forceinline__ float widened(typename Stored<TYPE>::word word) {
  if (TYPE == FLOAT32) return __uint_as_float(word);
  if (TYPE == BFLOAT16) return __uint_as_float((unsigned)word << 16);
  return half_to_float((unsigned short)word);
}

template <int TYPE> __device__ __forceinline__ typename Stored<TYPE>::word narrowed(float value) {
  if (TYPE == FLOAT32) return (typename Stored<TYPE>::word)__float_as_uint(value);
  return TYPE == BFLOAT16 ? float_to_bfloat(value) : float_to_half(value);
}

// A word that is read once: not worth a place in the L1 cache.
__device__ __forceinline__ unsigned load_once(const unsigned* address) {
  unsigned word;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(word) : "l"(address));
  return word;
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return (unsigned)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ const void* from_shared(unsigned address) {
  return __cvta_shared_to_generic(address);
}

#if BULK  // compute capability 9.0 on: the bulk copy engine, and barriers that count its bytes

__device__ __forceinline__ void barrier_init(unsigned long long* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// After all are made, before the copy engine or other threads see them.
__device__ __forceinline__ void barriers_made() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(unsigned long long* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

__device__ __forceinline__ void barrier_wait(unsigned long long* barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Copies `bytes` (a multiple of 16); the barrier completes when one arrival and all bytes are in.
__device__ __forceinline__ void copy_bulk(void* to, const void* from, unsigned bytes,
                                          unsigned long long* barrier) {
  unsigned target = shared_address(barrier);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(target), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(target)
      : "memory");
}

// Lets the next kernel of the stream start, where it was launched to overlap with this one.
__device__ __forceinline__ void let_next_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Waits until the kernel before is over and what it wrote can be read.
__device__ __forceinline__ void wait_for_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

#else

__device__ __forceinline__ void let_next_start() {}
__device__ __forceinline__ void wait_for_previous() {}

#endif
