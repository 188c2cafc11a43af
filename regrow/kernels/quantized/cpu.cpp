// Matmuls of a few rows by weights of 4 or 8 bits (`codes.py`): y [rows, outputs] = x W^T + bias, and
// silu(gate x) * up x. The inputs of each row and group are rounded to 8 bits with a scale of their own, so
// that sums of a group are exact integers. A sum is multiplied by the scales of weights and inputs, and the
// offset of the weights by the sum of the inputs.
//
// The weight lies in tiles of 64 outputs (`cpu.py`). A block of a tile has four cache lines with 32 bits of
// each output: the codes of eight inputs, or of four. The codes of inputs 0 to 3 are the lower halves of the
// four bytes, and those of inputs 4 to 7 the upper ones.
//
// `rounded_codes` makes codes on any CPU; `codes.py` defines them.
#include "../cpu.h"

#include <algorithm>
#include <vector>

namespace regrow {

// Returns what a float32 becomes when it is stored as bfloat16.
inline float stored(float value) { return as_stored(wide(value), (const bfloat16 *)nullptr)[0]; }

struct Range {
    float scale, offset, steps;

    Range(float low, float high, float share, float most) {
        const float middle = (low + high) / 2, half = share * (high - low) / 2;
        scale = stored(2 * half / most);
        offset = stored(middle - half);
        steps = scale > 0 ? 1 / scale : 0;
    }

    Wide codes(Wide values, float most) const {
        const Wide nearest = ((values - offset) * steps + 12582912.f) - 12582912.f, last = wide(most);
        const Wide positive = (Wide)((Ints)nearest & (nearest > 0));
        const Ints above = positive > last;
        return (Wide)(((Ints)last & above) | ((Ints)positive & ~above));
    }
};

// Rounds the group of `count` weights at `from`. Returns the squared error.
template <typename T>
float round_group(const T *from, long count, const float *shares, long ranges, float most, uint8_t *codes,
                  float *scale, float *offset) {
    float low = INFINITY, high = -INFINITY;
    for (long first = 0; first < count; first += LANES) {
        const long some = std::min(LANES, count - first);
        const Wide values = load_upto(from + first, some);
        for (long lane = 0; lane < some; lane++) {
            low = std::min(low, values[lane]);
            high = std::max(high, values[lane]);
        }
    }
    float least = INFINITY;
    for (long number = 0; number < ranges; number++) {
        const Range range(low, high, shares[number], most);
        Wide errors = {};
        for (long first = 0; first < count; first += LANES) {
            const long some = std::min(LANES, count - first);
            const Wide values = load_upto(from + first, some);
            Wide error = range.codes(values, most) * range.scale + range.offset - values;
            for (long lane = some; lane < LANES; lane++) error[lane] = 0;
            errors += error * error;
        }
        const float error = sum(errors);
        if (number > 0 && !(error < least)) continue;
        least = error;
        *scale = range.scale;
        *offset = range.offset;
        for (long first = 0; first < count; first += LANES) {
            const long some = std::min(LANES, count - first);
            const Wide rounded = range.codes(load_upto(from + first, some), most);
            for (long lane = 0; lane < some; lane++) codes[first + lane] = uint8_t(rounded[lane]);
        }
    }
    return least;
}

template <typename T>
void rounded_codes(const T *weight, const float *shares, uint8_t *codes, float *scale, float *offset,
                   float *lost, long ranges, long most, long outputs, long inputs, long group) {
    const long groups = (inputs + group - 1) / group;
#pragma omp parallel for schedule(static)
    for (long row = 0; row < outputs; row++) {
        for (long number = 0; number < groups; number++) {
            const long first = row * inputs + number * group, at = row * groups + number;
            const long count = std::min(group, inputs - number * group);
            lost[at] = round_group(weight + first, count, shares, ranges, float(most), codes + first,
                                   scale + at, offset + at);
        }
    }
}

}  // namespace regrow

