// Runs decode.cu on a CPU: its blocks one after the other, a thread for each of theirs.
alignas(16) unsigned char memory[1 << 17];
#include "decode.cu"

extern "C" void run(const Layers* layers, int count, int blocks, int shared) {
  for (int block = 0; block < blocks; ++block) {
    // what was copied for the block before must not be what this one finds
    std::memset(memory, 0xff, sizeof memory);
    std::barrier<> all(THREADS);
    together = &all;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < THREADS; ++i)
      threads.emplace_back([=, &all] {
        threadIdx.x = i;
        blockIdx.x = (unsigned)block;
        decode_layers(*layers, count);
        all.arrive_and_drop();
      });
    for (std::thread& thread : threads) thread.join();
  }
}
