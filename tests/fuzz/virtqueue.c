/* A back end with _rawmmsg_virtqueue.c, its guest, and its socket, in one
   program; tests/fuzz/virtqueue.py builds and runs it.

   A run follows from a row of choices: the features, the rings, the frames,
   and what happens next. The guest follows the rules until it is spoilt: from
   then on, random bytes are written to its memory. As long as it follows
   them, each frame must arrive as it was sent, and all buffers must be used in
   order. Later, only the memory of the guest and of the back end may be
   used. Before the first run, each single mistake must be found.

   The choices are the input of libFuzzer, or numbers from a seed if RANDOM is
   defined:

       virtqueue SEED RUNS */

#define _GNU_SOURCE /* struct mmsghdr */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_rawmmsg_virtqueue.h"

#define MAX_BATCH 8
#define MAX_RING 64
#define FEW_PIECES 6
#define MAX_PIECES 300
#define SCATTERED \
    150 /* 43 buffers of so many can be used at once, 50 cannot */
#define MAX_FRAMES 4096 /* that wait to be compared */
#define STEPS 60

enum {
    NEXT = 1,
    WRITE = 2,
    INDIRECT = 4
};

/* Where the choices come from. */
struct choices {
    const uint8_t *at; /* libFuzzer's input that is left */
    size_t left;
    uint64_t state; /* of the random numbers, if they are used: not 0 */
};

/* A part of a buffer, in guest memory. */
struct piece {
    uint64_t address;
    uint32_t length;
};

/* A chain that the guest has made available. */
struct offer {
    uint16_t head;
    unsigned descriptors;
    uint64_t end; /* of what it has in the arena */
    struct piece pieces[MAX_PIECES];
    unsigned piece_count;
};

/* A queue as the guest sees it. Addresses are those of the guest. */
struct ring {
    struct virtqueue queue;
    uint32_t size;
    uint64_t descriptors, available, used;
    uint16_t next_available, next_used;
    unsigned next_descriptor, free_descriptors;

    /* Memory for buffers. Those that are in use lie between `oldest` and
       `newest`, or outside, if `newest` is before `oldest`. */
    uint64_t start, stop, oldest, newest;
    struct offer offers[MAX_RING]; /* of entry i: i % MAX_RING */
    uint16_t known;                /* the used index at the last call */
    bool called;
};

/* A frame that must arrive. */
struct frame {
    struct offload_header header;
    uint8_t *bytes;
    size_t length;
};

/* Frames in order. */
struct frames {
    struct frame list[MAX_FRAMES];
    size_t first, end;
};

struct world {
    struct choices *c;
    struct guest_memory memory;
    uint64_t features;
    size_t header; /* in guest memory */
    bool spoilt;
    struct ring to_us, to_guest;
    struct transmission t;
    struct reception r;
    size_t least;   /* bytes of a receive buffer */
    unsigned usual; /* which length most frames have */
    bool scattered; /* most chains have many parts */
    struct frames sent, received;
    uint64_t drops; /* of r.dropped, those that were explained */
    unsigned cut;   /* pieces of frame r.next that the guest has */
    bool changed;   /* the guest has changed the frames of the batch */
    bool discarded; /* headers are no longer in the order of messages */
    uint8_t counter;
};

/* ---- Choices ------------------------------------------------------------ */

static void
promise(bool kept, const char *what)
{
    if (!kept) {
        fprintf(stderr, "broken promise: %s\n", what);
        abort();
    }
}

static unsigned
next_byte(struct choices *c)
{
    if (c->state != 0) {
        c->state ^= c->state << 13;
        c->state ^= c->state >> 7;
        c->state ^= c->state << 17;
        return (unsigned)(c->state >> 32) & 0xff;
    }
    if (c->left == 0) {
        return 0;
    }
    c->left--;
    return *c->at++;
}

/* A number below n, which is at most 65,536. */
static unsigned
choose(struct choices *c, unsigned n)
{
    unsigned value = next_byte(c);

    if (n > 256) {
        value = value << 8 | next_byte(c);
    }
    return value % n;
}

static bool
one_in(struct choices *c, unsigned n)
{
    return choose(c, n) == n - 1;
}

/* ---- Guest memory ------------------------------------------------------- */

enum {
    REGIONS = 5,
    RINGS = REGIONS - 1, /* the region that has them */
    RING_SPACE = 4096,
    SPACE = 200000 /* of each other region */
};

/* Buffers can lie in two regions: two and two follow each other. */
static const uint64_t region_starts[REGIONS] = {
    0x1000, 0x1000 + SPACE, UINT64_C(1) << 40, (UINT64_C(1) << 40) + SPACE,
    UINT64_MAX - 2 * RING_SPACE};

/* The user address of a guest address. */
static uint64_t
user_address(uint64_t address)
{
    return address ^ UINT64_C(1) << 45;
}

/* Finds n bytes, or the first of them: *here says how many. */
static uint8_t *
guest_bytes(struct world *w, uint64_t address, size_t n, size_t *here)
{
    struct guest_region *r = w->memory.regions;
    uint64_t offset;

    for (; r < w->memory.regions + REGIONS; r++) {
        offset = address - r->guest_address;
        if (offset < r->size) {
            *here = n < r->size - offset ? n : (size_t)(r->size - offset);
            return r->memory + offset;
        }
    }
    promise(false, "the guest uses memory that it has");
    return NULL;
}

static void
write_guest(struct world *w, uint64_t address, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    uint8_t *to;
    size_t here;

    for (; n > 0; n -= here, address += here, from += here) {
        to = guest_bytes(w, address, n, &here);
        memcpy(to, from, here);
    }
}

static void
read_guest(struct world *w, uint64_t address, void *bytes, size_t n)
{
    const uint8_t *from;
    uint8_t *to = bytes;
    size_t here;

    for (; n > 0; n -= here, address += here, to += here) {
        from = guest_bytes(w, address, n, &here);
        memcpy(to, from, here);
    }
}

static void
write_16(struct world *w, uint64_t address, uint16_t value)
{
    write_guest(w, address, &value, 2);
}

