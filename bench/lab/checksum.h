/* The Internet checksum (RFC 1071). */

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t pair __attribute__((vector_size(16)));

/* The sum of n bytes in 32-bit words of the machine's byte order; it cannot
   overflow. As fast as the compiler makes it without more than the
   instructions that every x86-64 has: 32 bytes at a time. */
static inline uint64_t
sum(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    pair words = {0, 0}, high = {0, 0}, a, b;
    uint64_t total = 0, word;
    uint32_t half;
    uint16_t last = 0;

    if (n >= 64) {
        for (; n >= 32; p += 32, n -= 32) {
            memcpy(&a, p, 16);
            memcpy(&b, p + 16, 16);
            words += a + b;
            high += (a >> 32) + (b >> 32);
        }
        /* The sum of words without their high halves. */
        words += high - (high << 32);
        total = words[0] + words[1];
    }
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        total += (uint32_t)word + (word >> 32);
    }
    if (n & 4) {
        memcpy(&half, p, 4);
        total += half;
        p += 4;
    }
    if (n & 2) {
        memcpy(&last, p, 2);
        total += last;
        p += 2;
    }
    last = 0;
    if (n & 1) {
        memcpy(&last, p, 1);
    }
    return total + last;
}

/* The sum in 16 bits. The checksum is its complement. */
static inline uint16_t
fold(uint64_t total)
{
    total = (uint32_t)total + (total >> 32);
    total = (uint32_t)total + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    return (uint16_t)((total & 0xffff) + (total >> 16));
}
