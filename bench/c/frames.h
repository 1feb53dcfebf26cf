/* Where the numbered frames of link.py have what. */

#ifndef FRAMES_H
#define FRAMES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define NUMBER_AT 14 /* eight bytes */
#define BODY_AT 26   /* from here on, all frames are the same */

static inline void
write_number(void *frame, uint64_t number)
{
    number = htobe64(number);
    memcpy((char *)frame + NUMBER_AT, &number, sizeof(number));
}

static inline uint64_t
read_number(const void *frame)
{
    uint64_t number;

    memcpy(&number, (const char *)frame + NUMBER_AT, sizeof(number));
    return be64toh(number);
}

#endif
