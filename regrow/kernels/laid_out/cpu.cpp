// y [rows, outputs] = x W^T + bias for a few rows, W in oneDNN's layout: blocks of 64 outputs, in each the numbers of 4 bytes of a row side
// by side (`weight.py`); and the product of two of them, one activated. Sums run over the inputs in their order, so that a row's result depends on no other row.
//
// Few rows wait for the memory. Six at a time keep their sums in registers; of more, every group of rows goes over a chunk of the weights
// that the first has brought into the cache, and each of them fetches its share of the next chunk ahead of time.
#include "../cpu.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <algorithm>

namespace regrow {

constexpr long BLOCK = 64, COLUMNS = BLOCK / LANES;
constexpr long TOGETHER = 6;  // rows whose sums the registers hold
constexpr long CHUNK = 256;   // steps, of 256 bytes: a quarter of a small second cache
constexpr long MOST = 64;     // rows

// One step: the four bytes of an input, or of a pair of inputs, by the 64 outputs.
inline Wide multiplied(Wide sums, __m512i x, __m512i w, const bfloat16 *) { return (Wide)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)w); }
inline Wide multiplied(Wide sums, __m512i x, __m512i w, const float *) { return (Wide)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sums); }

template <typename T>
constexpr long PAIR = 4 / sizeof(T);

// `ahead`: the first of LINES cache lines a step that are fetched.
template <typename T, int ROWS, int LINES>
void tile(const T *x, long inputs, const T *w, long steps, const char *ahead, float *sums) {
    Wide held[ROWS][COLUMNS];
    for (long row = 0; row < ROWS; row++) {
        for (long column = 0; column < COLUMNS; column++) held[row][column] = load(sums + row * BLOCK + column * LANES);
    }
    for (long step = 0; step < steps; step++) {
        __m512i weights[COLUMNS];
        for (long column = 0; column < COLUMNS; column++) {
            weights[column] = _mm512_loadu_si512(w + (step * BLOCK + column * LANES) * PAIR<T>);
        }
        for (long line = 0; line < LINES; line++) _mm_prefetch(ahead + (step * LINES + line) * 64, _MM_HINT_T1);
        for (long row = 0; row < ROWS; row++) {
            int word;
            std::memcpy(&word, x + row * inputs + step * PAIR<T>, sizeof word);
            const __m512i input = _mm512_set1_epi32(word);
            for (long column = 0; column < COLUMNS; column++) {
                held[row][column] = multiplied(held[row][column], input, weights[column], w);
            }
        }
    }
    for (long row = 0; row < ROWS; row++) {
        for (long column = 0; column < COLUMNS; column++) store(sums + row * BLOCK + column * LANES, held[row][column]);
    }
}

template <typename T, int LINES>
void tile_of(long rows, const T *x, long inputs, const T *w, long steps, const char *ahead, float *sums) {
    switch (rows) {
        case 1: return tile<T, 1, LINES>(x, inputs, w, steps, ahead, sums);
        case 2: return tile<T, 2, LINES>(x, inputs, w, steps, ahead, sums);
        case 3: return tile<T, 3, LINES>(x, inputs, w, steps, ahead, sums);
        case 4: return tile<T, 4, LINES>(x, inputs, w, steps, ahead, sums);
        case 5: return tile<T, 5, LINES>(x, inputs, w, steps, ahead, sums);
        default: return tile<T, 6, LINES>(x, inputs, w, steps, ahead, sums);
    }
}