#define ROUNDED_CODES(NAME, T)                                                                               \
    extern "C" void NAME(const T *weight, const float *shares, uint8_t *codes, float *scale, float *offset,  \
                         float *lost, long ranges, long most, long outputs, long inputs, long group) {       \
        regrow::rounded_codes(weight, shares, codes, scale, offset, lost, ranges, most, outputs, inputs,     \
                              group);                                                                        \
    }
ROUNDED_CODES(rounded_codes_float32, float)
ROUNDED_CODES(rounded_codes_bfloat16, regrow::bfloat16)

#ifdef __AVX512VNNI__
#include <immintrin.h>

namespace regrow {

constexpr long COLUMNS = 4, OUTPUTS = COLUMNS * LANES;  // vectors of sums, and sums, per row and tile
constexpr long LINE = 64, BLOCK = COLUMNS * LINE;       // bytes
constexpr long AHEAD = 32;                              // blocks to prefetch with three rows of x or more
constexpr long TOGETHER = 6;                            // rows whose sums the registers hold

struct Quantized {
    const char *words;         // [outputs / 64, blocks, 4, 16] words of 32 bits
    const bfloat16 *factors;   // [outputs / 64, groups, 2, 64]: scales, then offsets
    long outputs, inputs, group;

    long groups() const { return (inputs + group - 1) / group; }
};

// Rows of x, rounded to 8 bits by groups.
struct Rounded {
    std::vector<int8_t> values;  // [rows, inputs]
    std::vector<float> scales;   // [rows, groups]
    std::vector<float> sums;     // [rows, groups]: of the rounded inputs, with their scale

    template <typename T>
    Rounded(const T *x, long rows, long inputs, long group) : values(rows * inputs) {
        const long groups = (inputs + group - 1) / group;
        scales.reserve(rows * groups);
        sums.reserve(rows * groups);
        for (long row = 0; row < rows; row++) {
            for (long first = 0; first < inputs; first += group) {
                const long from = row * inputs + first, count = std::min(group, inputs - first);
                round(x + from, count, values.data() + from);
            }
        }
    }

