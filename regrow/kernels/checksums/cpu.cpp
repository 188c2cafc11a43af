// Weighted sums of 64-bit words, modulo 2^64 (defined in `reference.py`). The order of integer additions does
// not change the result.
#include <algorithm>
#include <cstdint>

namespace regrow {

static uint64_t weighed(int64_t word, int64_t factor) {
    return (uint64_t(word >> 32) + uint64_t(word)) * uint64_t(factor);
}

}  // namespace regrow

extern "C" void checksum_int64(const int64_t *words, const int64_t *factors, long count, long chunk,
                               int64_t *out) {
    const long chunks = (count + chunk - 1) / chunk;
    uint64_t total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (long number = 0; number < chunks; number++) {
        const int64_t *from = words + number * chunk;
        const long many = std::min(chunk, count - number * chunk);
        uint64_t sum = 0;
        for (long at = 0; at < many; at++) sum += regrow::weighed(from[at], factors[at]);
        total += regrow::weighed(int64_t(sum), factors[number]);
    }
    *out = int64_t(total);
}
