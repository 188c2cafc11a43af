// Helpers of the CPU kernels: vectors of sixteen elements, computed in float32 and stored as float32 or
// bfloat16. GCC's vector types compile to whatever vector instructions the CPU has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace regrow {

constexpr long LANES = 16;

typedef float Wide __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

struct bfloat16 {
    uint16_t bits;
};

inline Wide wide(float value) { return value - Wide{}; }

inline Wide load(const float *from) {
    Wide value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Wide load(const bfloat16 *from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    return (Wide)(__builtin_convertvector(halves, Words) << 16);
}

// Rounds to the nearest bfloat16, ties to even. The NaNs that arithmetic produces stay NaN.
inline Halves rounded(Wide value) {
    const Words words = (Words)value;
    return __builtin_convertvector((words + 0x7fff + ((words >> 16) & 1)) >> 16, Halves);
}

inline void store(float *to, Wide value) { std::memcpy(to, &value, sizeof value); }

inline void store(bfloat16 *to, Wide value) {
    const Halves halves = rounded(value);
    std::memcpy(to, &halves, sizeof halves);
}

// Returns the value as it reads back after a store of the pointer's type.
inline Wide as_stored(Wide value, const float *) { return value; }
inline Wide as_stored(Wide value, const bfloat16 *) {
    return (Wide)(__builtin_convertvector(rounded(value), Words) << 16);
}

// Loads the first `count` elements of sixteen, and zeros for the others.
template <typename T>
inline Wide load_some(const T *from, long count) {
    T some[LANES] = {};
    std::memcpy(some, from, count * sizeof(T));
    return load(some);
}

template <typename T>
inline void store_some(T *to, Wide value, long count) {
    T some[LANES];
    store(some, value);
    std::memcpy(to, some, count * sizeof(T));
}

template <typename T>
inline Wide load_upto(const T *from, long count) {
    return count >= LANES ? load(from) : load_some(from, count);
}

template <typename T>
inline void store_upto(T *to, Wide value, long count) {
    if (count >= LANES) {
        store(to, value);
    } else {
        store_some(to, value, count);
    }
}

inline float sum(Wide value) {
    float total[LANES];
    std::memcpy(total, &value, sizeof total);
    for (long half = LANES / 2; half > 0; half /= 2) {
        for (long lane = 0; lane < half; lane++) total[lane] += total[lane + half];
    }
    return total[0];
}

// e^x, accurate to two units in the last place: 2^n times a polynomial in the remainder, which is at most
// ln(2)/2 in magnitude. Returns infinity from 88.4 on, and zero below -87.3 (no denormal results).
inline Wide exp(Wide x) {
    const Wide high = wide(88.73f), low = wide(-87.33f);
    const Ints above = x > high, below = x < low;
    const Wide held = (Wide)(((Ints)high & above) | ((Ints)low & below) | ((Ints)x & ~(above | below)));
    const Wide nearest = (held * 1.44269504f + 12582912.f) - 12582912.f;
    const Wide rest = (held - nearest * 0.693359375f) + nearest * 2.12194440e-4f;
    Wide power = wide(1.9875691500e-4f);
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.f;
    const Ints exponent = (__builtin_convertvector(nearest, Ints) + 127) << 23;
    const Wide value = power * (Wide)exponent;
    return (Wide)((Ints)value & ~below);
}

inline Wide silu(Wide x) { return x / (1 + exp(-x)); }

// Decodes an argument of a recorded call (`recorded/recording.py`).
template <typename T>
inline T from_word(uint64_t word) {
    if constexpr (std::is_same_v<T, float>) {
        const uint32_t bits = uint32_t(word);
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    } else {
        return (T)word;
    }
}

template <typename... T, std::size_t... NUMBER>
inline void call(void (*kernel)(T...), const uint64_t *words, std::index_sequence<NUMBER...>) {
    kernel(from_word<T>(words[NUMBER])...);
}

template <typename... T>
inline void call(void (*kernel)(T...), const uint64_t *words) {
    call(kernel, words, std::index_sequence_for<T...>{});
}

}  // namespace regrow

// Defines the entry point KERNEL_words, which takes the arguments of KERNEL as an array of words.
#define RECORDABLE(KERNEL) \
    extern "C" void KERNEL##_words(const uint64_t *words) { regrow::call(KERNEL, words); }
