/* Checksums of TCP and UDP over IPv4 without options, as a C program that has
   only such frames computes them, and copies of the same frames. */

#include "checksum.h"

#include <arpa/inet.h>

struct batch {
    unsigned char *frames;
    unsigned char *copies;
    const uint32_t *lengths;
    size_t stride;
    unsigned count;
};

static void
compute(unsigned char *frame, size_t length)
{
    unsigned char *ip = frame + 14, *transport = ip + 20, *field;
    uint16_t size, zero = 0, checksum;
    uint64_t total;

    memcpy(&size, ip + 2, 2);
    size = ntohs(size);
    if (size < 20 || size > length - 14) {
        return;
    }
    size -= 20;
    memcpy(ip + 10, &zero, 2);
    checksum = (uint16_t)~fold(sum(ip, 20));
    memcpy(ip + 10, &checksum, 2);

    field = transport + (ip[9] == 17 ? 6 : 16);
    memcpy(field, &zero, 2);
    total = sum(ip + 12, 8) + htons(ip[9]) + htons(size);
    checksum = (uint16_t)~fold(total + sum(transport, size));
    if (checksum == 0 && ip[9] == 17) {
        checksum = 0xffff;
    }
    memcpy(field, &checksum, 2);
}

void
compute_batch(const struct batch *b, unsigned times)
{
    unsigned i;

    for (; times > 0; times--) {
        for (i = 0; i < b->count; i++) {
            compute(b->frames + i * b->stride, b->lengths[i]);
        }
    }
}

void
copy_batch(const struct batch *b, unsigned times)
{
    unsigned i;

    for (; times > 0; times--) {
        for (i = 0; i < b->count; i++) {
            memcpy(b->copies + i * b->stride, b->frames + i * b->stride,
                   b->lengths[i]);
        }
    }
}