static uint16_t
read_16(struct world *w, uint64_t address)
{
    uint16_t value;

    read_guest(w, address, &value, 2);
    return value;
}

static void
make_memory(struct world *w)
{
    struct guest_region *r;
    size_t i;

    w->memory.count = REGIONS;
    for (i = 0; i < REGIONS; i++) {
        r = &w->memory.regions[i];
        r->guest_address = region_starts[i];
        r->user_address = user_address(region_starts[i]);
        r->size = i == RINGS ? 2 * RING_SPACE : SPACE;
        r->memory = calloc(1, r->size);
        promise(r->memory != NULL, "there is memory");
        promise(check_region(r, 0, r->size) == NULL, "a region is valid");
    }
    promise(check_memory(&w->memory) == NULL, "the table is valid");
}

/* Writes something somewhere, most often to the rings. */
static void
spoil(struct world *w)
{
    const struct guest_region *r;
    uint64_t at;
    unsigned n;

    w->spoilt = true;
    for (n = 1 + choose(w->c, 8); n > 0; n--) {
        r = &w->memory.regions[one_in(w->c, 4) ? choose(w->c, RINGS) : RINGS];
        at = (uint64_t)(choose(w->c, 65536) << 4 | choose(w->c, 16)) % r->size;
        if (choose(w->c, 2)) {
            at = (choose(w->c, 2) ? w->to_us.available : w->to_guest.available)
                 - region_starts[RINGS] + choose(w->c, 12);
            r = &w->memory.regions[RINGS];
        }
        r->memory[at] = (uint8_t)next_byte(w->c);
    }
}

static void
maybe_spoil(struct world *w)
{
    if (w->spoilt ? choose(w->c, 2) : one_in(w->c, 100)) {
        spoil(w);
    }
}

/* ---- Rings -------------------------------------------------------------- */

static void
make_ring(struct world *w, struct ring *r, unsigned i)
{
    uint16_t base = (uint16_t)(one_in(w->c, 2) ? 65530 : choose(w->c, 65536));
    struct queue_setup setup;

    r->size = w->scattered ? MAX_RING : 1u << choose(w->c, 7);
    r->descriptors = region_starts[RINGS] + i * RING_SPACE;
    r->available = r->descriptors + 2048;
    r->used = r->descriptors + 3072;
    r->start = r->oldest = r->newest = region_starts[2 * i];
    r->stop = r->start + 2 * SPACE;
    r->free_descriptors = r->size;
    r->next_available = r->next_used = r->known = base;
    write_16(w, r->available + 2, base);
    write_16(w, r->used + 2, base);
    setup = (struct queue_setup){
        .size = r->size,
        .base = base,
        .descriptors = user_address(r->descriptors),
        .available = user_address(r->available),
        .used = user_address(r->used),
        .features = w->features,
    };
    promise(start_queue(&r->queue, &w->memory, &setup) == NULL,
            "a ring as it should be starts");
}

/* Goes on offering buffers after the guest has been spoilt. */
static void
forget_offers(struct ring *r)
{
    r->next_used = r->next_available;
    r->free_descriptors = r->size;
}

/* Finds room in the arena. 0: there is none. */
static uint64_t
find_memory(struct ring *r, uint64_t n)
{
    bool empty = r->next_available == r->next_used;
    uint64_t at;

    if (empty) {
        r->oldest = r->newest = r->start;
    }
    at = r->newest;
    if (at >= r->oldest) {
        if (at + n <= r->stop) {
            r->newest = at + n;
            return at;
        }
        at = r->start;
    }
    if (at + n >= r->oldest) {
        return 0;
    }
    r->newest = at + n;
    return at;
}

static void
write_descriptor(struct world *w, uint64_t at, struct piece p, unsigned flags,
                 unsigned next)
{
    write_guest(w, at, &p.address, 8);
    write_guest(w, at + 8, &p.length, 4);
    write_16(w, at + 12, (uint16_t)flags);
    write_16(w, at + 14, (uint16_t)next);
}

/* Writes the descriptors of an offer: `direct` pieces in the ring's table, the
   others, if any, in an indirect one. */
static void
write_chain(struct world *w, struct ring *r, struct offer *o, unsigned direct,
            uint64_t indirect, unsigned flags)
{
    unsigned i, n = o->piece_count - direct, next;
    struct piece table = {indirect, n * 16};

    o->head = (uint16_t)r->next_descriptor;
    for (i = 0; i < direct + (n > 0); i++) {
        next = (r->next_descriptor + 1) % r->size;
        if (i < direct) {
            write_descriptor(
                w, r->descriptors + r->next_descriptor * 16, o->pieces[i],
                flags | (i + 1 < direct + (n > 0) ? NEXT : 0u), next);
        }
        else {
            write_descriptor(w, r->descriptors + r->next_descriptor * 16,
                             table, INDIRECT, 0);
        }
        r->next_descriptor = next;
        r->free_descriptors--;
        o->descriptors++;
    }
    for (i = 0; i < n; i++) {
        write_descriptor(w, indirect + i * 16, o->pieces[direct + i],
                         flags | (i + 1 < n ? NEXT : 0u), i + 1);
    }
}

/* Makes a chain for a buffer of n bytes available. NULL if there is no
   room. */
