// Decode attention (defined in `reference.py`). Every key and value is read once for all queries of its head.
// The cache is processed in pieces of fixed size, so a row's result depends neither on other rows nor on the
// number of threads.
#include <algorithm>
#include <limits>

#include "../cpu.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace regrow {

constexpr long PIECE = 512;   // positions that one thread processes
constexpr long STRIP = 64;    // positions whose scores are held at a time
constexpr long QUERIES = 8;   // most queries that are multiplied by a key at a time
constexpr long WIDEST = 512;  // most channels of a head
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

struct AttentionSizes {
    long rows, width, heads, kv_heads, head_width;
    long k_row, k_head, k_place;  // strides of the key cache, in elements
    long v_row, v_head, v_place;  // strides of the value cache
    long capacity;                // positions of the cache
};

// Returns a vector whose lane i is the sum of the elements of vectors[i]. Every round folds two vectors into
// one: each half of the result is the sum of the two halves of one input.
inline Wide sums(const Wide *vectors) {
    Wide level[LANES];
    std::memcpy(level, vectors, sizeof level);
    for (long i = 0; i < 8; i++) {
        const Wide a = level[i], b = level[i + 8];
        level[i] =
            __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
            __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
    for (long i = 0; i < 4; i++) {
        const Wide a = level[i], b = level[i + 4];
        level[i] =
            __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
            __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
    for (long i = 0; i < 2; i++) {
        const Wide a = level[i], b = level[i + 2];
        level[i] =
            __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
            __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
    const Wide a = level[0], b = level[1];
    return __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
           __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}

// Result of a piece: for each query the largest score, the sum of the weights e^(score - largest), and the
// sum of the values with these weights.
struct Partial {
    float *largest, *total, *values;  // [queries], [queries], [queries, head_width]
};

// Element types of the queries and of the values' weights. They are float32, but bfloat16 for bfloat16 caches
// where the CPU can multiply pairs of bfloat16.
template <typename T>
struct Pairs {
    static constexpr bool multiplied = false;
    typedef float Query, Weight;
};

#ifdef __AVX512BF16__
template <>
struct Pairs<bfloat16> {
    static constexpr bool multiplied = true;
    typedef bfloat16 Query, Weight;
};

inline Wide multiplied(Wide sums, __m512i a, __m512i b) {
    return (Wide)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}

// Computes the dot products of one key with R queries; each is left as sixteen partial sums.
template <int R>
void dots(const bfloat16 *key, const bfloat16 *queries, long width, Wide (&dot)[R]) {
    for (long at = 0; at < width; at += 2 * LANES) {
        const __m512i part = _mm512_loadu_si512(key + at);
        for (int r = 0; r < R; r++) {
            dot[r] = multiplied(dot[r], part, _mm512_loadu_si512(queries + r * width + at));
        }
    }
}

// Adds C times sixteen channels of every value of a strip, with the weights of each query. Two values are
// processed at a time. The instructions that interleave their channels work within quarters of a vector, so
// the sums are held in a permuted order.
template <int R, int C>
void weigh(const bfloat16 (*weights)[STRIP], const bfloat16 *values, long start, long stop,
           const AttentionSizes &sizes, float *into) {
    static_assert(C % 2 == 0);
    Wide held[R][C];
    for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c += 2) {
            const Wide a = load(into + r * sizes.head_width + c * LANES);
            const Wide b = load(into + r * sizes.head_width + (c + 1) * LANES);
            held[r][c] =
                __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
            held[r][c + 1] =
                __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
        }
    }
    for (long at = start; at < stop; at += 2) {
        const bfloat16 *first = values + at * sizes.v_place;
        const bfloat16 *second = values + std::min(at + 1, stop - 1) * sizes.v_place;
        __m512i part[C];
        for (int c = 0; c < C; c += 2) {
            const __m512i a = _mm512_loadu_si512(first + c * LANES);
            const __m512i b = _mm512_loadu_si512(second + c * LANES);
            part[c] = _mm512_unpacklo_epi16(a, b);
            part[c + 1] = _mm512_unpackhi_epi16(a, b);
        }
        for (int r = 0; r < R; r++) {
            int pair;
            std::memcpy(&pair, weights[r] + at - start, sizeof pair);
            const __m512i weight = _mm512_set1_epi32(pair);
            for (int c = 0; c < C; c++) held[r][c] = multiplied(held[r][c], weight, part[c]);
        }
    }
    for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c += 2) {
            const Wide a = held[r][c], b = held[r][c + 1];
            float *to = into + r * sizes.head_width + c * LANES;
            const Wide low =
                __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
            store(to, low);
            const Wide high =
                __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
            store(to + LANES, high);
        }
    }
}
#endif

