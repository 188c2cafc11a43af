// Squares of normed activations added to the rows of their samples: `reference.py` says what is computed. Norms first, a token to a thread;
// then some neurons of a layer to a thread, whose tokens it adds one after another.
#include <algorithm>

#include "../cpu.h"

namespace regrow {

constexpr long NEURONS = 1024;       // that a thread takes at once
constexpr float NOT_COUNTED = -1;

struct ScoreSizes {
    long layers, tokens, neurons;
    long z_layer, z_token, total_layer, total_slot;  // strides, in numbers
};

// `scale` [L, T] of float: one over the norm of a token.
template <typename T>
void observe(const T *z, const int64_t *slot, float *total, float *scale, const ScoreSizes &of) {
    const long norms = of.layers * of.tokens, parts = (of.neurons + NEURONS - 1) / NEURONS;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (long number = 0; number < norms; number++) {
            const long layer = number / of.tokens, token = number % of.tokens;
            const T *from = z + layer * of.z_layer + token * of.z_token;
            Wide squares = wide(0);
            for (long at = 0; at < of.neurons; at += LANES) {
                const Wide value = load_upto(from + at, of.neurons - at);
                squares += value * value;
            }
            const float square = sum(squares);
            scale[number] = slot[token] >= 0 && square > 0 ? 1 / std::sqrt(square) : NOT_COUNTED;
        }
#pragma omp for schedule(static)
        for (long number = 0; number < of.layers * parts; number++) {
            const long layer = number / parts, first = number % parts * NEURONS, end = std::min(of.neurons, first + NEURONS);
            for (long token = 0; token < of.tokens; token++) {
                const float by = scale[layer * of.tokens + token];
                if (by < 0) continue;
                const T *from = z + layer * of.z_layer + token * of.z_token;
                float *to = total + layer * of.total_layer + slot[token] * of.total_slot;
                for (long at = first; at < end; at += LANES) {
                    const long count = end - at;
                    const Wide value = load_upto(from + at, count) * by;
                    store_upto(to + at, load_upto(to + at, count) + value * value, count);
                }
            }
        }
    }
}

}  // namespace regrow

#define OBSERVE(NAME, T)                                                                                                         \
    extern "C" void NAME(const T *z, const int64_t *slot, float *total, float *scale, const regrow::ScoreSizes *of) {            \
        regrow::observe(z, slot, total, scale, *of);                                                                             \
    }
OBSERVE(observe_float32, float)
OBSERVE(observe_bfloat16, regrow::bfloat16)
