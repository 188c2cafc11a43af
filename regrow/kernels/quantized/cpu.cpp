// Matmuls of a few rows by weights of 4 or 8 bits (`codes.py`): y [rows, outputs] = x W^T + bias, and
// silu(gate x) * up x. x is bfloat16, and codes become bfloat16 exactly, four bits at a time, through a table.
// The sum over a group of inputs is multiplied by the group's scale; its offset is multiplied by the sum of x.
//
// The weight lies in tiles of 64 outputs (`cpu.py`). A block of a tile has four cache lines with 32 bits of
// each output: the codes of eight inputs, or of four. Codes of neighbouring inputs lie in different halves of
// these bits, where the table's results are the pairs that a product of bfloat16 needs.
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

#ifdef __AVX512BF16__
#include <immintrin.h>

namespace regrow {

constexpr long COLUMNS = 4, OUTPUTS = COLUMNS * LANES;  // vectors of sums, and sums, per row and tile
constexpr long PARTS = 4;                               // four-bit parts of each half of a word
constexpr long LINE = 64, BLOCK = COLUMNS * LINE;       // bytes
constexpr long TOGETHER = 6;                            // rows whose sums the registers hold

struct Quantized {
    const char *words;         // [outputs / 64, blocks, 4, 16] words of 32 bits
    const bfloat16 *factors;   // [outputs / 64, groups, 2, 64]: scales, then offsets
    const bfloat16 *bias;      // [outputs], may be null
    long outputs, inputs, group;

    long groups() const { return (inputs + group - 1) / group; }
};

// The values of four bits, twice, because an index of the table has five bits and the fifth does not count.
// With eight bits, the second part of a code has its upper four bits.
template <int BITS>
inline __m512i values_of(long part) {
    uint16_t table[32];
    const float unit = BITS == 8 && part % 2 ? 16 : 1;
    for (int number = 0; number < 32; number++) {
        const float value = unit * float(number % 16);
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        table[number] = uint16_t(bits >> 16);
    }
    return _mm512_loadu_si512(table);
}

// Adds the products of ROWS rows of x and one tile to `total`. `sums` has the sums of x by row and group.
template <int BITS, int ROWS>
void tile(const bfloat16 *x, const float *sums, const Quantized &weight, long number,
          Wide (*total)[COLUMNS]) {
    constexpr long INPUTS = 32 / BITS;  // in a block
    const long groups = weight.groups();
    const char *w = weight.words + number * (weight.inputs / INPUTS) * BLOCK;
    const bfloat16 *factors = weight.factors + number * groups * 2 * OUTPUTS;
    const __m512i low = values_of<BITS>(0), high = values_of<BITS>(1);
    for (long group = 0; group < groups; group++, factors += 2 * OUTPUTS) {
        Wide held[ROWS][COLUMNS] = {};
        const long first = group * weight.group, last = std::min(first + weight.group, weight.inputs);
        for (long input = first; input < last; input += INPUTS, w += BLOCK) {
            __m512i words[COLUMNS];
            for (long column = 0; column < COLUMNS; column++) {
                words[column] = _mm512_loadu_si512(w + column * LINE);
            }
#pragma GCC unroll 4
            for (long part = 0; part < PARTS; part++) {
                const __m512i table = BITS == 8 && part % 2 ? high : low;
                __m512i values[COLUMNS];
                for (long column = 0; column < COLUMNS; column++) {
                    values[column] =
                        _mm512_permutexvar_epi16(_mm512_srli_epi32(words[column], 4 * part), table);
                }
                const long pair = input + 2 * (BITS == 8 ? part / 2 : part);
                for (long row = 0; row < ROWS; row++) {
                    int both;
                    std::memcpy(&both, x + row * weight.inputs + pair, sizeof both);
                    const __m512bh given = (__m512bh)_mm512_set1_epi32(both);
                    for (long column = 0; column < COLUMNS; column++) {
                        held[row][column] = (Wide)_mm512_dpbf16_ps((__m512)held[row][column], given,
                                                                   (__m512bh)values[column]);
                    }
                }
            }
        }
        for (long column = 0; column < COLUMNS; column++) {
            const Wide scale = load(factors + column * LANES);
            const Wide offset = load(factors + OUTPUTS + column * LANES);
            for (long row = 0; row < ROWS; row++) {
                total[row][column] += scale * held[row][column] + offset * sums[row * groups + group];
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
                    bits |= uint32_t(some[input]) << (16 * (input % 2) + BITS * (input / 2));
                }
                word[output] = bits;
            }
        }
    }
}

// Computes the sums of all rows and one tile: groups of rows take turns, and the first one has brought the
// tile into the cache.
template <int BITS>
void multiply(const bfloat16 *x, const float *sums, const Quantized &weight, long number, long rows,
              Wide (*total)[COLUMNS]) {
    const long turns = (rows + TOGETHER - 1) / TOGETHER;
    std::memset(total, 0, rows * sizeof *total);
    for (long turn = 0; turn < turns; turn++) {
        const long first = rows * turn / turns, count = rows * (turn + 1) / turns - first;
        const bfloat16 *some = x + first * weight.inputs;
        const float *theirs = sums + first * weight.groups();
        switch (count) {
            case 1: tile<BITS, 1>(some, theirs, weight, number, total + first); break;
            case 2: tile<BITS, 2>(some, theirs, weight, number, total + first); break;
            case 3: tile<BITS, 3>(some, theirs, weight, number, total + first); break;
            case 4: tile<BITS, 4>(some, theirs, weight, number, total + first); break;
            case 5: tile<BITS, 5>(some, theirs, weight, number, total + first); break;
            default: tile<BITS, 6>(some, theirs, weight, number, total + first); break;
        }
    }
}

