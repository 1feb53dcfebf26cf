/* Compares merge_frames() with the model, and cuts again what was merged. */

#ifndef MERGE_CHECK_H
#define MERGE_CHECK_H

#include "merge_model.h"

/* Cuts one row. Returns the number of segments, or 0 if it cannot be cut. */
static inline size_t
cut(const struct rows *r, size_t row, struct rows *to)
{
    struct segmentation g = {.frame = row};

    g.from = r->table;
    g.from.count = row + 1;
    g.to = to->table;
    segment_frames(&g);
    return g.reason == NULL ? g.written : 0;
}

static inline void
is_cut_alike(const struct rows *a, size_t i, const struct rows *b, size_t k)
{
    promise(a->lengths[i] == b->lengths[k]
                && memcmp(frame_of(a, i), frame_of(b, k), a->lengths[i]) == 0,
            "what is cut again is as it was");
}

/* Cuts a row of the target again: the result is what the source is cut
   into. */
static inline void
is_lossless(const struct rows *from, const struct rows *to,
            const struct made *made, size_t row)
{
    static struct rows got, wanted;
    size_t n, i;

    if (got.table.count == 0) {
        begin_rows(&got);
        begin_rows(&wanted);
        while (got.table.count < MAX_ROWS) {
            add_row(&got, MAX_SUPER_FRAME);
            add_row(&wanted, MAX_SUPER_FRAME);
        }
    }
    n = cut(to, row, &got);
    if (made->count == 1) {
        promise(n == cut(from, made->first, &wanted),
                "a copied frame stays what it is");
        for (i = 0; i < n; i++) {
            is_cut_alike(&got, i, &wanted, i);
        }
        return;
    }
    promise(n == made->count, "a super-frame is cut into all its frames");
    for (i = 0; i < n; i++) {
        if (made->same_ids) {
            continue;
        }
        promise(cut(from, made->members[i], &wanted) == 1,
                "a frame that was merged is one frame");
        is_cut_alike(&got, i, &wanted, 0);
    }
}

static inline void
is_accepted_by_kernel(const struct rows *to, size_t row)
{
    struct iovec parts[2] = {{0}};
    struct frame_table one = {.count = 1, .parts = parts};
    const char *reason = NULL;

    parts[1].iov_base = frame_of(to, row);
    parts[1].iov_len = to->lengths[row];
    one.headers = &((struct rows *)to)->headers[row];
    one.lengths = &((struct rows *)to)->lengths[row];
    promise(check_frames(&one, 0, &reason) == 1, "the kernel takes it");
}

static inline void
is_as_modelled(const struct model *m, const struct rows *from,
               const struct rows *to)
{
    static uint8_t out[2 * MAX_SUPER_FRAME];
    struct offload_header h;
    size_t row, n;

    for (row = 0; row < m->written; row++) {
        const struct made *made = &m->made[row];
        const uint8_t *wanted = frame_of(from, made->first);

        h = from->headers[made->first];
        n = from->lengths[made->first];
        if (made->count > 1) {
            n = write_row(m, made, out, &h);
            wanted = out;
            is_accepted_by_kernel(to, row);
        }
        promise(n == to->lengths[row], "the length is right");
        promise(memcmp(wanted, frame_of(to, row), n) == 0,
                "all bytes are right");
        promise(memcmp(&h, &to->headers[row], sizeof(h)) == 0,
                "the offload header is right");
        is_lossless(from, to, made, row);
    }
}

/* Checks that the frames of each flow are in order, and that none overtakes a
   frame that cannot be read. */
static inline void
is_in_order(const struct model *m, const struct rules *rules)
{
    size_t row, i, a, b, k, count = 0;
    static size_t order[MAX_ROWS];

    for (row = 0; row < m->written; row++) {
        for (i = 0; i < m->made[row].count; i++) {
            order[count++] = m->made[row].members[i];
        }
    }
    for (k = 1; k < count; k++) {
        for (i = 0; i < k; i++) {
            a = order[i];
            b = order[k];
            promise(a < b
                        || (rules->flows > 1 && m->seen[a].reach != UNREADABLE
                            && m->seen[b].reach != UNREADABLE
                            && memcmp(m->seen[a].key, m->seen[b].key, KEY_SIZE)
                                   != 0),
                    "order is kept");
        }
    }
}

/* Merges the frames from `start` on; returns with which frame to go on. */
static inline size_t
try_merge(struct model *m, const struct rows *from, struct rows *to,
          size_t start, const struct rules *rules)
{
    struct merging g = {
        .from = from->table,
        .to = to->table,
        .flows = rules->flows,
        .segments = rules->segments,
        .max_length = rules->max_length,
        .keep_ids = rules->keep_ids,
        .udp = rules->udp,
        .memory = malloc(merging_memory(rules->flows)),
        .frame = start,
    };

    if (rules->plain) {
        g.from.headers = NULL;
    }
    promise(g.memory != NULL, "there is memory");
    run_model(m, from, to, start, rules);
    merge_frames(&g);
    free(g.memory);
    promise(g.frame == m->next, "it goes on where it must");
    promise(g.written == m->written, "it fills as many rows as it must");
    promise((g.reason != NULL) == m->refused, "a reason has a cause");
    is_as_modelled(m, from, to);
    is_in_order(m, rules);
    return g.written > 0 ? g.frame : from->table.count;
}

#endif