static struct offer *
offer_buffer(struct world *w, struct ring *r, size_t n, unsigned flags)
{
    struct offer *o = &r->offers[r->next_available % MAX_RING];
    bool tables = w->features >> FEATURE_INDIRECT_DESC & 1;
    unsigned pieces = 1 + choose(w->c, FEW_PIECES), i;
    unsigned direct = tables ? choose(w->c, pieces + 1) : pieces;
    uint64_t at;
    size_t length;

    if (tables && w->scattered) {
        pieces = SCATTERED;
        direct = 0;
    }
    else if (direct < pieces && one_in(w->c, 4)) {
        pieces = MAX_PIECES - choose(w->c, 256);
    }
    pieces = pieces > n ? (unsigned)n : pieces;
    direct = direct > pieces ? pieces : direct;
    if ((uint16_t)(r->next_available - r->next_used) == r->size
        || direct + (direct < pieces) > r->free_descriptors) {
        return NULL;
    }
    at = find_memory(r, n + 16 * pieces);
    if (at == 0) {
        return NULL;
    }
    memset(o, 0, sizeof(*o));
    o->end = r->newest;
    o->piece_count = pieces;
    for (i = 0; i < pieces; i++) {
        length = n - (pieces - i - 1);
        if (i + 1 < pieces) {
            length =
                1 + choose(w->c, length > 65536 ? 65536 : (unsigned)length);
            length = one_in(w->c, 2) && length > 12 ? 12 : length;
        }
        o->pieces[i] = (struct piece){at, (uint32_t)length};
        at += length;
        n -= length;
    }
    write_chain(w, r, o, direct, at, flags);
    write_16(w, r->available + 4 + r->next_available % r->size * 2, o->head);
    r->next_available++;
    write_16(w, r->available + 2, r->next_available);
    return o;
}

/* Takes the next used buffer. NULL if there is none. *length is what the back
   end has written. */
static struct offer *
take_used(struct world *w, struct ring *r, uint32_t *length)
{
    struct offer *o = &r->offers[r->next_used % MAX_RING];
    uint32_t entry[2];

    if (read_16(w, r->used + 2) == r->next_used) {
        return NULL;
    }
    promise(r->next_used != r->next_available, "only buffers are used");
    read_guest(w, r->used + 4 + r->next_used % r->size * 8, entry, 8);
    promise(entry[0] == o->head, "buffers are used in order");
    *length = entry[1];
    r->next_used++;
    r->free_descriptors += o->descriptors;
    r->oldest = o->end;
    return o;
}

/* Whether the guest is notified when it must be, and otherwise only at the
   first time. */
static void
check_call(struct world *w, struct ring *r)
{
    bool events = w->features >> FEATURE_EVENT_IDX & 1;
    bool quiet = choose(w->c, 2), call;
    uint16_t index = read_16(w, r->used + 2);

    if (w->spoilt) {
        wants_call(&r->queue);
        return;
    }
    if (events) {
        write_16(w, r->available + 4 + r->size * 2, quiet ? index : r->known);
    }
    else {
        write_16(w, r->available, quiet);
    }
    call = wants_call(&r->queue);
    if (quiet && !(events && !r->called)) {
        promise(!call, "a guest is not notified if it does not want that");
    }
    else {
        promise(call == (index != r->known), "a guest is notified");
    }
    r->called |= index != r->known;
    r->known = index;
}

/* Copies from or to the pieces of an offer, from `skip` on. */
static void
copy_pieces(struct world *w, const struct offer *o, size_t skip, void *bytes,
            size_t n, bool write)
{
    uint8_t *p = bytes;
    unsigned i;
    size_t here;

    for (i = 0; n > 0; i++) {
        promise(i < o->piece_count, "a buffer has so many bytes");
        if (skip >= o->pieces[i].length) {
            skip -= o->pieces[i].length;
            continue;
        }
        here = o->pieces[i].length - skip;
        here = here < n ? here : n;
        if (write) {
            write_guest(w, o->pieces[i].address + skip, p, here);
        }
        else {
            read_guest(w, o->pieces[i].address + skip, p, here);
        }
        p += here;
        n -= here;
        skip = 0;
    }
}

/* ---- Frames ------------------------------------------------------------- */

/* Most frames of a run are of one length. */
static size_t
choose_length(const struct world *w)
{
    static const size_t lengths[] = {60,    1514, 1400,      9014,
                                     65226, 14,   MOST_FRAME};

    if (choose(w->c, 4)) {
        return lengths[w->usual];
    }
    return choose(w->c, 4) ? 14 + choose(w->c, 3000)
                           : lengths[choose(w->c, 7)];
}

static struct frame
make_frame(struct world *w, size_t length)
{
    struct frame f = {.length = length, .bytes = malloc(length + TAG_SIZE)};
    static const uint8_t types[] = {0, 1, 4, 5, 0x81, 0x84, 3, 0x80};
    size_t i;

    promise(f.bytes != NULL, "there is memory");
    for (i = 0; i < length; i++) {
        f.bytes[i] = (uint8_t)(i * 31 + w->counter);
    }
    w->counter++;
    if (one_in(w->c, 2)) {
        f.header.flags = (uint8_t)choose(w->c, 4);
        f.header.gso_type = types[one_in(w->c, 4) ? choose(w->c, 8) : 1];
        f.header.header_length = (uint16_t)choose(w->c, 100);
        f.header.gso_size = 1448;
        f.header.checksum_start = 34;
        f.header.checksum_offset = 16;
    }
    return f;
}

static void
add_frame(struct frames *list, struct frame f)
{
    promise(list->end < MAX_FRAMES, "the program has room");
    list->list[list->end++] = f;
}

static void
free_frames(struct frames *list)
{
    for (; list->first < list->end; list->first++) {
        free(list->list[list->first].bytes);
    }
}

static bool
has(const struct world *w, enum feature feature)
{
    return w->features >> feature & 1;
}

/* Whether a header asks only for what was negotiated; the features of the two
   directions are in the same order. */
static bool
is_allowed(const struct world *w, const struct offload_header *h, bool to_us)
{
    unsigned shift = to_us ? 4 : 0;
    bool ecn = h->gso_type & GSO_ECN, allowed = true;

    if (h->flags & VNET_NEEDS_CSUM) {
        allowed = has(w, to_us ? FEATURE_CSUM : FEATURE_GUEST_CSUM);
    }
    switch (h->gso_type & ~GSO_ECN) {
    case 0:
        return allowed && !ecn;
    case GSO_TCPV4:
        allowed &= has(w, FEATURE_GUEST_TSO4 + shift);
        break;
    case GSO_TCPV6:
        allowed &= has(w, FEATURE_GUEST_TSO6 + shift);
        break;
    case GSO_UDP_L4:
        return allowed && !ecn
               && (to_us ? has(w, FEATURE_HOST_USO)
                         : has(w, FEATURE_GUEST_USO4)
                               && has(w, FEATURE_GUEST_USO6));
    default:
        return false;
    }
    return allowed && (!ecn || has(w, FEATURE_GUEST_ECN + shift));
}