// Returns the sums of x [rows, inputs] over groups of inputs, by row and group.
inline std::vector<float> sums_of(const bfloat16 *x, long rows, long inputs, long group) {
    std::vector<float> sums;
    sums.reserve(rows * ((inputs + group - 1) / group));
    for (long row = 0; row < rows; row++) {
        for (long first = 0; first < inputs; first += group) {
            const long last = std::min(first + group, inputs);
            Wide total = {};
            for (long input = first; input < last; input += LANES) {
                total += load_upto(x + row * inputs + input, last - input);
            }
            sums.push_back(sum(total));
        }
    }
    return sums;
}

// Adds the bias to the sums of sixteen outputs, and rounds them to bfloat16.
inline Wide result(Wide sums, const Quantized &weight, long output) {
    return as_stored(weight.bias == nullptr ? sums : sums + load(weight.bias + output), weight.bias);
}

template <int BITS>
void quantized_rows(const bfloat16 *x, const Quantized &weight, bfloat16 *y, long rows) {
    const std::vector<float> sums = sums_of(x, rows, weight.inputs, weight.group);
#pragma omp parallel
    {
        std::vector<Wide> all(rows * COLUMNS);
        auto total = (Wide(*)[COLUMNS])all.data();
#pragma omp for schedule(static)
        for (long number = 0; number < weight.outputs / OUTPUTS; number++) {
            multiply<BITS>(x, sums.data(), weight, number, rows, total);
            for (long row = 0; row < rows; row++) {
                for (long column = 0; column < COLUMNS; column++) {
                    const long output = number * OUTPUTS + column * LANES;
                    store(y + row * weight.outputs + output, result(total[row][column], weight, output));
                }
            }
        }
    }
}

// Computes silu(gate x) * up x, without writing either factor to memory.
template <int BITS>
void quantized_gate(const bfloat16 *x, const Quantized &gate, const Quantized &up, bfloat16 *y, long rows) {
    const std::vector<float> sums = sums_of(x, rows, gate.inputs, gate.group);
#pragma omp parallel
    {
        std::vector<Wide> all(2 * rows * COLUMNS);
        auto gates = (Wide(*)[COLUMNS])all.data(), ups = gates + rows;
#pragma omp for schedule(static)
        for (long number = 0; number < gate.outputs / OUTPUTS; number++) {
            multiply<BITS>(x, sums.data(), gate, number, rows, gates);
            multiply<BITS>(x, sums.data(), up, number, rows, ups);
            for (long row = 0; row < rows; row++) {
                for (long column = 0; column < COLUMNS; column++) {
                    const long output = number * OUTPUTS + column * LANES;
                    const Wide activated = as_stored(silu(result(gates[row][column], gate, output)), x);
                    store(y + row * gate.outputs + output,
                          activated * result(ups[row][column], up, output));
                }
            }
        }
    }
}

}  // namespace regrow

#define QUANTIZED(BITS)                                                                                      \
    extern "C" void pack_codes_##BITS##_bfloat16(const uint8_t *codes, uint32_t *words, long outputs,        \
                                                 long inputs) {                                              \
        regrow::pack_codes<BITS>(codes, words, outputs, inputs);                                             \
    }                                                                                                        \
    extern "C" void quantized_rows_##BITS##_bfloat16(                                                        \
        const regrow::bfloat16 *x, const char *words, const regrow::bfloat16 *factors,                       \
        const regrow::bfloat16 *bias, regrow::bfloat16 *y, long rows, long outputs, long inputs,             \
        long group) {                                                                                        \
        regrow::quantized_rows<BITS>(x, {words, factors, bias, outputs, inputs, group}, y, rows);            \
    }                                                                                                        \
    extern "C" void quantized_gate_##BITS##_bfloat16(                                                        \
        const regrow::bfloat16 *x, const char *gate, const regrow::bfloat16 *gate_factors,                   \
        const regrow::bfloat16 *gate_bias, const char *up, const regrow::bfloat16 *up_factors,               \
        const regrow::bfloat16 *up_bias, regrow::bfloat16 *y, long rows, long outputs, long inputs,          \
        long group) {                                                                                        \
        regrow::quantized_gate<BITS>(x, {gate, gate_factors, gate_bias, outputs, inputs, group},             \
                                     {up, up_factors, up_bias, outputs, inputs, group}, y, rows);            \
    }                                                                                                        \
    RECORDABLE(quantized_rows_##BITS##_bfloat16)                                                             \
    RECORDABLE(quantized_gate_##BITS##_bfloat16)
QUANTIZED(4)
QUANTIZED(8)
#endif
