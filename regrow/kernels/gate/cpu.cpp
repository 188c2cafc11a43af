// silu(gate) * up (defined in `reference.py`).
#include "../cpu.h"

namespace regrow {

constexpr long PIECE = 4096;  // elements that a thread processes at a time

template <typename T>
void gated(const T *gate, const T *up, T *out, long numbers) {
#pragma omp parallel for schedule(static) if (numbers > PIECE)
    for (long start = 0; start < numbers; start += PIECE) {
        const long stop = start + PIECE < numbers ? start + PIECE : numbers;
        for (long at = start; at < stop; at += LANES) {
            const long count = stop - at;
            const Wide x = load_upto(gate + at, count);
            const Wide activated = as_stored(silu(x), gate);
            store_upto(out + at, activated * load_upto(up + at, count), count);
        }
    }
}

}  // namespace regrow

extern "C" void gated_float32(const float *gate, const float *up, float *out, long numbers) {
    regrow::gated(gate, up, out, numbers);
}

extern "C" void gated_bfloat16(const regrow::bfloat16 *gate, const regrow::bfloat16 *up,
                               regrow::bfloat16 *out, long numbers) {
    regrow::gated(gate, up, out, numbers);
}
RECORDABLE(gated_float32)
RECORDABLE(gated_bfloat16)