/* ---- From the guest ----------------------------------------------------- */

static void
offer_frames(struct world *w)
{
    unsigned n = choose(w->c, 10);
    struct offer *o;
    struct frame f;

    if (w->spoilt) {
        forget_offers(&w->to_us);
    }
    for (; n > 0; n--) {
        f = make_frame(w, one_in(w->c, 20) ? 1 + choose(w->c, 13)
                                           : choose_length(w));
        o = offer_buffer(w, &w->to_us, w->header + f.length, 0);
        if (o == NULL) {
            free(f.bytes);
            return;
        }
        copy_pieces(w, o, 0, &f.header, w->header, true);
        copy_pieces(w, o, w->header, f.bytes, f.length, true);
        f.header.flags &= VNET_NEEDS_CSUM;
        if (w->spoilt || f.length < 14 || !is_allowed(w, &f.header, true)) {
            free(f.bytes);
        }
        else {
            add_frame(&w->sent, f);
        }
    }
}

/* Whether these bytes may be used by a message. */
static bool
is_ours(const struct world *w, const struct iovec *part)
{
    const uint8_t *p = part->iov_base;
    const struct guest_region *r = w->memory.regions;
    const uint8_t *copies = w->t.copies, *saved = w->r.saved;

    for (; r < w->memory.regions + REGIONS; r++) {
        if (p >= r->memory && p + part->iov_len <= r->memory + r->size) {
            return true;
        }
    }
    return (p >= (const uint8_t *)w->t.headers
            && p < (const uint8_t *)(w->t.headers + MAX_BATCH))
           || (p >= (const uint8_t *)w->r.headers
               && p < (const uint8_t *)(w->r.headers + MAX_BATCH))
           || (p >= copies
               && p + part->iov_len <= copies + MAX_BATCH * w->t.copied)
           || (p >= saved
               && p + part->iov_len
                      <= saved + MAX_BATCH * (MOST_FRAME + TAG_SIZE));
}

/* Copies from or to the parts of a message, at most n bytes. Returns how
   many. */
static size_t
copy_message(const struct world *w, const struct msghdr *m, uint8_t *bytes,
             size_t n, bool write)
{
    size_t i, done = 0, here;

    promise(m->msg_iovlen <= 1024, "a message has at most 1,024 parts");
    for (i = 0; i < m->msg_iovlen; i++) {
        here = m->msg_iov[i].iov_len;
        promise(here > 0, "no part is empty");
        promise(is_ours(w, &m->msg_iov[i]), "parts are in known memory");
        here = here < n - done ? here : n - done;
        if (write) {
            memcpy(m->msg_iov[i].iov_base, bytes + done, here);
        }
        else {
            memcpy(bytes + done, m->msg_iov[i].iov_base, here);
        }
        done += here;
    }
    return done;
}

/* What sendmmsg(2) would do. */
static void
send_message(struct world *w, size_t i)
{
    static uint8_t bytes[MOST_FRAME + 100];
    size_t header = w->t.socket_header, n, same;
    struct frame *f = &w->sent.list[w->sent.first];

    n = copy_message(w, &w->t.messages[i].msg_hdr, bytes, sizeof(bytes),
                     false);
    promise(n == header + w->t.lengths[i], "a message has a frame");
    if (w->spoilt) {
        return;
    }
    promise(w->sent.first < w->sent.end, "frames are sent once");
    promise(w->t.lengths[i] == f->length, "a frame keeps its length");
    f->header.buffer_count = 0;
    promise(w->discarded
                || memcmp(&w->t.headers[i], &f->header, sizeof(f->header))
                       == 0,
            "a header is as the guest has written it");
    promise(memcmp(bytes, &f->header, header) == 0,
            "the copy of the header is sent");
    same = w->changed && w->t.copied < f->length ? w->t.copied : f->length;
    promise(memcmp(bytes + header, f->bytes, same) == 0,
            "a frame is sent as it was");
}

static void
end_message(struct world *w)
{
    if (!w->spoilt) {
        free(w->sent.list[w->sent.first++].bytes);
    }
}

static void
take_sent(struct world *w)
{
    uint32_t length;

    while (!w->spoilt && take_used(w, &w->to_us, &length) != NULL) {
        promise(length == 0, "nothing is written to a transmit buffer");
    }
}

/* Changes all frames of the batch, as a hostile guest would. */
static void
change_frames(struct world *w)
{
    static uint8_t bytes[MOST_FRAME + 100];
    const struct virtqueue *q = w->t.queue;
    const struct offer *o;
    uint16_t i;
    size_t n;
    unsigned k;

    memset(bytes, 0xee, sizeof(bytes));
    for (i = q->next_used; i != q->next_available; i++) {
        o = &w->to_us.offers[i % MAX_RING];
        for (n = 0, k = 0; k < o->piece_count; k++) {
            n += o->pieces[k].length;
        }
        copy_pieces(w, o, 0, bytes, n, true);
    }
    w->changed = true;
}

/* Discards some of the messages of a new batch. */
static void
discard(struct world *w)
{
    size_t n = w->t.count - w->t.next, kept = 0, i;
    struct frame *f = &w->sent.list[w->sent.first], keep[MAX_BATCH];
    bool unwanted[MAX_BATCH];

    for (i = 0; i < n; i++) {
        unwanted[i] = choose(w->c, 2);
        if (w->spoilt) {
            continue;
        }
        if (unwanted[i]) {
            free(f[i].bytes);
        }
        else {
            keep[kept++] = f[i];
        }
    }
    discard_frames(&w->t, unwanted);
    w->discarded = true;
    if (!w->spoilt) {
        w->sent.first += n - kept;
        memcpy(&w->sent.list[w->sent.first], keep, kept * sizeof(*keep));
    }
}

