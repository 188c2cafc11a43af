// Replays recorded calls one after another (`recording.py`).
#include <chrono>

#include "../cpu.h"

namespace {
struct Call {
    void (*kernel)(const uint64_t *words);
    const uint64_t *words;
};
}  // namespace

// Adds the duration of each call to `seconds` [count], unless it is null.
extern "C" void replay(const Call *calls, long count, double *seconds) {
    using Clock = std::chrono::steady_clock;
    for (long number = 0; number < count; number++) {
        const Clock::time_point began = seconds ? Clock::now() : Clock::time_point();
        calls[number].kernel(calls[number].words);
        if (seconds) seconds[number] += std::chrono::duration<double>(Clock::now() - began).count();
    }
}
