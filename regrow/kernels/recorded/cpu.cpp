// Recorded calls, one after another (`recording.py`).
#include "../cpu.h"

namespace {
struct Call {
    void (*kernel)(const uint64_t *words);
    const uint64_t *words;
};
}  // namespace

extern "C" void replay(const Call *calls, long count) {
    for (long number = 0; number < count; number++) calls[number].kernel(calls[number].words);
}
