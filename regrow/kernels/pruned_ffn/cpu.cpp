// Which neurons a refresh writes where (`places.py`), and those neurons written into a compact copy (`cpu.py` says how it lies). Sixty-four
// places belong to one thread, so that no two of them write to the same bytes.
#include <algorithm>

#include "../cpu.h"

namespace regrow {

constexpr long BLOCK = 64;
struct CopySizes {
    long neurons;                      // that are written
    long places, width;                // of the copy
    long gate_row, up_row, down_row;   // strides of the sources, in numbers
};

// Rows of gate or up: sixteen bytes of each of sixteen rows lie side by side, and tiles of the two alternate.
template <typename T>
void write_rows(const T *source, long stride, const int64_t *places, const int64_t *neurons, long count, long width, T *copy) {
    const long row_bytes = width * long(sizeof(T));
    for (long number = 0; number < count; number++) {
        const char *row = (const char *)(source + neurons[number] * stride);
        char *to = (char *)copy + places[number] / 16 * 2 * 16 * row_bytes + places[number] % 16 * 16;
        for (long at = 0; at < row_bytes; at += 16) std::memcpy(to + at * 16, row + at, 16);
    }
}

inline void write_column(const float *from, long, float *to) { std::memcpy(to, from, BLOCK * sizeof(float)); }

// A column of bfloat16 shares its words with that of the place beside it.
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

template <typename T>
void write_neurons(const T *gate, const T *up, const T *down, const int64_t *places, const int64_t *neurons, T *gate_copy, T *up_copy,
                   T *down_copy, const CopySizes &of) {
    constexpr long PAIR = 4 / sizeof(T);
    const long blocks = (of.places + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic)
    for (long block = 0; block < blocks; block++) {
        const int64_t *end = places + of.neurons;
        const int64_t *first = std::lower_bound(places, end, block * BLOCK), *last = std::lower_bound(first, end, (block + 1) * BLOCK);
        const long count = last - first;
        const int64_t *incoming = neurons + (first - places);
        write_rows(gate, of.gate_row, first, incoming, count, of.width, gate_copy);
        write_rows(up, of.up_row, first, incoming, count, of.width, up_copy);
        for (long number = 0; number < count; number++) {
            const long place = first[number];
            const T *row = down + incoming[number] * of.down_row;
            T *to = down_copy + place / PAIR * PAIR * BLOCK;
            for (long output = 0; output < of.width; output += BLOCK) write_column(row + output, place, to + output * of.places);
        }
    }
}

// Neurons held [k] and wanted, `index` [k]: those that left make room, in ascending order of places, for those that come. `marks` [F] are
// zero before and after.
inline long take(int64_t *held, const int64_t *index, long keep, char *marks, int64_t *places, int64_t *incoming) {
    constexpr char WANTED = 1, HELD = 2;
    long left = 0, came = 0;
    for (long at = 0; at < keep; at++) marks[index[at]] = WANTED;
    for (long at = 0; at < keep; at++) {
        if (!marks[held[at]]) places[left++] = at;
        marks[held[at]] |= HELD;
    }
    for (long at = 0; at < keep; at++) {
        if (marks[index[at]] == WANTED) incoming[came++] = index[at];
    }
    for (long at = 0; at < keep; at++) marks[index[at]] = marks[held[at]] = 0;
    for (long at = 0; at < left; at++) held[places[at]] = incoming[at];
    return left;
}

}  // namespace regrow

#define WRITE_NEURONS(NAME, T)                                                                                                   \
    extern "C" void NAME(const T *gate, const T *up, const T *down, const int64_t *places, const int64_t *neurons, T *gate_copy, \
                         T *up_copy, T *down_copy, const regrow::CopySizes *of) {                                                \
        regrow::write_neurons(gate, up, down, places, neurons, gate_copy, up_copy, down_copy, *of);                              \
    }
WRITE_NEURONS(write_neurons_float32, float)
WRITE_NEURONS(write_neurons_bfloat16, regrow::bfloat16)

extern "C" void take_places_int64(int64_t *held, const int64_t *index, long keep, char *marks, int64_t *places, int64_t *incoming,
                                  int64_t *count) {
    *count = regrow::take(held, index, keep, marks, places, incoming);
}
