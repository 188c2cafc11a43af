// y [rows, outputs] = x W^T + bias for a few rows, W in oneDNN's layout: blocks of 64 outputs, in each the numbers of 4 bytes of a row side
// by side (`weight.py`); and the product of two of them, one activated. Sums run over the inputs in an order that no other row changes.
//
// Few rows wait for the memory. Six at a time keep their sums in registers; of more, every group of rows goes over a chunk of the weights
// that the first has brought into the cache, and each of them fetches its share of the next chunk ahead of time.
#include "../cpu.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <algorithm>

namespace regrow {

constexpr long COLUMNS = 4, SUMS = COLUMNS * LANES;  // of a row in a tile of outputs
constexpr long TOGETHER = 6;  // rows whose sums the registers hold
constexpr long CHUNK = 256;   // steps, of 256 bytes: a quarter of a small second cache
constexpr long MOST = 64;     // rows

// Four bytes of an input, in every lane, by those of the weights.
inline Wide multiplied(Wide sums, __m512i x, __m512i w, const bfloat16 *) { return (Wide)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)w); }
inline Wide multiplied(Wide sums, __m512i x, __m512i w, const float *) { return (Wide)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sums); }

// How the weights of a tile of outputs lie: in steps of four cache lines, a line for sixteen sums of a row.
constexpr long LINE = 64, STEP = COLUMNS * LINE;  // bytes

// oneDNN's: a step has four bytes of 64 rows.
struct Blocks {
    static constexpr long outputs = 64, bytes = 4;  // of a row, a step
    static constexpr long apart = 1, ahead = 0;     // tiles from one of a matrix to its next; steps that three rows or more fetch ahead
    static __m512i input(const char *x) {
        int word;
        std::memcpy(&word, x, sizeof word);
        return _mm512_set1_epi32(word);
    }
    static Wide outputs_of(const float *sums, long column) { return load(sums + column); }
};

// That of a compact copy (`pruned_ffn`): a step has sixteen bytes of sixteen rows, a line those of four, whose sums are four numbers each.
// Tiles of gate and up alternate. They are short: with nothing fetched ahead, the memory would idle where several rows end one.
struct Quads {
    static constexpr long outputs = 16, bytes = 16, apart = 2, ahead = 24;
    static __m512i input(const char *x) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)x)); }
    static Wide outputs_of(const float *sums, long) {
        Wide four[4];
        std::memcpy(four, sums, sizeof four);
        const Wide a = added(four[0], four[1]), b = added(four[2], four[3]);
        // Lanes: sums of two of the four numbers of rows 0, 4, 1, 5, ... of a and 8, 12, 9, 13, ... of b.
        return __builtin_shufflevector(a, b, 0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30) +
               __builtin_shufflevector(a, b, 1, 5, 9, 13, 3, 7, 11, 15, 17, 21, 25, 29, 19, 23, 27, 31);
    }

   private:
    // [a0 + a2, a1 + a3, b0 + b2, b1 + b3] of each four lanes.
    static Wide added(Wide a, Wide b) {
        return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
};

// `ahead`: where the first of LINES cache lines a step lies that are fetched.
template <typename T, typename Layout, int ROWS, int LINES>
void tile(const char *x, long row_bytes, const char *w, long steps, const char *ahead, float *sums) {
    Wide held[ROWS][COLUMNS];
    for (long row = 0; row < ROWS; row++) {
        for (long column = 0; column < COLUMNS; column++) held[row][column] = load(sums + (row * COLUMNS + column) * LANES);
    }
    for (long step = 0; step < steps; step++) {
        __m512i weights[COLUMNS];
        for (long column = 0; column < COLUMNS; column++) weights[column] = _mm512_loadu_si512(w + step * STEP + column * LINE);
        for (long line = 0; line < LINES; line++) _mm_prefetch(ahead + step * STEP + line * LINE, _MM_HINT_T1);
        for (long row = 0; row < ROWS; row++) {
            const __m512i input = Layout::input(x + row * row_bytes + step * Layout::bytes);
            for (long column = 0; column < COLUMNS; column++) {
                held[row][column] = multiplied(held[row][column], input, weights[column], (const T *)nullptr);
            }
        }
    }
    for (long row = 0; row < ROWS; row++) {
        for (long column = 0; column < COLUMNS; column++) store(sums + (row * COLUMNS + column) * LANES, held[row][column]);
    }
}

template <typename T, typename Layout, int LINES>
void tile_of(long rows, const char *x, long row_bytes, const char *w, long steps, const char *ahead, float *sums) {
    switch (rows) {
        case 1: return tile<T, Layout, 1, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 2: return tile<T, Layout, 2, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 3: return tile<T, Layout, 3, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 4: return tile<T, Layout, 4, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 5: return tile<T, Layout, 5, LINES>(x, row_bytes, w, steps, ahead, sums);
        default: return tile<T, Layout, 6, LINES>(x, row_bytes, w, steps, ahead, sums);
    }
}