template <int R, typename T>
void dots(const T *key, const float *queries, long width, Wide (&dot)[R]) {
    for (long at = 0; at < width; at += LANES) {
        const Wide part = load(key + at);
        for (int r = 0; r < R; r++) dot[r] += part * load(queries + r * width + at);
    }
}

template <int R, int C, typename T>
void weigh(const float (*weights)[STRIP], const T *values, long start, long stop, const AttentionSizes &sizes,
           float *into) {
    Wide held[R][C];
    for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c++) held[r][c] = load(into + r * sizes.head_width + c * LANES);
    }
    for (long at = start; at < stop; at++) {
        Wide part[C];
        for (int c = 0; c < C; c++) part[c] = load(values + at * sizes.v_place + c * LANES);
        for (int r = 0; r < R; r++) {
            const Wide weight = wide(weights[r][at - start]);
            for (int c = 0; c < C; c++) held[r][c] += weight * part[c];
        }
    }
    for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c++) store(into + r * sizes.head_width + c * LANES, held[r][c]);
    }
}

// Adds the positions from `from` to `to` to the partial results of R queries. Query r attends to positions up
// to last[r].
template <typename T, int R>
void piece(const typename Pairs<T>::Query *queries, const long *last, const T *keys, const T *values,
           long from, long to, float scale, const AttentionSizes &sizes, Partial into) {
    const long width = sizes.head_width;
    for (long start = from; start < to; start += STRIP) {
        const long stop = std::min(start + STRIP, to);
        alignas(64) float scores[R][STRIP];
        for (long group = start; group < stop; group += LANES) {
            Wide products[R][LANES];
            for (long lane = 0; lane < LANES; lane++) {
                Wide dot[R];
                for (int r = 0; r < R; r++) dot[r] = wide(0);
                dots<R>(keys + std::min(group + lane, stop - 1) * sizes.k_place, queries, width, dot);
                for (int r = 0; r < R; r++) products[r][lane] = dot[r];
            }
            for (int r = 0; r < R; r++) store(scores[r] + group - start, sums(products[r]) * scale);
        }
        alignas(64) typename Pairs<T>::Weight weights[R][STRIP];
        for (int r = 0; r < R; r++) {
            // Positions of the strip that the query attends to.
            const long seen = std::min(stop, last[r] + 1) - start;
            float largest = into.largest[r];
            for (long at = 0; at < STRIP; at++) {
                if (at >= seen) scores[r][at] = NOTHING;
                largest = scores[r][at] > largest ? scores[r][at] : largest;
            }
            Wide total = wide(0);
            for (long at = 0; at < STRIP; at += LANES) {
                const Wide weight =
                    seen > 0 ? as_stored(exp(load(scores[r] + at) - largest), weights[r]) : wide(0);
                store(weights[r] + at, weight);
                total += weight;
            }
            if (seen <= 0) continue;
            const float shrunk = exp(wide(into.largest[r] - largest))[0];
            into.largest[r] = largest;
            into.total[r] = into.total[r] * shrunk + sum(total);
            for (long at = 0; at < width; at += LANES) {
                float *sum_of = into.values + r * width + at;
                store(sum_of, load(sum_of) * shrunk);
            }
        }
        constexpr int C = R <= 6 ? 4 : 2;  // R * C vectors of sums fit into the registers
        constexpr int LEAST = Pairs<T>::multiplied ? 2 : 1;
        long at = 0;
        for (; at + C * LANES <= width; at += C * LANES) {
            weigh<R, C>(weights, values + at, start, stop, sizes, into.values + at);
        }
        for (; at < width; at += LEAST * LANES) {
            weigh<R, LEAST>(weights, values + at, start, stop, sizes, into.values + at);
        }
    }
}

// Calls `piece` for `count` queries.
template <typename T>
void some_queries(int count, const typename Pairs<T>::Query *queries, const long *last, const T *keys,
                  const T *values, long from, long to, float scale, const AttentionSizes &sizes,
                  Partial into) {
    switch (count) {
        case 1: return piece<T, 1>(queries, last, keys, values, from, to, scale, sizes, into);
        case 2: return piece<T, 2>(queries, last, keys, values, from, to, scale, sizes, into);
        case 3: return piece<T, 3>(queries, last, keys, values, from, to, scale, sizes, into);
        case 4: return piece<T, 4>(queries, last, keys, values, from, to, scale, sizes, into);
        case 5: return piece<T, 5>(queries, last, keys, values, from, to, scale, sizes, into);
        case 6: return piece<T, 6>(queries, last, keys, values, from, to, scale, sizes, into);
        case 7: return piece<T, 7>(queries, last, keys, values, from, to, scale, sizes, into);
        default: return piece<T, 8>(queries, last, keys, values, from, to, scale, sizes, into);
    }
}

