// Finds which neurons a refresh has to write to which places (`places.py`), and writes them into a compact
// copy (`cpu.py` describes its layout). Sixty-four places belong to one thread, so that no two threads write
// to the same bytes.
#include "../cpu.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <algorithm>

namespace regrow {

constexpr long BLOCK = 64;
struct CopySizes {
    long neurons;                     // neurons to write
    long places, width;               // of the copy
    long gate_row, up_row, down_row;  // strides of the sources, in elements
};

// Writes rows of gate or up. In a tile, sixteen bytes of each of sixteen rows lie side by side, and tiles of
// gate and up alternate.
template <typename T>
void write_rows(const T *source, long stride, const int64_t *places, const int64_t *neurons, long count,
                long width, T *copy) {
    const long row_bytes = width * long(sizeof(T));
    for (long number = 0; number < count; number++) {
        const char *row = (const char *)(source + neurons[number] * stride);
        char *to = (char *)copy + places[number] / 16 * 2 * 16 * row_bytes + places[number] % 16 * 16;
        for (long at = 0; at < row_bytes; at += 16) std::memcpy(to + at * 16, row + at, 16);
    }
}

// Writes 64 rows of a column of down.
inline void write_column(const float *from, long, float *to) { std::memcpy(to, from, BLOCK * sizeof(float)); }

// A bfloat16 column shares its 32-bit words with the column of the neighbouring place, which is kept.
inline void write_column(const bfloat16 *from, long place, bfloat16 *to) {
    const uint32_t shift = place % 2 * 16, kept = 0xffff0000u >> shift;
    for (long at = 0; at < BLOCK; at += LANES) {
        Words words;
        Halves halves;
        std::memcpy(&words, to + 2 * at, sizeof words);
        std::memcpy(&halves, from + at, sizeof halves);
        words = (words & kept) | (__builtin_convertvector(halves, Words) << shift);
        std::memcpy(to + 2 * at, &words, sizeof words);
    }
}

// Writes a whole cache line past the caches, so that its old contents are not read first.
inline void write_line(char *to, const Words &line) {
#ifdef __AVX512F__
    _mm512_stream_si512((__m512i *)to, (__m512i)line);
#else
    std::memcpy(to, &line, sizeof line);
#endif
}

// Does the same as `write_rows` for a tile whose sixteen places are all written.
template <typename T>
void write_tile(const T *source, long stride, const int64_t *neurons, long width, char *to) {
    for (long at = 0; at < width * long(sizeof(T)); at += 16) {
        for (long four = 0; four < 16; four += 4, to += 64) {
            Words line;
            for (long row = 0; row < 4; row++) {
                const char *from = (const char *)(source + neurons[four + row] * stride);
                std::memcpy((char *)&line + 16 * row, from + at, 16);
            }
            write_line(to, line);
        }
    }
}

// Writes 64 rows of the columns of two places. Two bfloat16 columns share words; float32 columns do not.
inline void write_columns(const bfloat16 *first, const bfloat16 *second, char *to) {
    for (long at = 0; at < BLOCK; at += LANES) {
        Halves low, high;
        std::memcpy(&low, first + at, sizeof low);
        std::memcpy(&high, second + at, sizeof high);
        const Words words = __builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 16;
        write_line(to + 4 * at, words);
    }
}

inline void write_columns(const float *first, const float *second, char *to) {
    for (long at = 0; at < BLOCK; at += LANES) write_line(to + 4 * at, (Words)load(first + at));
    for (long at = 0; at < BLOCK; at += LANES) write_line(to + 4 * (BLOCK + at), (Words)load(second + at));
}

// Writes sixty-four consecutive places, all with new neurons.
template <typename T>
void write_block(const T *gate, const T *up, const T *down, long block, const int64_t *neurons, T *gate_copy,
                 T *up_copy, T *down_copy, const CopySizes &sizes) {
    for (long tile = 0; tile < BLOCK / 16; tile++) {
        const long to = (block * BLOCK / 16 + tile) * 2 * 16 * sizes.width;
        write_tile(gate, sizes.gate_row, neurons + tile * 16, sizes.width, (char *)(gate_copy + to));
        write_tile(up, sizes.up_row, neurons + tile * 16, sizes.width, (char *)(up_copy + to));
    }
    for (long place = 0; place < BLOCK; place += 2) {
        const T *first = down + neurons[place] * sizes.down_row;
        const T *second = down + neurons[place + 1] * sizes.down_row;
        T *to = down_copy + (block * BLOCK + place) * BLOCK;
        for (long output = 0; output < sizes.width; output += BLOCK) {
            write_columns(first + output, second + output, (char *)(to + output * sizes.places));
        }
    }
#ifdef __AVX512F__
    _mm_sfence();
#endif
}

template <typename T>
void write_neurons(const T *gate, const T *up, const T *down, const int64_t *places, const int64_t *neurons,
                   T *gate_copy, T *up_copy, T *down_copy, const CopySizes &sizes) {
    constexpr long PAIR = 4 / sizeof(T);
    const long blocks = (sizes.places + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic)
    for (long block = 0; block < blocks; block++) {
        const int64_t *end = places + sizes.neurons;
        const int64_t *first = std::lower_bound(places, end, block * BLOCK);
        const int64_t *last = std::lower_bound(first, end, (block + 1) * BLOCK);
        const long count = last - first;
        const int64_t *incoming = neurons + (first - places);
        if (count == BLOCK) {
            write_block(gate, up, down, block, incoming, gate_copy, up_copy, down_copy, sizes);
            continue;
        }
        write_rows(gate, sizes.gate_row, first, incoming, count, sizes.width, gate_copy);
        write_rows(up, sizes.up_row, first, incoming, count, sizes.width, up_copy);
        for (long number = 0; number < count; number++) {
            const long place = first[number];
            const T *row = down + incoming[number] * sizes.down_row;
            T *to = down_copy + place / PAIR * PAIR * BLOCK;
            for (long output = 0; output < sizes.width; output += BLOCK) {
                write_column(row + output, place, to + output * sizes.places);
            }
        }
    }
}

// Replaces the neurons in `held` [k] by those in `index` [k]. New neurons take the places of those that left,
// in ascending order of places. Writes the changed places and their new neurons, and returns how many there
// are. Returns -1 and changes nothing if a neuron is in `index` twice. `marks` [F] is a workspace, zero
// before and after.
inline long take(int64_t *held, const int64_t *index, long keep, char *marks, int64_t *places,
                 int64_t *incoming) {
    constexpr char WANTED = 1, HELD = 2;
    long left = 0, came = 0;
    for (long at = 0; at < keep; at++) marks[index[at]] = WANTED;
    for (long at = 0; at < keep; at++) {
        if (!(marks[held[at]] & WANTED)) places[left++] = at;
        marks[held[at]] |= HELD;
    }
    for (long at = 0; at < keep; at++) {
        if (marks[index[at]] == WANTED) incoming[came++] = index[at];
    }
    for (long at = 0; at < keep; at++) marks[index[at]] = marks[held[at]] = 0;
    if (left != came) return -1;
    for (long at = 0; at < left; at++) held[places[at]] = incoming[at];
    return left;
}

}  // namespace regrow

#define WRITE_NEURONS(NAME, T)                                                                               \
    extern "C" void NAME(const T *gate, const T *up, const T *down, const int64_t *places,                   \
                         const int64_t *neurons, T *gate_copy, T *up_copy, T *down_copy,                     \
                         const regrow::CopySizes *sizes) {                                                   \
        regrow::write_neurons(gate, up, down, places, neurons, gate_copy, up_copy, down_copy, *sizes);       \
    }
WRITE_NEURONS(write_neurons_float32, float)
WRITE_NEURONS(write_neurons_bfloat16, regrow::bfloat16)

extern "C" void take_places_int64(int64_t *held, const int64_t *index, long keep, char *marks,
                                  int64_t *places, int64_t *incoming, int64_t *count) {
    *count = regrow::take(held, index, keep, marks, places, incoming);
}
