// Adds squared normalised activations to the rows of their samples (defined in `reference.py`). First each
// thread computes the norms of some tokens. Then each thread owns some neurons of a layer, and adds the
// tokens one after another.
#include <algorithm>

#include "../cpu.h"

namespace regrow {

constexpr long NEURONS = 1024;     // neurons that a thread processes at a time
constexpr float NOT_COUNTED = -1;  // scale of a token that does not count

struct ScoreSizes {
    long layers, tokens, neurons;
    long z_layer, z_token, total_layer, total_slot;  // strides, in elements
};

// `scale` [L, T] is a workspace for one over the norm of each token.
template <typename T>
void observe(const T *z, const int64_t *slot, float *total, float *scale, const ScoreSizes &sizes) {
    const long norms = sizes.layers * sizes.tokens, parts = (sizes.neurons + NEURONS - 1) / NEURONS;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (long number = 0; number < norms; number++) {
            const long layer = number / sizes.tokens, token = number % sizes.tokens;
            const T *from = z + layer * sizes.z_layer + token * sizes.z_token;
            Wide squares = wide(0);
            for (long at = 0; at < sizes.neurons; at += LANES) {
                const Wide value = load_upto(from + at, sizes.neurons - at);
                squares += value * value;
            }
            const float square = sum(squares);
            scale[number] = slot[token] >= 0 && square > 0 ? 1 / std::sqrt(square) : NOT_COUNTED;
        }
#pragma omp for schedule(static)
        for (long number = 0; number < sizes.layers * parts; number++) {
            const long layer = number / parts, first = number % parts * NEURONS;
            const long end = std::min(sizes.neurons, first + NEURONS);
            for (long token = 0; token < sizes.tokens; token++) {
                const float by = scale[layer * sizes.tokens + token];
                if (by < 0) continue;
                const T *from = z + layer * sizes.z_layer + token * sizes.z_token;
                float *to = total + layer * sizes.total_layer + slot[token] * sizes.total_slot;
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

#define OBSERVE(NAME, T)                                                                                     \
    extern "C" void NAME(const T *z, const int64_t *slot, float *total, float *scale,                        \
                         const regrow::ScoreSizes *sizes) {                                                  \
        regrow::observe(z, slot, total, scale, *sizes);                                                      \
    }
OBSERVE(observe_float32, float)
OBSERVE(observe_bfloat16, regrow::bfloat16)
