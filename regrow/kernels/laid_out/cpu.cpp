// Matmuls of a few rows: y [rows, outputs] = x W^T + bias, and silu(gate x) * up x. W is in oneDNN's layout
// (`weight.py`): blocks of 64 outputs, with 4 bytes of each row side by side. A row's sums run over the
// inputs in an order that does not depend on other rows.
//
// With few rows, reading the weights limits the speed. The registers hold the sums of six rows. More rows are
// divided into groups. The groups take turns on a chunk of the weights, which the first group has brought
// into the cache, and each group prefetches its share of the next chunk.
#include "../cpu.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <algorithm>

namespace regrow {

constexpr long COLUMNS = 4, SUMS = COLUMNS * LANES;  // vectors of sums, and sums, per row and tile
constexpr long TOGETHER = 6;  // rows whose sums the registers hold
constexpr long CHUNK = 256;   // steps per chunk, of 256 bytes each: a quarter of a small L2 cache
constexpr long MOST = 64;     // most rows

// Adds the products of four bytes of input, repeated in every lane, and four bytes of weights per lane to
// `sums`.
inline Wide multiplied(Wide sums, __m512i x, __m512i w, const bfloat16 *) {
    return (Wide)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)w);
}
inline Wide multiplied(Wide sums, __m512i x, __m512i w, const float *) {
    return (Wide)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sums);
}

// A tile is read in steps of four cache lines. Each line belongs to sixteen sums of a row of x.
constexpr long LINE = 64, STEP = COLUMNS * LINE;  // bytes

// oneDNN's layout: a step has four bytes of 64 rows of the weight.
struct Blocks {
    static constexpr long outputs = 64;  // rows of the weight in a tile
    static constexpr long bytes = 4;     // bytes of each of those rows in a step
    static constexpr long apart = 1;     // tiles from one tile of a matrix to its next
    static constexpr long ahead = 0;     // steps to prefetch with three rows of x or more
    static __m512i input(const char *x) {
        int word;
        std::memcpy(&word, x, sizeof word);
        return _mm512_set1_epi32(word);
    }
    static Wide outputs_of(const float *sums, long column) { return load(sums + column); }
};

// Layout of a compact copy (`pruned_ffn`): a step has sixteen bytes of sixteen rows, and a cache line has
// those of four rows. So each row's sum is spread over four lanes. Tiles of gate and up alternate. The tiles
// are short. Without prefetching, the memory would idle at the end of each tile when several rows are
// multiplied.
struct Quads {
    static constexpr long outputs = 16, bytes = 16, apart = 2, ahead = 24;
    static __m512i input(const char *x) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)x));
    }
    static Wide outputs_of(const float *sums, long) {
        Wide four[4];
        std::memcpy(four, sums, sizeof four);
        const Wide a = added(four[0], four[1]), b = added(four[2], four[3]);
        // A lane holds the sum of two of a row's four lanes: rows 0, 4, 1, 5, ... in a; 8, 12, 9, ... in b.
        return __builtin_shufflevector(a, b, 0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30) +
               __builtin_shufflevector(a, b, 1, 5, 9, 13, 3, 7, 11, 15, 17, 21, 25, 29, 19, 23, 27, 31);
    }

   private:
    // Returns [a0 + a2, a1 + a3, b0 + b2, b1 + b3] for each group of four lanes.
    static Wide added(Wide a, Wide b) {
        return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
};

// Adds the products of ROWS rows and a tile to `sums`. Prefetches LINES cache lines per step from `ahead` on.
template <typename T, typename Layout, int ROWS, int LINES>
void tile(const char *x, long row_bytes, const char *w, long steps, const char *ahead, float *sums) {
    Wide held[ROWS][COLUMNS];
    for (long row = 0; row < ROWS; row++) {
        for (long column = 0; column < COLUMNS; column++) {
            held[row][column] = load(sums + (row * COLUMNS + column) * LANES);
        }
    }
    for (long step = 0; step < steps; step++) {
        __m512i weights[COLUMNS];
        for (long column = 0; column < COLUMNS; column++) {
            weights[column] = _mm512_loadu_si512(w + step * STEP + column * LINE);
        }
        for (long line = 0; line < LINES; line++) {
            _mm_prefetch(ahead + step * STEP + line * LINE, _MM_HINT_T1);
        }
        for (long row = 0; row < ROWS; row++) {
            const __m512i input = Layout::input(x + row * row_bytes + step * Layout::bytes);
            for (long column = 0; column < COLUMNS; column++) {
                held[row][column] = multiplied(held[row][column], input, weights[column], (const T *)nullptr);
            }
        }
    }
    for (long row = 0; row < ROWS; row++) {
        for (long column = 0; column < COLUMNS; column++) {
            store(sums + (row * COLUMNS + column) * LANES, held[row][column]);
        }
    }
}

