// Rotary embedding and cache write (defined in `reference.py`).
#include "../cpu.h"

namespace regrow {

struct RotarySizes {
    long rows, width, heads, kv_heads, head_width;
    long qkv_row, qkv_token;      // strides, in elements
    long out_row, out_token, out_head;
    long k_row, k_head, k_place;  // of the key cache
    long v_row, v_head, v_place;  // of the value cache
};

// Rotates one head of one token by the angles of `cosine` and `sine`. If `weight` is given, the head is
// normalised first.
template <typename T>
void turn(const T *head, const T *weight, float eps, const float *cosine, const float *sine, long width,
          T *out) {
    const long half = width / 2;
    float scale = 1;
    if (weight != nullptr) {
        Wide squares = wide(0);
        for (long at = 0; at < width; at += LANES) {
            const Wide value = load_upto(head + at, width - at);
            squares += value * value;
        }
        scale = 1 / std::sqrt(sum(squares) / float(width) + eps);
    }
    for (long at = 0; at < half; at += LANES) {
        const long count = half - at;
        Wide left = load_upto(head + at, count), right = load_upto(head + half + at, count);
        if (weight != nullptr) {
            left = as_stored(as_stored(left * scale, head) * load_upto(weight + at, count), head);
            right = as_stored(as_stored(right * scale, head) * load_upto(weight + half + at, count), head);
        }
        const Wide c = load_upto(cosine + at, count), s = load_upto(sine + at, count);
        store_upto(out + at, left * c - right * s, count);
        store_upto(out + half + at, right * c + left * s, count);
    }
}

template <typename T>
void rope_cache(const T *qkv, const T *q_weight, const T *k_weight, const float *cosine, const float *sine,
                const int64_t *position, const int64_t *places, T *keys, T *values, T *out,
                const RotarySizes &sizes, float eps) {
    const long half = sizes.head_width / 2;
#pragma omp parallel for schedule(static) if (sizes.rows > 1)
    for (long row = 0; row < sizes.rows; row++) {
        for (long token = 0; token < sizes.width; token++) {
            const long number = row * sizes.width + token;
            const long angle = position[number] < 0 ? 0 : position[number];
            const float *c = cosine + angle * half, *s = sine + angle * half;
            const T *head = qkv + row * sizes.qkv_row + token * sizes.qkv_token;
            for (long query = 0; query < sizes.heads; query++, head += sizes.head_width) {
                T *to = out + row * sizes.out_row + token * sizes.out_token + query * sizes.out_head;
                turn(head, q_weight, eps, c, s, sizes.head_width, to);
            }
            const long place = places[number];
            if (place < 0) continue;  // padding
            for (long key = 0; key < sizes.kv_heads; key++, head += sizes.head_width) {
                T *to = keys + row * sizes.k_row + key * sizes.k_head + place * sizes.k_place;
                turn(head, k_weight, eps, c, s, sizes.head_width, to);
            }
            for (long value = 0; value < sizes.kv_heads; value++, head += sizes.head_width) {
                T *to = values + row * sizes.v_row + value * sizes.v_head + place * sizes.v_place;
                std::memcpy(to, head, sizes.head_width * sizeof(T));
            }
        }
    }
}

}  // namespace regrow

#define ROPE_CACHE(NAME, T)                                                                                  \
    extern "C" void NAME(const T *qkv, const T *q_weight, const T *k_weight, const float *cosine,            \
                         const float *sine, const int64_t *position, const int64_t *places, T *keys,         \
                         T *values, T *out, const regrow::RotarySizes *sizes, float eps) {                   \
        regrow::rope_cache(qkv, q_weight, k_weight, cosine, sine, position, places, keys, values, out,       \
                           *sizes, eps);                                                                     \
    }
ROPE_CACHE(rope_cache_float32, float)
ROPE_CACHE(rope_cache_bfloat16, regrow::bfloat16)
RECORDABLE(rope_cache_float32)
RECORDABLE(rope_cache_bfloat16)