static void
transmit(struct world *w)
{
    struct transmission *t = &w->t;
    bool fresh;
    size_t n, i;

    offer_frames(w);
    maybe_spoil(w);
    fresh = t->next == t->count;
    if (fresh) {
        w->changed = w->discarded = false;
    }
    n = read_frames(t);
    promise(n == t->count - t->next && n <= MAX_BATCH, "a batch has room");
    if (fresh && one_in(w->c, 4)) {
        discard(w);
    }
    if (!w->spoilt && one_in(w->c, 4)) {
        change_frames(w);
    }
    maybe_spoil(w);
    while (t->next < t->count && !one_in(w->c, 10)) {
        /* All of them if there are no more choices. */
        n = t->count - t->next;
        n -= choose(w->c, (unsigned)n + 1);
        for (i = t->next; i < t->next + n; i++) {
            send_message(w, i);
            end_message(w);
        }
        finish_frames(t, n);
        if (t->next < t->count && one_in(w->c, 8)) {
            end_message(w);
            refuse_frame(t);
        }
    }
    take_sent(w);
    check_call(w, &w->to_us);
    refuse_kicks(t->queue);
    if (!w->changed && !w->discarded && one_in(w->c, 8)) {
        return_frames(t);
        promise(t->queue->broken != NULL
                    || queue_base(t->queue) == t->queue->next_available,
                "frames that were not sent stay available");
        promise(move_queue(t->queue, &w->memory) == NULL, "a queue can move");
    }
    if (t->queue->broken != NULL) {
        promise(w->spoilt, "a guest that follows the rules breaks nothing");
    }
    else if (!w->spoilt && t->next == t->count) {
        promise(ask_for_kick(t->queue, false)
                    == (w->to_us.next_available != t->queue->next_available),
                "a queue sleeps only if there is nothing to do");
    }
}

/* ---- To the guest ------------------------------------------------------- */

static void
offer_buffers(struct world *w)
{
    /* Some hold a frame of a usual length exactly, or half of it. */
    const size_t sizes[] = {1536, 2048,           65550,
                            4096, w->header + 60, (w->header + 1514) / 2};
    unsigned n = w->scattered ? MAX_RING : choose(w->c, MAX_RING + 1);
    size_t size = sizes[w->scattered ? 0 : choose(w->c, 6)], here;

    if (w->spoilt) {
        forget_offers(&w->to_guest);
    }
    for (; n > 0; n--) {
        here = one_in(w->c, 20) ? w->header + choose(w->c, 40) : size;
        if (offer_buffer(w, &w->to_guest, here, WRITE) == NULL) {
            return;
        }
        w->least = here < w->least ? here : w->least;
    }
}

/* Adds what the guest must get for a frame. */
static void
expect_frame(struct world *w, struct frame f, uint32_t tag)
{
    uint8_t *half;
    size_t length;

    if (tag != 0) {
        memmove(f.bytes + 16, f.bytes + 12, f.length - 12);
        f.bytes[12] = (uint8_t)(tag >> 24);
        f.bytes[13] = (uint8_t)(tag >> 16);
        f.bytes[14] = (uint8_t)(tag >> 8);
        f.bytes[15] = (uint8_t)tag;
        f.length += 4;
        f.header.header_length += f.header.header_length > 0 ? 4 : 0;
        f.header.checksum_start += f.header.flags & VNET_NEEDS_CSUM ? 4 : 0;
    }
    if (is_allowed(w, &f.header, false)) {
        f.header.flags &= has(w, FEATURE_GUEST_CSUM) ? 3 : 0;
        add_frame(&w->received, f);
        return;
    }
    /* It is cut into two. */
    memset(&f.header, 0, sizeof(f.header));
    length = f.length / 2;
    half = malloc(f.length - length);
    promise(half != NULL, "there is memory");
    memcpy(half, f.bytes + length, f.length - length);
    add_frame(&w->received, (struct frame){f.header, f.bytes, length});
    add_frame(&w->received, (struct frame){f.header, half, f.length - length});
}

/* What recvmmsg(2) would do with a message. */
static void
receive_message(struct world *w, size_t i)
{
    static uint8_t bytes[MOST_FRAME + 12];
    struct frame f = make_frame(w, choose_length(w));
    size_t header = w->r.socket_header, n;

    if (header == 0) {
        memset(&f.header, 0, sizeof(f.header));
    }
    memcpy(bytes, &f.header, header);
    memcpy(bytes + header, f.bytes, f.length);
    n = copy_message(w, &w->r.messages[i].msg_hdr, bytes, header + f.length,
                     true);
    promise(n == header + f.length, "a message has room for any frame");
    if (one_in(w->c, 40)) {
        w->r.frames[i].length = choose(w->c, 2) ? 0 : MOST_FRAME + 1;
        free(f.bytes);
        return;
    }
    w->r.frames[i].length = (uint32_t)f.length;
    w->r.frames[i].tag = one_in(w->c, 6) ? 0x81000005 : 0;
    if (w->spoilt) {
        free(f.bytes);
    }
    else {
        expect_frame(w, f, w->r.frames[i].tag);
    }
}

/* Places all that has been received, until the ring is full. */
static void
place(struct world *w)
{
    static const struct offload_header none;
    struct reception *r = &w->r;
    enum placed placed;
    uint8_t *bytes;
    size_t length;

    while ((placed = place_frames(r)) == PLACE_CUT) {
        promise(!is_allowed(w, &r->headers[r->next], false),
                "only what the guest does not take is cut");
        bytes = saved_frame(r, &length);
        while (w->cut < 2) {
            placed = w->cut == 0 ? put_frame(r, &none, bytes, length / 2)
                                 : put_frame(r, &none, bytes + length / 2,
                                             length - length / 2);
            if (placed != PLACE_DONE) {
                break;
            }
            w->cut++;
        }
        if (placed != PLACE_DONE) {
            break;
        }
        w->cut = 0;
        skip_frame(r);
    }
    promise(placed == PLACE_BROKEN ? r->queue->broken != NULL
            : placed == PLACE_DONE ? r->next == r->count
                                   : r->next < r->count,
            "the result says what was done");
    if (placed == PLACE_FULL && !w->spoilt) {
        promise(!ask_for_kick(r->queue, true),
                "a queue with too few buffers waits for more");
    }
    promise(r->queue->published == r->queue->next_used
                && r->queue->next_used == r->queue->next_available,
            "the rest stays available");
}