   private:
    template <typename T>
    void round(const T *x, long count, int8_t *to) {
        // The bits of absolute values have the order of the values, with NaN as the largest.
        Ints largest = {};
        for (long input = 0; input < count; input += LANES) {
            const Ints size = (Ints)load_upto(x + input, count - input) & 0x7fffffff;
            const Ints larger = size > largest;
            largest = (size & larger) | (largest & ~larger);
        }
        int32_t bits = 0;
        for (long lane = 0; lane < LANES; lane++) bits = std::max(bits, largest[lane]);
        float most;
        std::memcpy(&most, &bits, sizeof most);
        // With an infinite or missing input, the scale makes all outputs of the row infinite or missing.
        const float scale = most / 127, steps = scale > 0 && scale < INFINITY ? 1 / scale : 0;
        __m512i total = _mm512_setzero_si512();
        for (long input = 0; input < count; input += LANES) {
            const long some = std::min(LANES, count - input);
            const Wide value = steps > 0 ? load_upto(x + input, some) * steps : Wide{};
            const __m512i nearest = _mm512_cvtps_epi32((__m512)value);
            total = _mm512_add_epi32(total, nearest);
            const __m128i bytes = _mm512_cvtsepi32_epi8(nearest);
            std::memcpy(to + input, &bytes, some);
        }
        scales.push_back(scale);
        sums.push_back(scale * float(_mm512_reduce_add_epi32(total)));
    }
};

// Returns the codes of sixteen outputs for four inputs, which are word `word` of a block.
template <int BITS>
inline __m512i codes_of(__m512i line, long word) {
    if (BITS == 8) return line;
    return _mm512_and_si512(word == 0 ? line : _mm512_srli_epi16(line, 4), _mm512_set1_epi8(15));
}

// Adds the products of ROWS rows, from row `first` on, and one tile to `total`.
template <int BITS, int ROWS>
void tile(const Rounded &x, long first, const Quantized &weight, long number, Wide (*total)[COLUMNS]) {
    constexpr long INPUTS = 32 / BITS, WORDS = 8 / BITS;  // in a block: inputs, and words of x
    const long groups = weight.groups();
    const char *w = weight.words + number * (weight.inputs / INPUTS) * BLOCK;
    const bfloat16 *factors = weight.factors + number * groups * 2 * OUTPUTS;
    const int8_t *rows = x.values.data() + first * weight.inputs;
    for (long group = 0; group < groups; group++, factors += 2 * OUTPUTS) {
        Ints held[ROWS][COLUMNS] = {};
        const long begin = group * weight.group, end = std::min(begin + weight.group, weight.inputs);
        for (long input = begin; input < end; input += INPUTS, w += BLOCK) {
            if (ROWS > 2) {
                for (long line = 0; line < COLUMNS; line++) {
                    _mm_prefetch(w + AHEAD * BLOCK + line * LINE, _MM_HINT_T0);
                }
            }
            // One word of x after the other, so that sums, codes and x fit into the registers. GCC 12 keeps
            // them there only if they are `Ints`.
#pragma GCC unroll 2
            for (long word = 0; word < WORDS; word++) {
                Ints codes[COLUMNS];
                for (long column = 0; column < COLUMNS; column++) {
                    codes[column] = (Ints)codes_of<BITS>(_mm512_loadu_si512(w + column * LINE), word);
                }
#pragma GCC unroll 6
                for (long row = 0; row < ROWS; row++) {
                    int four;
                    std::memcpy(&four, rows + row * weight.inputs + input + 4 * word, sizeof four);
                    const Ints given = four - Ints{};
#pragma GCC unroll 4
                    for (long column = 0; column < COLUMNS; column++) {
                        held[row][column] = (Ints)_mm512_dpbusd_epi32((__m512i)held[row][column],
                                                                      (__m512i)codes[column], (__m512i)given);
                    }
                }
            }
        }
        for (long column = 0; column < COLUMNS; column++) {
            const Wide scale = load(factors + column * LANES);
            const Wide offset = load(factors + OUTPUTS + column * LANES);
            for (long row = 0; row < ROWS; row++) {
                const long at = (first + row) * groups + group;
                const Wide sums = (Wide)_mm512_cvtepi32_ps((__m512i)held[row][column]) * x.scales[at];
                total[row][column] += scale * sums + offset * x.sums[at];
            }
        }
    }
}

// Packs codes [outputs, inputs] into the words of a `Quantized`.
template <int BITS>
void pack_codes(const uint8_t *codes, uint32_t *words, long outputs, long inputs) {
    constexpr long INPUTS = 32 / BITS;
    const long blocks = inputs / INPUTS;
#pragma omp parallel for schedule(static)
    for (long number = 0; number < outputs / OUTPUTS; number++) {
        for (long block = 0; block < blocks; block++) {
            uint32_t *word = words + (number * blocks + block) * OUTPUTS;
            for (long output = 0; output < OUTPUTS; output++) {
                const uint8_t *some = codes + (number * OUTPUTS + output) * inputs + block * INPUTS;
                uint32_t bits = 0;
                for (long input = 0; input < INPUTS; input++) {
                    bits |= uint32_t(some[input]) << (8 * (input % 4) + 4 * (input / 4));
                }
                word[output] = bits;
            }
        }
    }
}

// Computes the sums of all rows and one tile: groups of rows take turns, and the first one has brought the
// tile into the cache.
template <int BITS>
void multiply(const Rounded &x, const Quantized &weight, long number, long rows, Wide (*total)[COLUMNS]) {
    const long turns = (rows + TOGETHER - 1) / TOGETHER;
    std::memset(total, 0, rows * sizeof *total);
    for (long turn = 0; turn < turns; turn++) {
        const long first = rows * turn / turns, count = rows * (turn + 1) / turns - first;
        switch (count) {
            case 1: tile<BITS, 1>(x, first, weight, number, total + first); break;
            case 2: tile<BITS, 2>(x, first, weight, number, total + first); break;
            case 3: tile<BITS, 3>(x, first, weight, number, total + first); break;
            case 4: tile<BITS, 4>(x, first, weight, number, total + first); break;
            case 5: tile<BITS, 5>(x, first, weight, number, total + first); break;
            default: tile<BITS, 6>(x, first, weight, number, total + first); break;
        }
    }
}

// Adds the bias, which may be null, to the sums of sixteen outputs, and rounds them to T.
template <typename T>
Wide result(Wide sums, const T *bias, long output) {
    return as_stored(bias == nullptr ? sums : sums + load(bias + output), bias);
}

template <int BITS, typename T>
void quantized_rows(const T *x, const Quantized &weight, const T *bias, T *y, long rows) {
    const Rounded rounded(x, rows, weight.inputs, weight.group);
#pragma omp parallel
    {
        std::vector<Wide> all(rows * COLUMNS);
        auto total = (Wide(*)[COLUMNS])all.data();
#pragma omp for schedule(static)
        for (long number = 0; number < weight.outputs / OUTPUTS; number++) {
            multiply<BITS>(rounded, weight, number, rows, total);
            for (long row = 0; row < rows; row++) {
                for (long column = 0; column < COLUMNS; column++) {
                    const long output = number * OUTPUTS + column * LANES;
                    store(y + row * weight.outputs + output, result(total[row][column], bias, output));
                }
            }
        }
    }
}

// Computes silu(gate x) * up x, without writing either factor to memory.
template <int BITS, typename T>
void quantized_gate(const T *x, const Quantized &gate, const T *gate_bias, const Quantized &up,
                    const T *up_bias, T *y, long rows) {
    const Rounded rounded(x, rows, gate.inputs, gate.group);
#pragma omp parallel
    {
        std::vector<Wide> all(2 * rows * COLUMNS);
        auto gates = (Wide(*)[COLUMNS])all.data(), ups = gates + rows;
#pragma omp for schedule(static)
        for (long number = 0; number < gate.outputs / OUTPUTS; number++) {
            multiply<BITS>(rounded, gate, number, rows, gates);
            multiply<BITS>(rounded, up, number, rows, ups);
            for (long row = 0; row < rows; row++) {
                for (long column = 0; column < COLUMNS; column++) {
                    const long output = number * OUTPUTS + column * LANES;
                    const Wide gated = result(gates[row][column], gate_bias, output);
                    store(y + row * gate.outputs + output,
                          as_stored(silu(gated), x) * result(ups[row][column], up_bias, output));
                }
            }
        }
    }
}

}  // namespace regrow

