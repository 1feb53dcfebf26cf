/* Batches of frames for the programs in tests/fuzz, and the check of a
   promise.

   Each frame has memory of exactly the size that it needs, so AddressSanitizer
   reports each access beyond it. */

#ifndef ROWS_H
#define ROWS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_rawmmsg_offload.h"

#ifndef MAX_ROWS
#define MAX_ROWS 16
#endif

/* Frames in memory of their own. */
struct rows {
    struct frame_table table;
    struct iovec parts[2 * MAX_ROWS];
    struct offload_header headers[MAX_ROWS];
    _Atomic uint32_t lengths[MAX_ROWS];
    uint16_t flags[MAX_ROWS];
};

static inline void
promise(bool kept, const char *what)
{
    if (!kept) {
        fprintf(stderr, "broken promise: %s\n", what);
        abort();
    }
}

static inline void
begin_rows(struct rows *r)
{
    memset(r, 0, sizeof(*r));
    r->table.parts = r->parts;
    r->table.headers = r->headers;
    r->table.lengths = r->lengths;
    r->table.flags = r->flags;
}

static inline void
add_row(struct rows *r, size_t size)
{
    size_t i = r->table.count++;

    r->parts[2 * i + 1].iov_base = malloc(size > 0 ? size : 1);
    r->parts[2 * i + 1].iov_len = size;
    promise(r->parts[2 * i + 1].iov_base != NULL, "there is memory");
}

static inline uint8_t *
frame_of(const struct rows *r, size_t i)
{
    return r->parts[2 * i + 1].iov_base;
}

static inline void
copy_rows(const struct rows *from, struct rows *to)
{
    size_t i, size;

    begin_rows(to);
    for (i = 0; i < from->table.count; i++) {
        size = from->parts[2 * i + 1].iov_len;
        add_row(to, size);
        memcpy(frame_of(to, i), frame_of(from, i), size);
        to->headers[i] = from->headers[i];
        to->lengths[i] = from->lengths[i];
        to->flags[i] = from->flags[i];
    }
}

static inline void
free_rows(struct rows *r)
{
    size_t i;

    for (i = 0; i < r->table.count; i++) {
        free(frame_of(r, i));
    }
}

static inline void
is_same_frame(const struct rows *a, const struct rows *b, size_t i)
{
    promise(memcmp(frame_of(a, i), frame_of(b, i), a->parts[2 * i + 1].iov_len)
                == 0,
            "a frame is as it must be");
}

#endif