/* Compares a frame that the guest has got with the next one that must arrive.
   Frames for which there can never be room may be dropped. */
static void
compare_next(struct world *w, const uint8_t *bytes, size_t n, size_t buffers)
{
    size_t most =
        w->least * (has(w, FEATURE_MRG_RXBUF) ? w->to_guest.size : 1);
    struct frame *f;
    bool same = false;

    while (!same) {
        promise(w->received.first < w->received.end,
                "the guest gets frames once");
        f = &w->received.list[w->received.first++];
        f->header.buffer_count = (uint16_t)buffers;
        same = n == w->header + f->length
               && memcmp(bytes, &f->header, w->header) == 0
               && memcmp(bytes + w->header, f->bytes, f->length) == 0;
        free(f->bytes);
        if (!same) {
            promise(w->drops++ < w->r.dropped, "each lost frame is counted");
            promise(w->header + f->length > most,
                    "a frame is dropped only if there is never room for it");
        }
    }
}

/* Takes the frames that the guest has got. */
static void
take_received(struct world *w)
{
    static uint8_t bytes[MOST_FRAME + 100];
    const struct offer *o;
    uint32_t length;
    size_t n, i, buffers;

    while (!w->spoilt && (o = take_used(w, &w->to_guest, &length)) != NULL) {
        promise(length >= w->header, "the first buffer has a header");
        copy_pieces(w, o, 0, bytes, length, false);
        buffers = w->header == 12 ? bytes[10] | (size_t)bytes[11] << 8 : 1;
        n = length;
        for (i = 1; i < buffers; i++) {
            o = take_used(w, &w->to_guest, &length);
            promise(o != NULL, "all buffers of a frame are used at once");
            promise(n + length <= sizeof(bytes), "a frame has one length");
            copy_pieces(w, o, 0, bytes + n, length, false);
            n += length;
        }
        compare_next(w, bytes, n, buffers);
    }
}

/* Forgets all frames that have not arrived. */
static void
drop(struct world *w)
{
    drop_frames(&w->r);
    free_frames(&w->received);
    w->drops = w->r.dropped;
    w->cut = 0;
}

/* Whether all of n received frames are as long as the messages were prepared
   for, and need nothing else. */
static bool
is_steady(const struct world *w, size_t n, size_t expected)
{
    const struct reception *r = &w->r;
    size_t i;

    for (i = 0; i < n; i++) {
        if (w->header + r->frames[i].length != expected
            || r->frames[i].in_guest < r->frames[i].length
            || r->frames[i].tag != 0
            || !is_allowed(w, &r->headers[i], false)) {
            return false;
        }
    }
    return !w->spoilt;
}

static void
receive(struct world *w)
{
    struct reception *r = &w->r;
    uint64_t copied;
    bool steady;
    size_t n, m, i;

    offer_buffers(w);
    maybe_spoil(w);
    place(w);
    take_received(w);
    n = arm_frames(r);
    promise(n <= MAX_BATCH, "a batch has room");
    m = choose(w->c, (unsigned)n + 1);
    for (i = 0; i < m; i++) {
        receive_message(w, i);
    }
    maybe_spoil(w);
    if (n > 0) {
        steady = is_steady(w, m, r->expected);
        copied = r->moved + r->spilled;
        add_frames(r, m);
        place(w);
        promise(!steady || r->moved + r->spilled == copied,
                "frames of one length are not copied");
    }
    take_received(w);
    check_call(w, &w->to_guest);
    refuse_kicks(r->queue);
    if (one_in(w->c, 8)) {
        hold_frames(r);
        promise(move_queue(r->queue, &w->memory) == NULL, "a queue can move");
    }
    if (r->queue->broken != NULL) {
        promise(w->spoilt, "a guest that follows the rules breaks nothing");
        drop(w);
    }
    else if (one_in(w->c, 20)) {
        drop(w);
    }
}

/* ---- The target --------------------------------------------------------- */

static uint64_t
choose_features(struct choices *c)
{
    static const enum feature features[] = {
        FEATURE_CSUM,          FEATURE_GUEST_CSUM, FEATURE_GUEST_TSO4,
        FEATURE_GUEST_TSO6,    FEATURE_GUEST_ECN,  FEATURE_HOST_TSO4,
        FEATURE_HOST_TSO6,     FEATURE_HOST_ECN,   FEATURE_MRG_RXBUF,
        FEATURE_INDIRECT_DESC, FEATURE_EVENT_IDX,  FEATURE_VERSION_1,
        FEATURE_GUEST_USO4,    FEATURE_GUEST_USO6, FEATURE_HOST_USO};
    uint64_t chosen = 0;
    size_t i;

    for (i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        chosen |= (uint64_t)!one_in(c, 4) << features[i];
    }
    return chosen;
}

static void
begin_world(struct world *w, struct choices *c)
{
    static const size_t copied[] = {0, 14, 100, MOST_FRAME};
    static const size_t headers[] = {10, 12, 0};

    memset(w, 0, sizeof(*w));
    w->c = c;
    w->features = choose_features(c);
    w->header =
        has(w, FEATURE_VERSION_1) || has(w, FEATURE_MRG_RXBUF) ? 12 : 10;
    w->usual = choose(c, 7);
    w->scattered = one_in(c, 4);
    w->least = SIZE_MAX / (2 * MAX_RING);
    make_memory(w);
    make_ring(w, &w->to_us, 0);
    make_ring(w, &w->to_guest, 1);
    w->t.queue = &w->to_us.queue;
    w->r.queue = &w->to_guest.queue;
    w->t.capacity = w->r.capacity = MAX_BATCH;
    w->t.copied = copied[choose(c, 4)];
    w->t.socket_header = headers[choose(c, 3)];
    w->r.socket_header = headers[choose(c, 3)];
    promise(open_transmission(&w->t) && open_reception(&w->r),
            "there is memory");
}