// Tile `number` of the outputs: sums [rows, 64].
template <typename T, typename Layout>
void multiply(const T *x, const T *weight, long number, long rows, long inputs, float *sums) {
    const long row_bytes = inputs * long(sizeof(T)), steps = row_bytes / Layout::bytes, groups = (rows + TOGETHER - 1) / TOGETHER;
    const char *w = (const char *)weight + number * Layout::apart * Layout::outputs * row_bytes;
    std::memset(sums, 0, rows * SUMS * sizeof(float));
    if (Layout::ahead && 2 < rows && groups == 1) {
        return tile_of<T, Layout, COLUMNS>(rows, (const char *)x, row_bytes, w, steps, w + Layout::ahead * STEP, sums);
    }
    if (groups == 1) return tile_of<T, Layout, 0>(rows, (const char *)x, row_bytes, w, steps, nullptr, sums);
    for (long step = 0; step < steps; step += CHUNK) {
        const long many = std::min(CHUNK, steps - step);
        const char *chunk = w + step * STEP;
        for (long group = 0; group < groups; group++) {
            const long first = rows * group / groups, count = rows * (group + 1) / groups - first;
            const long line = COLUMNS * group / groups, lines = COLUMNS * (group + 1) / groups - line;
            const char *input = (const char *)x + first * row_bytes + step * Layout::bytes, *ahead = chunk + many * STEP + line * LINE;
            float *to = sums + first * SUMS;
            switch (lines) {
                case 0: tile_of<T, Layout, 0>(count, input, row_bytes, chunk, many, ahead, to); break;
                case 1: tile_of<T, Layout, 1>(count, input, row_bytes, chunk, many, ahead, to); break;
                default: tile_of<T, Layout, 2>(count, input, row_bytes, chunk, many, ahead, to); break;
            }
        }
    }
}

template <typename T>
struct Matrix {
    const T *weight, *bias;  // in blocks; null: none
};

// Sums as they would be stored, for the sixteen outputs from `output` on.
template <typename T>
Wide result(Wide sums, const Matrix<T> &of, long output) {
    return as_stored(of.bias == nullptr ? sums : sums + load(of.bias + output), of.weight);
}

template <typename T>
void few_rows(const T *x, const Matrix<T> &matrix, T *y, long rows, long outputs, long inputs) {
#pragma omp parallel for schedule(static)
    for (long number = 0; number < outputs / Blocks::outputs; number++) {
        alignas(64) float sums[MOST * SUMS];
        multiply<T, Blocks>(x, matrix.weight, number, rows, inputs, sums);
        for (long row = 0; row < rows; row++) {
            for (long column = 0; column < Blocks::outputs; column += LANES) {
                const long output = number * Blocks::outputs + column;
                store(y + row * outputs + output, result(Blocks::outputs_of(sums + row * SUMS, column), matrix, output));
            }
        }
    }
}

// silu(gate x) * up x, with neither of the two written anywhere.
template <typename T, typename Layout>
void gated_rows(const T *x, const Matrix<T> &gate, const Matrix<T> &up, T *y, long rows, long outputs, long inputs) {
#pragma omp parallel for schedule(static)
    for (long number = 0; number < outputs / Layout::outputs; number++) {
        alignas(64) float gates[MOST * SUMS], ups[MOST * SUMS];
        multiply<T, Layout>(x, gate.weight, number, rows, inputs, gates);
        multiply<T, Layout>(x, up.weight, number, rows, inputs, ups);
        for (long row = 0; row < rows; row++) {
            for (long column = 0; column < Layout::outputs; column += LANES) {
                const long output = number * Layout::outputs + column;
                const Wide activated = as_stored(silu(result(Layout::outputs_of(gates + row * SUMS, column), gate, output)), x);
                store(y + row * outputs + output, activated * result(Layout::outputs_of(ups + row * SUMS, column), up, output));
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

#define GATED_ROWS(NAME, LAYOUT, T)                                                                                              \
    extern "C" void NAME(const T *x, const T *gate, const T *gate_bias, const T *up, const T *up_bias, T *y, long rows,          \
                         long outputs, long inputs) {                                                                            \
        regrow::gated_rows<T, regrow::LAYOUT>(x, {gate, gate_bias}, {up, up_bias}, y, rows, outputs, inputs);                    \
    }
GATED_ROWS(gated_rows_float32, Blocks, float)
GATED_ROWS(gated_rows_bfloat16, Blocks, regrow::bfloat16)
GATED_ROWS(gated_quads_float32, Quads, float)
GATED_ROWS(gated_quads_bfloat16, Quads, regrow::bfloat16)
RECORDABLE(few_rows_float32)
RECORDABLE(few_rows_bfloat16)
RECORDABLE(gated_rows_float32)
RECORDABLE(gated_rows_bfloat16)
RECORDABLE(gated_quads_float32)
RECORDABLE(gated_quads_bfloat16)
#endif