#define QUANTIZED(BITS, NAME, T)                                                                             \
    extern "C" void quantized_rows_##BITS##_##NAME(const T *x, const char *words,                            \
                                                   const regrow::bfloat16 *factors, const T *bias, T *y,     \
                                                   long rows, long outputs, long inputs, long group) {       \
        regrow::quantized_rows<BITS>(x, {words, factors, outputs, inputs, group}, bias, y, rows);            \
    }                                                                                                        \
    extern "C" void quantized_gate_##BITS##_##NAME(                                                          \
        const T *x, const char *gate, const regrow::bfloat16 *gate_factors, const T *gate_bias,              \
        const char *up, const regrow::bfloat16 *up_factors, const T *up_bias, T *y, long rows, long outputs, \
        long inputs, long group) {                                                                           \
        regrow::quantized_gate<BITS>(x, {gate, gate_factors, outputs, inputs, group}, gate_bias,             \
                                     {up, up_factors, outputs, inputs, group}, up_bias, y, rows);            \
    }                                                                                                        \
    RECORDABLE(quantized_rows_##BITS##_##NAME)                                                               \
    RECORDABLE(quantized_gate_##BITS##_##NAME)
#define PACK_CODES(BITS)                                                                                     \
    extern "C" void pack_codes_##BITS##_uint8(const uint8_t *codes, uint32_t *words, long outputs,           \
                                              long inputs) {                                                 \
        regrow::pack_codes<BITS>(codes, words, outputs, inputs);                                             \
    }
PACK_CODES(4)
PACK_CODES(8)
QUANTIZED(4, bfloat16, regrow::bfloat16)
QUANTIZED(8, bfloat16, regrow::bfloat16)
QUANTIZED(4, float32, float)
QUANTIZED(8, float32, float)
#endif