template <typename T, typename Layout, int LINES>
void tile_of(long rows, const char *x, long row_bytes, const char *w, long steps, const char *ahead,
             float *sums) {
    switch (rows) {
        case 1: return tile<T, Layout, 1, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 2: return tile<T, Layout, 2, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 3: return tile<T, Layout, 3, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 4: return tile<T, Layout, 4, LINES>(x, row_bytes, w, steps, ahead, sums);
        case 5: return tile<T, Layout, 5, LINES>(x, row_bytes, w, steps, ahead, sums);
        default: return tile<T, Layout, 6, LINES>(x, row_bytes, w, steps, ahead, sums);
    }
}

// Computes the sums [rows, 64] of tile `number`.
template <typename T, typename Layout>
void multiply(const T *x, const T *weight, long number, long rows, long inputs, float *sums) {
    const long row_bytes = inputs * long(sizeof(T)), steps = row_bytes / Layout::bytes;
    const long groups = (rows + TOGETHER - 1) / TOGETHER;
    const char *w = (const char *)weight + number * Layout::apart * Layout::outputs * row_bytes;
    std::memset(sums, 0, rows * SUMS * sizeof(float));
    if (Layout::ahead && 2 < rows && groups == 1) {
        return tile_of<T, Layout, COLUMNS>(rows, (const char *)x, row_bytes, w, steps,
                                           w + Layout::ahead * STEP, sums);
    }
    if (groups == 1) return tile_of<T, Layout, 0>(rows, (const char *)x, row_bytes, w, steps, nullptr, sums);
    for (long step = 0; step < steps; step += CHUNK) {
        const long many = std::min(CHUNK, steps - step);
        const char *chunk = w + step * STEP;
        for (long group = 0; group < groups; group++) {
            const long first = rows * group / groups, count = rows * (group + 1) / groups - first;
            const long line = COLUMNS * group / groups, lines = COLUMNS * (group + 1) / groups - line;
            const char *input = (const char *)x + first * row_bytes + step * Layout::bytes;
            const char *ahead = chunk + many * STEP + line * LINE;
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
    const T *weight;  // laid out
    const T *bias;    // may be null
};

// Adds the bias to the sums of the sixteen outputs from `output` on, and rounds them to T.
template <typename T>
Wide result(Wide sums, const Matrix<T> &matrix, long output) {
    return as_stored(matrix.bias == nullptr ? sums : sums + load(matrix.bias + output), matrix.weight);
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
                const Wide value = result(Blocks::outputs_of(sums + row * SUMS, column), matrix, output);
                store(y + row * outputs + output, value);
            }
        }
    }
}

// Computes silu(gate x) * up x, without writing either factor to memory.
template <typename T, typename Layout>
void gated_rows(const T *x, const Matrix<T> &gate, const Matrix<T> &up, T *y, long rows, long outputs,
                long inputs) {
#pragma omp parallel for schedule(static)
    for (long number = 0; number < outputs / Layout::outputs; number++) {
        alignas(64) float gates[MOST * SUMS], ups[MOST * SUMS];
        multiply<T, Layout>(x, gate.weight, number, rows, inputs, gates);
        multiply<T, Layout>(x, up.weight, number, rows, inputs, ups);
        for (long row = 0; row < rows; row++) {
            for (long column = 0; column < Layout::outputs; column += LANES) {
                const long output = number * Layout::outputs + column;
                const Wide gated = result(Layout::outputs_of(gates + row * SUMS, column), gate, output);
                const Wide activated = as_stored(silu(gated), x);
                const Wide raised = result(Layout::outputs_of(ups + row * SUMS, column), up, output);
                store(y + row * outputs + output, activated * raised);
            }
        }
    }
}

}  // namespace regrow

#define FEW_ROWS(NAME, T)                                                                                    \
    extern "C" void NAME(const T *x, const T *w, const T *bias, T *y, long rows, long outputs,               \
                         long inputs) {                                                                      \
        regrow::few_rows(x, {w, bias}, y, rows, outputs, inputs);                                            \
    }
FEW_ROWS(few_rows_float32, float)
FEW_ROWS(few_rows_bfloat16, regrow::bfloat16)

#define GATED_ROWS(NAME, LAYOUT, T)                                                                          \
    extern "C" void NAME(const T *x, const T *gate, const T *gate_bias, const T *up, const T *up_bias,       \
                         T *y, long rows, long outputs, long inputs) {                                       \
        regrow::gated_rows<T, regrow::LAYOUT>(x, {gate, gate_bias}, {up, up_bias}, y, rows, outputs,         \
                                              inputs);                                                       \
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