template <typename T>
void decode_attention(const T *q, const T *keys, const T *values, const int64_t *start, const int64_t *length,
                      float scale, T *out, float *workspace, const AttentionSizes &sizes) {
    const long groups = sizes.heads / sizes.kv_heads;  // query heads per key-value head
    const long together = groups * sizes.width, width = sizes.head_width;
    const long pieces = (sizes.capacity + PIECE - 1) / PIECE, stride = together * (width + 2);
    const long tasks = sizes.rows * sizes.kv_heads;  // pairs of a row and a key-value head
#pragma omp parallel
    {
#pragma omp for schedule(dynamic) collapse(2)
        for (long number = 0; number < pieces; number++) {
            for (long task = 0; task < tasks; task++) {
                const long row = task / sizes.kv_heads, head = task % sizes.kv_heads;
                const long from = std::max<long>(start[row], number * PIECE);
                const long to = std::min<long>(length[row] + sizes.width, (number + 1) * PIECE);
                if (from >= to) continue;
                float *partial = workspace + (task * pieces + number) * stride;
                float *largest = partial, *total = partial + together, *sums = partial + 2 * together;
                std::fill(largest, total, NOTHING);
                std::fill(total, partial + stride, 0.f);
                for (long first = 0; first < together; first += QUERIES) {
                    const long count = std::min(QUERIES, together - first);
                    alignas(64) typename Pairs<T>::Query queries[QUERIES * WIDEST];
                    long last[QUERIES];
                    for (long r = 0; r < count; r++) {
                        const long token = (first + r) / groups, query = head * groups + (first + r) % groups;
                        const T *asked = q + ((row * sizes.width + token) * sizes.heads + query) * width;
                        for (long at = 0; at < width; at += LANES) {
                            store(queries + r * width + at, load(asked + at));
                        }
                        last[r] = length[row] + token;
                    }
                    const Partial into{largest + first, total + first, sums + first * width};
                    some_queries(int(count), queries, last, keys + row * sizes.k_row + head * sizes.k_head,
                                 values + row * sizes.v_row + head * sizes.v_head, from, to, scale, sizes,
                                 into);
                }
            }
        }
#pragma omp for schedule(static) collapse(2)
        for (long task = 0; task < tasks; task++) {
            for (long r = 0; r < together; r++) {
                const long row = task / sizes.kv_heads, head = task % sizes.kv_heads;
                const long token = r / groups, query = head * groups + r % groups;
                const long begin = start[row] / PIECE, end = (length[row] + sizes.width - 1) / PIECE + 1;
                T *to = out + ((row * sizes.width + token) * sizes.heads + query) * width;
                if (length[row] + sizes.width <= start[row]) {  // the row is all padding
                    std::memset(to, 0, width * sizeof(T));
                    continue;
                }
                float *partials = workspace + task * pieces * stride;
                float largest = NOTHING, total = 0;
                for (long number = begin; number < end; number++) {
                    largest = std::max(largest, partials[number * stride + r]);
                }
                for (long number = begin; number < end; number++) {
                    float &weight = partials[number * stride + r];
                    weight = exp(wide(weight - largest))[0];
                    total += weight * partials[number * stride + together + r];
                }
                for (long at = 0; at < width; at += LANES) {
                    Wide value = wide(0);
                    for (long number = begin; number < end; number++) {
                        const float *partial = partials + number * stride;
                        value += load(partial + 2 * together + r * width + at) * partial[r];
                    }
                    store(to + at, value / total);
                }
            }
        }
    }
}

}  // namespace regrow

#define DECODE_ATTENTION(NAME, T)                                                                            \
    extern "C" void NAME(const T *q, const T *keys, const T *values, const int64_t *start,                   \
                         const int64_t *length, T *out, float *workspace,                                    \
                         const regrow::AttentionSizes *sizes, float scale) {                                 \
        regrow::decode_attention(q, keys, values, start, length, scale, out, workspace, *sizes);             \
    }
DECODE_ATTENTION(decode_attention_float32, float)
DECODE_ATTENTION(decode_attention_bfloat16, regrow::bfloat16)
RECORDABLE(decode_attention_float32)
RECORDABLE(decode_attention_bfloat16)
