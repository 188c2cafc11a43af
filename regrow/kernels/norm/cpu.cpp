// Residual addition and RMSNorm (defined in `reference.py`).
#include "../cpu.h"

namespace regrow {

template <typename T>
void add_rms_norm(const T *x, T *residual, const T *weight, T *out, long tokens, long width, long x_token,
                  long residual_token, long out_token, float eps) {
#pragma omp parallel for schedule(static) if (tokens > 1)
    for (long token = 0; token < tokens; token++) {
        const T *added = x + token * x_token;
        T *kept = residual + token * residual_token;
        T *to = out + token * out_token;
        Wide squares = wide(0);
        for (long column = 0; column < width; column += LANES) {
            const long count = width - column;
            Wide value = load_upto(kept + column, count);
            if (x != nullptr) {
                value = as_stored(value + load_upto(added + column, count), kept);
                store_upto(kept + column, value, count);
            }
            squares += value * value;
        }
        const float scale = 1 / std::sqrt(sum(squares) / float(width) + eps);
        for (long column = 0; column < width; column += LANES) {
            const long count = width - column;
            const Wide unit = as_stored(load_upto(kept + column, count) * scale, kept);
            store_upto(to + column, load_upto(weight + column, count) * unit, count);
        }
    }
}

}  // namespace regrow

#define ADD_RMS_NORM(NAME, T)                                                                                \
    extern "C" void NAME(const T *x, T *residual, const T *weight, T *out, long tokens, long width,          \
                         long x_token, long residual_token, long out_token, float eps) {                     \
        regrow::add_rms_norm(x, residual, weight, out, tokens, width, x_token, residual_token, out_token,    \
                             eps);                                                                           \
    }
ADD_RMS_NORM(add_rms_norm_float32, float)
ADD_RMS_NORM(add_rms_norm_bfloat16, regrow::bfloat16)
RECORDABLE(add_rms_norm_float32)
RECORDABLE(add_rms_norm_bfloat16)