static void
end_world(struct world *w)
{
    size_t i;

    close_transmission(&w->t);
    close_reception(&w->r);
    free_frames(&w->sent);
    free_frames(&w->received);
    for (i = 0; i < REGIONS; i++) {
        free(w->memory.regions[i].memory);
    }
}

static void
run(struct choices *c)
{
    static struct world w;
    unsigned step;

    begin_world(&w, c);
    for (step = 0; step < STEPS && (c->state != 0 || c->left > 0); step++) {
        if (choose(c, 2)) {
            transmit(&w);
        }
        else {
            receive(&w);
        }
    }
    end_world(&w);
}

/* ---- What a guest must not do ------------------------------------------- */

enum {
    FAULT_RING = 4,
    FAULT_MEMORY = 1 << 20,
    FAULT_TABLE = 0x10000, /* of indirect descriptors */
    FAULT_BUFFER = 0x20000
};

/* A ring with a mistake. */
struct fault {
    const char *reason;
    uint64_t features;
    bool to_guest;
    uint16_t index, head;
    struct {
        uint64_t address;
        uint32_t length;
        uint16_t flags, next;
    } direct[FAULT_RING], indirect[2];
};

#define TABLES (UINT64_C(1) << FEATURE_INDIRECT_DESC)

static const struct fault faults[] = {
    {"the index of the available ring has jumped", .index = 5},
    {"the index of the available ring has jumped", .index = 65535},
    {"a descriptor has an index beyond its table", .index = 1, .head = 4},
    {"a descriptor has an index beyond its table", .index = 1,
     .direct = {{FAULT_BUFFER, 1, NEXT, 4}}},
    {"a chain of descriptors is a loop", .index = 1,
     .direct = {{FAULT_BUFFER, 1, NEXT, 1}, {FAULT_BUFFER, 1, NEXT, 0}}},
    {"a transmit buffer that is writable", .index = 1,
     .direct = {{FAULT_BUFFER, 1, WRITE, 0}}},
    {"a receive buffer that is not writable", .index = 1, .to_guest = true,
     .direct = {{FAULT_BUFFER, 1, 0, 0}}},
    {"a receive buffer shorter than an offload header", .index = 1,
     .to_guest = true, .direct = {{FAULT_BUFFER, 9, WRITE, 0}}},
    {"a frame shorter than its offload header", .index = 1,
     .direct = {{FAULT_BUFFER, 9, 0, 0}}},
    {"a buffer without bytes", .index = 1,
     .direct = {{FAULT_BUFFER, 0, 0, 0}}},
    {"a buffer is not in guest memory", .index = 1,
     .direct = {{FAULT_MEMORY - 1, 2, 0, 0}}},
    {"a buffer is not in guest memory", .index = 1,
     .direct = {{UINT64_MAX, 2, 0, 0}}},
    {"a chain of 4 GiB or more", .index = 1,
     .direct = {{UINT64_C(1) << 40, UINT32_MAX, NEXT, 1},
                {UINT64_C(1) << 40, 2, 0, 0}}},
    {"an indirect descriptor without INDIRECT_DESC", .index = 1,
     .direct = {{FAULT_TABLE, 16, INDIRECT, 0}}},
    {"an indirect descriptor in an indirect table", TABLES, .index = 1,
     .direct = {{FAULT_TABLE, 16, INDIRECT, 0}},
     .indirect = {{FAULT_TABLE, 16, INDIRECT, 0}}},
    {"an indirect descriptor with a next one", TABLES, .index = 1,
     .direct = {{FAULT_TABLE, 16, INDIRECT | NEXT, 1}}},
    {"an indirect table with a part of a descriptor", TABLES, .index = 1,
     .direct = {{FAULT_TABLE, 17, INDIRECT, 0}}},
    {"an indirect table with a part of a descriptor", TABLES, .index = 1,
     .direct = {{FAULT_TABLE, 0, INDIRECT, 0}}},
    {"an indirect table is not in guest memory", TABLES, .index = 1,
     .direct = {{FAULT_MEMORY - 8, 16, INDIRECT, 0}}},
    {"an indirect table is not in guest memory", TABLES, .index = 1,
     .direct = {{UINT64_MAX - 8, 16, INDIRECT, 0}}},
    {"a chain of descriptors is a loop", TABLES, .index = 1,
     .direct = {{FAULT_TABLE, 32, INDIRECT, 0}},
     .indirect = {{FAULT_BUFFER, 1, NEXT, 1}, {FAULT_BUFFER, 1, NEXT, 0}}},
    {"a chain of more than 1,022 parts", TABLES, .index = 1,
     .direct = {{FAULT_TABLE, 1 << 15, INDIRECT, 0}},
     .indirect = {{FAULT_BUFFER, 1, NEXT, 0}}},
};

/* A queue of FAULT_RING entries at the start of guest memory. */
static const struct queue_setup fault_setup = {
    .size = FAULT_RING, .available = 1024, .used = 2048};

static void
check_fault(const struct guest_memory *memory, const struct fault *f)
{
    struct queue_setup setup = fault_setup;
    uint8_t *m = memory->regions[0].memory;
    struct virtqueue q;
    struct transmission t = {.queue = &q, .capacity = MAX_BATCH};
    struct reception r = {.queue = &q, .capacity = MAX_BATCH};

    memset(m, 0, FAULT_MEMORY);
    memcpy(m, f->direct, sizeof(f->direct));
    memcpy(m + FAULT_TABLE, f->indirect, sizeof(f->indirect));
    memcpy(m + setup.available + 2, &f->index, 2);
    memcpy(m + setup.available + 4, &f->head, 2);
    setup.features = f->features;
    promise(start_queue(&q, memory, &setup) == NULL, "the queue starts");
    promise(open_transmission(&t) && open_reception(&r), "there is memory");
    promise((f->to_guest ? arm_frames(&r) : read_frames(&t)) == 0,
            "nothing is taken from a broken ring");
    promise(q.broken != NULL && strcmp(q.broken, f->reason) == 0, f->reason);
    promise(read_frames(&t) == 0 && arm_frames(&r) == 0
                && place_frames(&r) == PLACE_DONE && !has_entries(&q)
                && !ask_for_kick(&q, false) && !wants_call(&q)
                && m[setup.used + 2] == 0,
            "a broken ring stays as it is");
    close_transmission(&t);
    close_reception(&r);
}