template <typename T>
void block(const T *x, const T *w, long rows, long inputs, float *sums) {
    const long groups = (rows + TOGETHER - 1) / TOGETHER, steps = inputs / PAIR<T>;
    if (groups == 1) return tile_of<T, 0>(rows, x, inputs, w, steps, nullptr, sums);
    for (long step = 0; step < steps; step += CHUNK) {
        const long many = std::min(CHUNK, steps - step);
        const T *chunk = w + step * BLOCK * PAIR<T>;
        const char *next = (const char *)(chunk + many * BLOCK * PAIR<T>);
        for (long group = 0; group < groups; group++) {
            const long first = rows * group / groups, count = rows * (group + 1) / groups - first;
            const long line = 4 * group / groups, lines = 4 * (group + 1) / groups - line;
            const T *of = x + first * inputs + step * PAIR<T>;
            const char *ahead = next + line * many * 64;
            float *to = sums + first * BLOCK;
            switch (lines) {
                case 0: tile_of<T, 0>(count, of, inputs, chunk, many, ahead, to); break;
                case 1: tile_of<T, 1>(count, of, inputs, chunk, many, ahead, to); break;
                default: tile_of<T, 2>(count, of, inputs, chunk, many, ahead, to); break;
            }
        }
    }
}

template <typename T>
struct Matrix {
    const T *weight, *bias;  // in blocks; null: none
};

// The results of a row for sixteen outputs, as they would be stored.
template <typename T>
Wide result(const float *sums, const Matrix<T> &of, long output) {
    const Wide sum = load(sums);
    return as_stored(of.bias == nullptr ? sum : sum + load(of.bias + output), of.weight);
}

template <typename T>
void few_rows(const T *x, const Matrix<T> &of, T *y, long rows, long outputs, long inputs) {
#pragma omp parallel for schedule(static)
    for (long number = 0; number < outputs / BLOCK; number++) {
        alignas(64) float sums[MOST * BLOCK];
        std::memset(sums, 0, rows * BLOCK * sizeof(float));
        block(x, of.weight + number * BLOCK * inputs, rows, inputs, sums);
        for (long row = 0; row < rows; row++) {
            for (long column = 0; column < BLOCK; column += LANES) {
                const long output = number * BLOCK + column;
                store(y + row * outputs + output, result(sums + row * BLOCK + column, of, output));
            }
        }
    }
}

// silu(gate x) * up x, with neither of the two written anywhere.
template <typename T>
void gated_rows(const T *x, const Matrix<T> &gate, const Matrix<T> &up, T *y, long rows, long outputs, long inputs) {
#pragma omp parallel for schedule(static)
    for (long number = 0; number < outputs / BLOCK; number++) {
        alignas(64) float gates[MOST * BLOCK], ups[MOST * BLOCK];
        std::memset(gates, 0, rows * BLOCK * sizeof(float));
        std::memset(ups, 0, rows * BLOCK * sizeof(float));
        block(x, gate.weight + number * BLOCK * inputs, rows, inputs, gates);
        block(x, up.weight + number * BLOCK * inputs, rows, inputs, ups);
        for (long row = 0; row < rows; row++) {
            for (long column = 0; column < BLOCK; column += LANES) {
                const long output = number * BLOCK + column, at = row * BLOCK + column;
                const Wide activated = as_stored(silu(result(gates + at, gate, output)), x);
                store(y + row * outputs + output, activated * result(ups + at, up, output));
            }
        }
    }
}

}  // namespace regrow

#define FEW_ROWS(NAME, T)                                                                                                        \
    extern "C" void NAME(const T *x, const T *w, const T *bias, T *y, long rows, long outputs, long inputs) {                    \
        regrow::few_rows(x, {w, bias}, y, rows, outputs, inputs);                                                                \
    }
FEW_ROWS(few_rows_float32, float)
FEW_ROWS(few_rows_bfloat16, regrow::bfloat16)

#define GATED_ROWS(NAME, T)                                                                                                      \
    extern "C" void NAME(const T *x, const T *gate, const T *gate_bias, const T *up, const T *up_bias, T *y, long rows,          \
                         long outputs, long inputs) {                                                                            \
        regrow::gated_rows(x, {gate, gate_bias}, {up, up_bias}, y, rows, outputs, inputs);                                       \
    }
GATED_ROWS(gated_rows_float32, float)
GATED_ROWS(gated_rows_bfloat16, regrow::bfloat16)
#endif