/* Rings that must not start. */
static void
check_setups(const struct guest_memory *memory)
{
    static const struct queue_setup bad[] = {
        {.size = 0, .available = 1024, .used = 2048},
        {.size = 3, .available = 1024, .used = 2048},
        {.size = 65536, .available = 1 << 21, .used = 1 << 22},
        {.size = 4, .base = 65536, .available = 1024, .used = 2048},
        {.size = 4, .descriptors = 8, .available = 1024, .used = 2048},
        {.size = 4, .available = 1025, .used = 2048},
        {.size = 4, .available = 1024, .used = 2050},
        {.size = 4, .available = 1024, .used = FAULT_MEMORY - 36},
        {.size = 4, .available = 1024, .used = UINT64_MAX - 3},
        {.size = 32768, .descriptors = FAULT_MEMORY - 4096, .available = 0},
    };
    struct virtqueue q;
    size_t i;

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        promise(start_queue(&q, memory, &bad[i]) != NULL,
                "a ring that is not valid does not start");
    }
}

/* Where a queue goes on if the used ring has another index than the front end
   has said. */
static void
check_bases(const struct guest_memory *memory)
{
    static const uint16_t cases[][3] = {
        {7, 7, 7}, {7, 3, 3}, {7, 2, 7}, {2, 7, 2}, {1, 65535, 65535}};
    struct queue_setup setup = fault_setup;
    struct virtqueue q;
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        setup.base = cases[i][0];
        memcpy(memory->regions[0].memory + setup.used + 2, &cases[i][1], 2);
        promise(start_queue(&q, memory, &setup) == NULL, "the queue starts");
        promise(queue_base(&q) == cases[i][2], "the queue goes on");
    }
}

static void
check_regions(void)
{
    struct guest_region r = {.size = 4096};
    struct guest_memory m = {.count = 2};

    promise(check_region(&r, 0, 4096) == NULL, "a region can be a file");
    promise(check_region(&r, 1, 4096) != NULL, "a region is in its file");
    promise(check_region(&r, UINT64_MAX, 4096) != NULL, "no overflow");
    r.guest_address = UINT64_MAX - 4094;
    promise(check_region(&r, 0, 4096) != NULL, "no overflow");
    r = (struct guest_region){.user_address = UINT64_MAX, .size = 4096};
    promise(check_region(&r, 0, 4096) != NULL, "no overflow");
    r.size = 0;
    promise(check_region(&r, 0, 4096) != NULL, "a region has bytes");
    m.regions[0] = (struct guest_region){0, 0, 4096, NULL};
    m.regions[1] = (struct guest_region){4096, 4096, 4096, NULL};
    promise(check_memory(&m) == NULL, "regions can be neighbours");
    m.regions[1].user_address = 4095;
    promise(check_memory(&m) != NULL, "user addresses do not overlap");
    m.regions[1] = (struct guest_region){4095, 4096, 4096, NULL};
    promise(check_memory(&m) != NULL, "guest addresses do not overlap");
    m.count = MOST_REGIONS + 1;
    promise(check_memory(&m) != NULL, "a table has at most 8 regions");
}

/* An index that goes back while frames are in use. */
static void
check_index_back(const struct guest_memory *memory)
{
    static const struct fault frames = {
        "the index of the available ring has jumped", .index = 3,
        .direct = {{FAULT_BUFFER, 100, 0, 0}}};
    uint8_t *m = memory->regions[0].memory;
    struct virtqueue q;
    struct transmission t = {.queue = &q, .capacity = 3};

    memset(m, 0, FAULT_MEMORY);
    memcpy(m, frames.direct, sizeof(frames.direct));
    memcpy(m + fault_setup.available + 2, &frames.index, 2);
    promise(start_queue(&q, memory, &fault_setup) == NULL
                && open_transmission(&t),
            "the queue starts");
    promise(read_frames(&t) == 3, "three frames are read");
    m[fault_setup.available + 2] = 2;
    promise(!has_entries(&q) && q.broken != NULL
                && strcmp(q.broken, frames.reason) == 0,
            "an index does not go back");
    finish_frames(&t, 3);
    promise(m[fault_setup.used + 2] == 3, "what was sent is used");
    close_transmission(&t);
}

static void
check_mistakes(void)
{
    /* The second region has an address only. Nothing is read from it. */
    struct guest_memory memory = {
        .count = 2,
        .regions = {{0, 0, FAULT_MEMORY, calloc(1, FAULT_MEMORY)},
                    {UINT64_C(1) << 40, UINT64_C(1) << 40, UINT64_C(1) << 33,
                     (unsigned char *)1}}};
    size_t i;

    promise(memory.regions[0].memory != NULL, "there is memory");
    check_regions();
    check_setups(&memory);
    check_bases(&memory);
    check_index_back(&memory);
    for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        check_fault(&memory, &faults[i]);
    }
    free(memory.regions[0].memory);
}

#ifdef RANDOM
int
main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t end = seed + (argc > 2 ? strtoull(argv[2], NULL, 10) : 1);

    check_mistakes();
    for (; seed < end; seed++) {
        struct choices c = {.state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1};

        fprintf(stderr, "\rseed: %llu", (unsigned long long)seed);
        run(&c);
    }
    fprintf(stderr, "\n");
    return 0;
}
#else
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    check_mistakes();
    return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct choices c = {.at = data, .left = size};

    run(&c);
    return 0;
}
#endif
