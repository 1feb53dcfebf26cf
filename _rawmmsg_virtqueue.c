/* Reads and writes the rings of a guest: _rawmmsg_virtqueue.h says what for,
   and which rules hold. */

#define _GNU_SOURCE /* struct mmsghdr */

#include <endian.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <linux/if_ether.h>

#include "_rawmmsg_virtqueue.h"

/* ---- Constants ---------------------------------------------------------- */

/* The parts of a split virtqueue: virtio 1.2, sections 2.7.5 to 2.7.8. */
enum {
    DESCRIPTOR_SIZE = 16,
    DESCRIPTOR_NEXT = 1,
    DESCRIPTOR_WRITE = 2,
    DESCRIPTOR_INDIRECT = 4,

    AVAILABLE_FLAGS = 0,
    AVAILABLE_INDEX = 2,
    AVAILABLE_RING = 4,
    NO_INTERRUPT = 1,

    USED_FLAGS = 0,
    USED_INDEX = 2,
    USED_RING = 4,
    USED_ENTRY = 8,
    NO_NOTIFY = 1
};

/* The sizes of an offload header in guest memory. */
#define SHORT_HEADER offsetof(struct offload_header, buffer_count)
#define LONG_HEADER sizeof(struct offload_header)

/* Memory for the parts of all chains of a batch, and for its receive buffers.
   A chain with as many parts as allowed fits several times. */
#define POOL (8 * (MOST_PARTS + 2))

/* Memory of ours for a frame, with room for a tag before it. The tag keeps the
   frame aligned as a guest has it. */
#define SAVED_SIZE (MOST_FRAME + TAG_SIZE)

/* VIRTIO_NET_HDR_F_DATA_VALID: the checksum is verified. */
#define VNET_DATA_VALID 2

/* A descriptor, as it was when it was loaded. */
struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

/* A chain of descriptors. Its parts are the caller's. */
struct chain {
    uint16_t head;
    size_t part_count;
    uint64_t length;
};

/* A chain of a transmission. */
struct sent_chain {
    uint16_t head;
    uint64_t *dropped; /* the counter of frames that are dropped for the same
                          reason; NULL: it has a message. Counted when the
                          chain is used: if it is returned, it is read
                          again. */
};

/* A chain of a reception. */
struct guest_buffer {
    uint16_t head;
    uint32_t length;
    size_t first; /* its first part */
};

/* A place in the parts of several buffers: bytes are counted through all of
   them. The parts must have as many bytes as are used. */
struct stream {
    const struct iovec *part;
    size_t offset; /* in this part */
};

/* ---- Guest memory: loads and stores ------------------------------------- */

typedef uint64_t unaligned_64 __attribute__((aligned(1), may_alias));

static uint64_t
load_64(const unsigned char *p)
{
    return le64toh(*(const volatile unaligned_64 *)p);
}

/* Rings are aligned (find_ring()), so these are single loads and stores. */

static uint16_t
load_ring_16(const unsigned char *p, int order)
{
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, order));
}

static void
store_ring_16(unsigned char *p, uint16_t value, int order)
{
    __atomic_store_n((uint16_t *)(void *)p, htole16(value), order);
}

static void
store_ring_32(unsigned char *p, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)p, htole32(value), __ATOMIC_RELAXED);
}

/* Copies from or to guest memory. The compiler must not load what it has
   copied a second time from there. */
static void
copy_once(void *to, const void *from, size_t n)
{
    memmove(to, from, n);
    __asm__ volatile("" ::: "memory");
}

/* ---- The memory table --------------------------------------------------- */

static bool
exceeds(uint64_t start, uint64_t size)
{
    return size > UINT64_MAX - start;
}

static bool
overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b ? b - a < a_size : a - b < b_size;
}

const char *
check_region(const struct guest_region *region, uint64_t offset,
             uint64_t file_size)
{
    if (region->size == 0) {
        return "a memory region is empty";
    }
    if (exceeds(region->guest_address, region->size)
        || exceeds(region->user_address, region->size)) {
        return "a memory region ends beyond the largest address";
    }
    if (exceeds(offset, region->size) || offset + region->size > file_size) {
        return "a memory region ends beyond its file";
    }
    if (offset + region->size > SIZE_MAX / 2) {
        return "a memory region is too large to be mapped";
    }
    return NULL;
}

const char *
check_memory(const struct guest_memory *memory)
{
    const struct guest_region *a, *b;
    size_t i, k;

    if (memory->count == 0 || memory->count > MOST_REGIONS) {
        return "a memory table must have 1 to 8 regions";
    }
    for (i = 0; i < memory->count; i++) {
        for (k = 0; k < i; k++) {
            a = &memory->regions[i];
            b = &memory->regions[k];
            if (overlap(a->guest_address, a->size, b->guest_address, b->size)
                || overlap(a->user_address, a->size, b->user_address,
                           b->size)) {
                return "memory regions overlap";
            }
        }
    }
    return NULL;
}

size_t
find_parts(const struct guest_memory *memory, uint64_t guest_address,
           uint64_t length, struct iovec *parts, size_t room)
{
    const struct guest_region *r, *end = memory->regions + memory->count;
    uint64_t offset, n;
    size_t count = 0;

    while (length > 0) {
        for (r = memory->regions; r < end; r++) {
            if (guest_address >= r->guest_address
                && guest_address - r->guest_address < r->size) {
                break;
            }
        }
        if (r == end) {
            return 0;
        }
        if (count == room) {
            return room + 1;
        }
        offset = guest_address - r->guest_address;
        n = r->size - offset < length ? r->size - offset : length;
        parts[count].iov_base = r->memory + offset;
        parts[count].iov_len = (size_t)n;
        count++;
        length -= n;
        /* No overflow: a region ends at the largest address or before. */
        guest_address += n;
    }
    return count;
}

/* Finds a ring by its user address. It must lie in one region. NULL if it does
   not, or if it is not aligned. */
static unsigned char *
find_ring(const struct guest_memory *memory, uint64_t address, uint64_t size,
          uintptr_t alignment)
{
    const struct guest_region *r, *end = memory->regions + memory->count;
    unsigned char *start;

    for (r = memory->regions; r < end; r++) {
        if (address >= r->user_address && address - r->user_address < r->size
            && size <= r->size - (address - r->user_address)) {
            start = r->memory + (address - r->user_address);
            return (uintptr_t)start % alignment == 0 ? start : NULL;
        }
    }
    return NULL;
}

/* ---- Queues ------------------------------------------------------------- */

static bool
has_feature(const struct virtqueue *q, enum feature feature)
{
    return q->setup.features >> feature & 1;
}

/* The size of an offload header in the memory of this guest (virtio 1.2,
   section 5.1.6.1). */
static size_t
guest_header(const struct virtqueue *q)
{
    return has_feature(q, FEATURE_VERSION_1)
                   || has_feature(q, FEATURE_MRG_RXBUF)
               ? LONG_HEADER
               : SHORT_HEADER;
}

static void
break_queue(struct virtqueue *q, const char *reason)
{
    if (q->broken == NULL) {
        q->broken = reason;
    }
}

const char *
move_queue(struct virtqueue *q, const struct guest_memory *memory)
{
    uint64_t size = q->setup.size;
    unsigned char *descriptors, *available, *used;

    /* A ring ends with the event index, whether it is used or not. */
    descriptors =
        find_ring(memory, q->setup.descriptors, size * DESCRIPTOR_SIZE, 16);
    available = find_ring(memory, q->setup.available,
                          AVAILABLE_RING + size * 2 + 2, 2);
    used =
        find_ring(memory, q->setup.used, USED_RING + size * USED_ENTRY + 2, 4);
    if (descriptors == NULL || available == NULL || used == NULL) {
        return "a ring is not aligned, or not in one region of the memory "
               "table";
    }
    q->memory = memory;
    q->descriptors = descriptors;
    q->available = available;
    q->used = used;
    return NULL;
}

const char *
start_queue(struct virtqueue *q, const struct guest_memory *memory,
            const struct queue_setup *setup)
{
    const char *reason;
    uint16_t used;

    memset(q, 0, sizeof(*q));
    q->setup = *setup;
    if (setup->size == 0 || setup->size > MOST_ENTRIES
        || (setup->size & (setup->size - 1)) != 0) {
        return "the size of a ring is not a power of two up to 32,768";
    }
    if (setup->base > UINT16_MAX) {
        return "the base of a ring is not a number of 16 bits";
    }
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    /* The rings and headers of such a guest have its own byte order. */
    if (!has_feature(q, FEATURE_VERSION_1)) {
        return "a guest without VERSION_1 needs a little-endian machine";
    }
#endif
    reason = move_queue(q, memory);
    if (reason != NULL) {
        return reason;
    }
    /* The front end may have lost the index, or a back end may have ended with
       entries in use. DPDK and libvhost-user go on from the used ring, too. */
    used = load_ring_16(q->used + USED_INDEX, __ATOMIC_RELAXED);
    if ((uint16_t)(setup->base - used) > setup->size) {
        used = (uint16_t)setup->base;
    }
    q->next_available = q->seen_available = used;
    q->next_used = q->published = q->called = used;
    q->must_call = true;
    return NULL;
}

uint16_t
queue_base(const struct virtqueue *q)
{
    return q->next_used;
}

bool
has_entries(struct virtqueue *q)
{
    uint16_t seen_before = q->seen_available - q->next_used, seen;

    if (q->broken != NULL) {
        return false;
    }
    /* Acquire: the entries, descriptors and buffers are loaded later. */
    q->seen_available =
        load_ring_16(q->available + AVAILABLE_INDEX, __ATOMIC_ACQUIRE);
    seen = q->seen_available - q->next_used;
    /* Going back is a jump, too: otherwise a guest could pretend for ever that
       it has added entries. */
    if (seen > q->setup.size || seen < seen_before) {
        break_queue(q, "the index of the available ring has jumped");
        return false;
    }
    return q->seen_available != q->next_available;
}

bool
ask_for_kick(struct virtqueue *q, bool more)
{
    uint16_t seen = q->seen_available, index;

    if (q->broken != NULL) {
        return false;
    }
    if (has_feature(q, FEATURE_EVENT_IDX)) {
        store_ring_16(q->used + USED_RING + q->setup.size * USED_ENTRY, seen,
                      __ATOMIC_RELAXED);
    }
    else {
        store_ring_16(q->used + USED_FLAGS, 0, __ATOMIC_RELAXED);
    }
    /* The guest stores its index and then loads what we have stored; we do it
       the other way round. With a full barrier in both, one of the two sees
       the other's store. */
    atomic_thread_fence(memory_order_seq_cst);
    index = load_ring_16(q->available + AVAILABLE_INDEX, __ATOMIC_ACQUIRE);
    return index != seen || (!more && index != q->next_available);
}

void
refuse_kicks(struct virtqueue *q)
{
    /* With EVENT_IDX, the last event index is behind, which is enough. */
    if (q->broken == NULL && !has_feature(q, FEATURE_EVENT_IDX)) {
        store_ring_16(q->used + USED_FLAGS, NO_NOTIFY, __ATOMIC_RELAXED);
    }
}

bool
wants_call(struct virtqueue *q)
{
    uint16_t from = q->called, event;
    bool first = q->must_call;

    if (q->published == from) {
        return false;
    }
    q->called = q->published;
    q->must_call = false;
    /* As in ask_for_kick(): the index is stored, then the flags are loaded. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!has_feature(q, FEATURE_EVENT_IDX)) {
        return !(load_ring_16(q->available + AVAILABLE_FLAGS, __ATOMIC_RELAXED)
                 & NO_INTERRUPT);
    }
    event = load_ring_16(q->available + AVAILABLE_RING + q->setup.size * 2,
                         __ATOMIC_RELAXED);
    /* Whether entry `event` is one of those since the last call. */
    return first
           || (uint16_t)(q->published - event - 1)
                  < (uint16_t)(q->published - from);
}

/* Writes an entry of the used ring. The guest does not see it before
   publish(). */
static void
put_used(struct virtqueue *q, uint16_t head, uint32_t length)
{
    unsigned char *entry =
        q->used + USED_RING
        + (size_t)(q->next_used & (q->setup.size - 1)) * USED_ENTRY;

    store_ring_32(entry, head);
    store_ring_32(entry + 4, length);
    q->next_used++;
}

static void
publish(struct virtqueue *q)
{
    if (q->published != q->next_used) {
        store_ring_16(q->used + USED_INDEX, q->next_used, __ATOMIC_RELEASE);
        q->published = q->next_used;
    }
}

/* ---- Chains ------------------------------------------------------------- */

/* Loads the two words of a descriptor, each once. */
static struct descriptor
parse_descriptor(const unsigned char *p)
{
    uint64_t rest = load_64(p + 8);

    return (struct descriptor){
        .address = load_64(p),
        .length = (uint32_t)rest,
        .flags = (uint16_t)(rest >> 32),
        .next = (uint16_t)(rest >> 48),
    };
}

/* Loads a descriptor of an indirect table, which may lie anywhere. Returns
   false if it is not in guest memory. */
static bool
load_descriptor(const struct virtqueue *q, uint64_t address,
                struct descriptor *d)
{
    unsigned char copy[DESCRIPTOR_SIZE];
    struct iovec parts[DESCRIPTOR_SIZE];
    const unsigned char *p = copy;
    size_t count, i, at = 0;

    count = find_parts(q->memory, address, DESCRIPTOR_SIZE, parts,
                       DESCRIPTOR_SIZE);
    if (count == 0 || count > DESCRIPTOR_SIZE) {
        return false;
    }
    if (count == 1) {
        p = parts[0].iov_base;
    }
    else {
        for (i = 0; i < count; i++) {
            copy_once(copy + at, parts[i].iov_base, parts[i].iov_len);
            at += parts[i].iov_len;
        }
    }
    *d = parse_descriptor(p);
    return true;
}

/* A table of descriptors: that of the queue, or an indirect one. */
struct table {
    uint64_t address; /* of an indirect one */
    uint32_t count;
    bool indirect;
};

/* Loads descriptor i of a table. NULL, or why it cannot. */
static const char *
load_from_table(const struct virtqueue *q, const struct table *table,
                uint16_t i, struct descriptor *d)
{
    if (i >= table->count) {
        return "a descriptor has an index beyond its table";
    }
    if (table->indirect) {
        if (!load_descriptor(q, table->address + (uint64_t)i * DESCRIPTOR_SIZE,
                             d)) {
            return "an indirect table is not in guest memory";
        }
        return NULL;
    }
    *d = parse_descriptor(q->descriptors + (size_t)i * DESCRIPTOR_SIZE);
    return NULL;
}

/* Goes on with an indirect table. NULL, or why it cannot. */
static const char *
enter_table(const struct virtqueue *q, struct table *table,
            const struct descriptor *d)
{
    if (!has_feature(q, FEATURE_INDIRECT_DESC)) {
        return "an indirect descriptor without INDIRECT_DESC";
    }
    if (table->indirect) {
        return "an indirect descriptor in an indirect table";
    }
    if (d->flags & DESCRIPTOR_NEXT) {
        return "an indirect descriptor with a next one";
    }
    if (d->length == 0 || d->length % DESCRIPTOR_SIZE != 0) {
        return "an indirect table with a part of a descriptor";
    }
    if (exceeds(d->address, d->length)) {
        return "an indirect table is not in guest memory";
    }
    table->address = d->address;
    table->count = d->length / DESCRIPTOR_SIZE;
    table->indirect = true;
    return NULL;
}

/* Adds the buffer of a descriptor to a chain. NULL, or why it cannot. */
static const char *
add_buffer(const struct virtqueue *q, struct chain *chain, struct iovec *parts,
           const struct descriptor *d, bool writable)
{
    size_t room = MOST_PARTS - chain->part_count, count;

    if (!(d->flags & DESCRIPTOR_WRITE) != !writable) {
        return writable ? "a receive buffer that is not writable"
                        : "a transmit buffer that is writable";
    }
    if (d->length == 0) {
        return "a buffer without bytes";
    }
    count = find_parts(q->memory, d->address, d->length,
                       parts + chain->part_count, room);
    if (count == 0) {
        return "a buffer is not in guest memory";
    }
    if (count > room) {
        return "a chain of more than 1,022 parts";
    }
    chain->part_count += count;
    chain->length += d->length;
    if (chain->length > UINT32_MAX) {
        return "a chain of 4 GiB or more";
    }
    return NULL;
}

/* Reads a chain from its head. `parts` has room for MOST_PARTS. NULL, or why
   it cannot. Each descriptor adds a part or ends the chain, so a loop ends at
   MOST_PARTS, too. */
static const char *
read_chain(const struct virtqueue *q, struct chain *chain, struct iovec *parts,
           bool writable)
{
    struct table table = {.count = q->setup.size};
    uint16_t i = chain->head;
    struct descriptor d;
    const char *reason;
    uint32_t steps = 0;

    for (;;) {
        reason = load_from_table(q, &table, i, &d);
        if (reason == NULL && steps++ == table.count) {
            reason = "a chain of descriptors is a loop";
        }
        if (reason == NULL && (d.flags & DESCRIPTOR_INDIRECT)) {
            reason = enter_table(q, &table, &d);
            if (reason == NULL) {
                i = 0;
                steps = 0;
                continue;
            }
        }
        if (reason == NULL) {
            reason = add_buffer(q, chain, parts, &d, writable);
        }
        if (reason != NULL || !(d.flags & DESCRIPTOR_NEXT)) {
            return reason;
        }
        i = d.next;
    }
}

/* Takes the next chain of the available ring. `parts` has room for MOST_PARTS.
   Returns false if there is none, or if the queue is broken. */
static bool
take_chain(struct virtqueue *q, struct chain *chain, struct iovec *parts,
           bool writable)
{
    const char *reason;

    if (q->broken != NULL
        || (q->next_available == q->seen_available && !has_entries(q))) {
        return false;
    }
    *chain = (struct chain){
        .head = load_ring_16(
            q->available + AVAILABLE_RING
                + (size_t)(q->next_available & (q->setup.size - 1)) * 2,
            __ATOMIC_RELAXED),
    };
    reason = read_chain(q, chain, parts, writable);
    if (reason != NULL) {
        break_queue(q, reason);
        return false;
    }
    q->next_available++;
    return true;
}

/* ---- Streams ------------------------------------------------------------ */

/* How many bytes follow without a gap, at most n. */
static size_t
bytes_here(struct stream *s, size_t n)
{
    size_t left;

    while (s->offset == s->part->iov_len) {
        s->part++;
        s->offset = 0;
    }
    left = s->part->iov_len - s->offset;
    return left < n ? left : n;
}

static unsigned char *
address_of(const struct stream *s)
{
    return (unsigned char *)s->part->iov_base + s->offset;
}

static void
skip_bytes(struct stream *s, size_t n)
{
    size_t here;

    for (; n > 0; n -= here) {
        here = bytes_here(s, n);
        s->offset += here;
    }
}

static void
read_bytes(struct stream *s, unsigned char *to, size_t n)
{
    size_t here;

    for (; n > 0; n -= here, to += here) {
        here = bytes_here(s, n);
        copy_once(to, address_of(s), here);
        s->offset += here;
    }
}

static void
write_bytes(struct stream *s, const unsigned char *from, size_t n)
{
    size_t here;

    for (; n > 0; n -= here, from += here) {
        here = bytes_here(s, n);
        copy_once(address_of(s), from, here);
        s->offset += here;
    }
}

/* Copies from a stream to another, or to an earlier place of the same one. */
static void
move_bytes(struct stream *to, struct stream *from, size_t n)
{
    size_t here;

    for (; n > 0; n -= here) {
        here = bytes_here(from, bytes_here(to, n));
        copy_once(address_of(to), address_of(from), here);
        to->offset += here;
        from->offset += here;
    }
}

/* Copies what is left of a stream, n bytes, to parts of its own. Returns how
   many parts. */
static size_t
slice_stream(struct stream s, size_t n, struct iovec *parts)
{
    size_t count = 0, here;

    for (; n > 0; n -= here) {
        here = bytes_here(&s, n);
        parts[count++] = (struct iovec){address_of(&s), here};
        s.offset += here;
    }
    return count;
}

/* ---- Offload headers ---------------------------------------------------- */

/* Converts a header between the guest's byte order, little-endian, and ours,
   which packet sockets use. */
static void
convert_header(struct offload_header *h)
{
    h->header_length = le16toh(h->header_length);
    h->gso_size = le16toh(h->gso_size);
    h->checksum_start = le16toh(h->checksum_start);
    h->checksum_offset = le16toh(h->checksum_offset);
    h->buffer_count = le16toh(h->buffer_count);
}

/* Whether a guest has negotiated what the header asks for (virtio 1.2, section
   5.1.6.2: driver requirements). Clears the flags that are for received frames
   only. */
static bool
may_send(const struct virtqueue *q, struct offload_header *h)
{
    h->flags &= VNET_NEEDS_CSUM;
    h->buffer_count = 0;
    if (h->flags != 0 && !has_feature(q, FEATURE_CSUM)) {
        return false;
    }
    switch (h->gso_type) {
    case GSO_NONE:
        return true;
    case GSO_TCPV4 | GSO_ECN:
        return has_feature(q, FEATURE_HOST_TSO4)
               && has_feature(q, FEATURE_HOST_ECN);
    case GSO_TCPV4:
        return has_feature(q, FEATURE_HOST_TSO4);
    case GSO_TCPV6 | GSO_ECN:
        return has_feature(q, FEATURE_HOST_TSO6)
               && has_feature(q, FEATURE_HOST_ECN);
    case GSO_TCPV6:
        return has_feature(q, FEATURE_HOST_TSO6);
    case GSO_UDP_L4:
        return has_feature(q, FEATURE_HOST_USO);
    default:
        return false;
    }
}

bool
may_receive(const struct virtqueue *q, const struct offload_header *h)
{
    if ((h->flags & VNET_NEEDS_CSUM) && !has_feature(q, FEATURE_GUEST_CSUM)) {
        return false;
    }
    switch (h->gso_type) {
    case GSO_NONE:
        return true;
    case GSO_TCPV4 | GSO_ECN:
        return has_feature(q, FEATURE_GUEST_TSO4)
               && has_feature(q, FEATURE_GUEST_ECN);
    case GSO_TCPV4:
        return has_feature(q, FEATURE_GUEST_TSO4);
    case GSO_TCPV6 | GSO_ECN:
        return has_feature(q, FEATURE_GUEST_TSO6)
               && has_feature(q, FEATURE_GUEST_ECN);
    case GSO_TCPV6:
        return has_feature(q, FEATURE_GUEST_TSO6);
    case GSO_UDP_L4:
        /* The header does not say which version of IP the frame has. */
        return has_feature(q, FEATURE_GUEST_USO4)
               && has_feature(q, FEATURE_GUEST_USO6);
    default:
        return false;
    }
}

/* ---- From the guest ----------------------------------------------------- */

/* Returns where the next `size` bytes of a block are. If there is no block
   yet, only counts them. */
static void *
carve(unsigned char *block, size_t *at, size_t size)
{
    size_t start = *at;

    *at += (size + 15) / 16 * 16;
    return block == NULL ? NULL : block + start;
}

/* Lays out the block. Returns how many bytes it needs. */
static size_t
lay_out_transmission(struct transmission *t)
{
    size_t n = t->capacity, at = 0;

    t->messages = carve(t->block, &at, n * sizeof(*t->messages));
    t->parts = carve(t->block, &at, (POOL + 2 * n) * sizeof(*t->parts));
    t->headers = carve(t->block, &at, n * sizeof(*t->headers));
    t->chains = carve(t->block, &at, n * sizeof(*t->chains));
    t->lengths = carve(t->block, &at, n * sizeof(*t->lengths));
    t->copies = carve(t->block, &at, n * t->copied);
    return at;
}

bool
open_transmission(struct transmission *t)
{
    t->block = NULL;
    t->block = calloc(1, lay_out_transmission(t));
    if (t->block == NULL) {
        return false;
    }
    lay_out_transmission(t);
    return true;
}

void
close_transmission(struct transmission *t)
{
    free(t->block);
    t->block = NULL;
}

/* Uses chains in order: those with a message up to n of them, and those
   without one that are not behind another message. */
static void
use_chains(struct transmission *t, size_t n)
{
    const struct sent_chain *c;

    for (; t->next_chain < t->chain_count; t->next_chain++) {
        c = &t->chains[t->next_chain];
        if (c->dropped != NULL) {
            (*c->dropped)++;
        }
        else if (n-- == 0) {
            break;
        }
        else {
            t->next++;
        }
        put_used(t->queue, c->head, 0);
    }
    publish(t->queue);
}

/* Prepares message t->count for a chain whose header has been read, up to `s`.
   Its parts begin at `parts`; two elements before them are free. */
static void
prepare_message(struct transmission *t, struct iovec *parts, struct stream s,
                size_t length)
{
    size_t i = t->count++;
    size_t copied = length < t->copied ? length : t->copied;
    unsigned char *copy = t->copies + i * t->copied;
    struct msghdr *header = &t->messages[i].msg_hdr;
    size_t rest = length - copied;
    struct iovec *first;

    read_bytes(&s, copy, copied);
    if (rest > 0) {
        bytes_here(&s, rest);
    }
    /* The rest stays where it is; its parts are those of the chain. Ours go
       before them, into elements that are not needed any more. */
    first = parts + (s.part - parts);
    if (rest > 0) {
        first->iov_base = address_of(&s);
        first->iov_len -= s.offset;
    }
    t->lengths[i] = (uint32_t)length;
    header->msg_iov = first;
    header->msg_iovlen = 0;
    if (copied > 0) {
        *--header->msg_iov = (struct iovec){copy, copied};
    }
    if (t->socket_header > 0) {
        *--header->msg_iov = (struct iovec){&t->headers[i], t->socket_header};
    }
    header->msg_iovlen = (size_t)(first - header->msg_iov);
    while (rest > 0) {
        rest -= first->iov_len;
        first++;
        header->msg_iovlen++;
    }
}

/* Copies the header of a chain, and prepares a message unless the frame must
   not be sent. Returns false if the queue is broken. */
static bool
read_frame(struct transmission *t, const struct chain *chain,
           struct iovec *parts)
{
    struct virtqueue *q = t->queue;
    struct offload_header *h = &t->headers[t->count];
    size_t header = guest_header(q);
    struct stream s = {parts, 0};
    struct sent_chain *c;
    uint64_t length;

    if (chain->length < header) {
        break_queue(q, "a frame shorter than its offload header");
        return false;
    }
    length = chain->length - header;
    memset(h, 0, sizeof(*h));
    read_bytes(&s, (unsigned char *)h, header);
    convert_header(h);
    c = &t->chains[t->chain_count];
    *c = (struct sent_chain){.head = chain->head};
    if (length > MOST_FRAME) {
        c->dropped = &t->too_long;
    }
    else if (length < ETH_HLEN || !may_send(q, h)) {
        c->dropped = &t->malformed;
    }
    else {
        prepare_message(t, parts, s, (size_t)length);
    }
    t->chain_count++;
    return true;
}

size_t
read_frames(struct transmission *t)
{
    size_t at = 0;
    struct chain chain;
    struct iovec *parts;

    if (t->next_chain < t->chain_count) {
        return t->count - t->next;
    }
    t->count = t->next = t->chain_count = t->next_chain = 0;
    while (t->chain_count < t->capacity && at + MOST_PARTS <= POOL) {
        parts = t->parts + at + 2 * (t->chain_count + 1);
        if (!take_chain(t->queue, &chain, parts, false)
            || !read_frame(t, &chain, parts)) {
            break;
        }
        at += chain.part_count;
    }
    use_chains(t, 0);
    return t->count;
}

void
discard_frames(struct transmission *t, const bool *unwanted)
{
    size_t from = t->next, to = t->next, i;

    for (i = t->next_chain; i < t->chain_count; i++) {
        if (t->chains[i].dropped != NULL) {
            continue;
        }
        if (unwanted[from - t->next]) {
            t->chains[i].dropped = &t->discarded;
        }
        else {
            t->messages[to] = t->messages[from];
            t->lengths[to] = t->lengths[from];
            to++;
        }
        from++;
    }
    t->count = to;
    use_chains(t, 0);
}

void
finish_frames(struct transmission *t, size_t n)
{
    use_chains(t, n);
}

void
refuse_frame(struct transmission *t)
{
    t->refused_sends++;
    use_chains(t, 1);
}

void
return_frames(struct transmission *t)
{
    t->queue->next_available -= (uint16_t)(t->chain_count - t->next_chain);
    t->count = t->next = t->chain_count = t->next_chain = 0;
}

/* ---- To the guest: buffers ---------------------------------------------- */

static size_t
lay_out_reception(struct reception *r)
{
    size_t n = r->capacity, at = 0;

    r->messages = carve(r->block, &at, n * sizeof(*r->messages));
    r->message_parts =
        carve(r->block, &at, (POOL + 2 * n) * sizeof(*r->message_parts));
    r->parts = carve(r->block, &at, POOL * sizeof(*r->parts));
    r->buffers = carve(r->block, &at, POOL * sizeof(*r->buffers));
    r->frames = carve(r->block, &at, n * sizeof(*r->frames));
    r->headers = carve(r->block, &at, n * sizeof(*r->headers));
    r->saved = carve(r->block, &at, n * SAVED_SIZE);
    return at;
}

bool
open_reception(struct reception *r)
{
    r->block = NULL;
    r->block = calloc(1, lay_out_reception(r));
    if (r->block == NULL) {
        return false;
    }
    lay_out_reception(r);
    return true;
}

void
close_reception(struct reception *r)
{
    free(r->block);
    r->block = NULL;
}

/* Takes another buffer from the ring. Returns false if there is none, if it
   does not fit into the pool, or if the queue is broken. */
static bool
take_buffer(struct reception *r)
{
    struct virtqueue *q = r->queue;
    struct chain chain;

    if (r->part_count + MOST_PARTS > POOL
        || !take_chain(q, &chain, r->parts + r->part_count, true)) {
        return false;
    }
    if (chain.length < guest_header(q)) {
        q->next_available--;
        break_queue(q, "a receive buffer shorter than an offload header");
        return false;
    }
    r->buffers[r->buffer_count++] = (struct guest_buffer){
        .head = chain.head,
        .length = (uint32_t)chain.length,
        .first = r->part_count,
    };
    r->part_count += chain.part_count;
    return true;
}

/* Gives back all buffers but the first n. */
static void
return_buffers(struct reception *r, size_t n)
{
    if (n < r->buffer_count) {
        r->queue->next_available -= (uint16_t)(r->buffer_count - n);
        r->part_count = r->buffers[n].first;
        r->buffer_count = n;
    }
}

/* ---- To the guest: arming messages -------------------------------------- */

/* Takes the buffers that a frame probably needs. Returns how many bytes they
   have, or 0 if there are none. Only the first message may have fewer. */
static size_t
take_buffers(struct reception *r, bool fewer)
{
    size_t first = r->buffer_count, first_part = r->part_count, room = 0;

    do {
        if (!take_buffer(r)) {
            break;
        }
        if (r->part_count - first_part > MOST_PARTS) {
            return_buffers(r, r->buffer_count - 1);
            return room;
        }
        room += r->buffers[r->buffer_count - 1].length;
    } while (has_feature(r->queue, FEATURE_MRG_RXBUF) && room < r->expected);
    if (room < r->expected && has_feature(r->queue, FEATURE_MRG_RXBUF)
        && !fewer) {
        return_buffers(r, first);
        return 0;
    }
    return room;
}

/* Prepares message i, whose buffers begin at `first` and have `room` bytes.
   Returns how many parts it has. */
static size_t
arm_message(struct reception *r, size_t i, size_t first, size_t room,
            struct iovec *parts)
{
    size_t header = guest_header(r->queue), in_guest, count = 0;
    struct stream s = {r->parts + r->buffers[first].first, 0};
    unsigned char *saved = r->saved + i * SAVED_SIZE + TAG_SIZE;

    in_guest = room - header < MOST_FRAME ? room - header : MOST_FRAME;
    if (r->socket_header > 0) {
        parts[count++] = (struct iovec){&r->headers[i], r->socket_header};
    }
    skip_bytes(&s, header);
    count += slice_stream(s, in_guest, parts + count);
    /* What does not fit is written where it belongs if all of the frame is
       moved here: save_frame(). */
    if (in_guest < MOST_FRAME) {
        parts[count++] =
            (struct iovec){saved + in_guest, MOST_FRAME - in_guest};
    }
    r->frames[i] =
        (struct received_frame){.first = first, .in_guest = in_guest};
    memset(&r->headers[i], 0, sizeof(r->headers[i]));
    r->messages[i].msg_hdr.msg_iov = parts;
    r->messages[i].msg_hdr.msg_iovlen = count;
    return count;
}

size_t
arm_frames(struct reception *r)
{
    struct iovec *parts = r->message_parts;
    size_t first, room, i;

    if (r->next < r->count) {
        return 0;
    }
    r->buffer_count = r->part_count = r->used_count = 0;
    r->count = r->next = 0;
    for (i = 0; i < r->capacity; i++) {
        first = r->buffer_count;
        room = take_buffers(r, i == 0);
        if (room == 0) {
            break;
        }
        parts += arm_message(r, i, first, room, parts);
    }
    r->armed = i;
    return i;
}

/* ---- To the guest: frames ----------------------------------------------- */

/* The bytes of a frame that its buffers hold. */
static size_t
held_by_guest(const struct received_frame *f)
{
    return f->saved ? 0 : f->length < f->in_guest ? f->length : f->in_guest;
}

/* Copies what the buffers of a frame hold to our memory, where the rest is. */
static void
save_frame(struct reception *r, size_t i)
{
    struct received_frame *f = &r->frames[i];
    size_t n = held_by_guest(f);
    struct stream s;

    if (n > 0) {
        s = (struct stream){r->parts + r->buffers[f->first].first, 0};
        skip_bytes(&s, guest_header(r->queue));
        read_bytes(&s, r->saved + i * SAVED_SIZE + TAG_SIZE, n);
    }
    f->saved = true;
}

/* Puts a tag that the kernel has stripped back into a frame, in our memory.
   The header has offsets that a tag changes. */
static void
restore_tag(struct reception *r, size_t i)
{
    struct received_frame *f = &r->frames[i];
    unsigned char *p = r->saved + i * SAVED_SIZE;
    struct offload_header *h = &r->headers[i];

    save_frame(r, i);
    memmove(p, p + TAG_SIZE, TAG_OFFSET);
    p[TAG_OFFSET] = (unsigned char)(f->tag >> 24);
    p[TAG_OFFSET + 1] = (unsigned char)(f->tag >> 16);
    p[TAG_OFFSET + 2] = (unsigned char)(f->tag >> 8);
    p[TAG_OFFSET + 3] = (unsigned char)f->tag;
    f->tagged = true;
    if (h->header_length > 0 && h->header_length <= UINT16_MAX - TAG_SIZE) {
        h->header_length += TAG_SIZE;
    }
    if (h->flags & VNET_NEEDS_CSUM) {
        h->checksum_start += TAG_SIZE;
    }
}

unsigned char *
saved_frame(struct reception *r, size_t *length)
{
    const struct received_frame *f = &r->frames[r->next];

    *length = f->length + (f->tagged ? TAG_SIZE : 0);
    return r->saved + r->next * SAVED_SIZE + (f->tagged ? 0 : TAG_SIZE);
}

/* A frame that is to be placed: the bytes that buffers hold, and then others
   of ours. */
struct source {
    size_t first; /* the first of these buffers */
    size_t held;  /* bytes */
    const unsigned char *ours;
    size_t length; /* bytes of ours */
};

/* What find_room() says if it finds none. */
enum {
    NO_ROOM_NOW = 0,
    NO_ROOM_EVER = -1,
    NO_ROOM_IN_POOL = -2
};

/* Takes buffers until those behind the used ones have so many bytes. Returns
   how many that are, or why not. */
static long
find_room(struct reception *r, size_t bytes)
{
    size_t n = 0, room = 0;
    bool mergeable = has_feature(r->queue, FEATURE_MRG_RXBUF);

    do {
        if (r->used_count + n == r->buffer_count && !take_buffer(r)) {
            if (r->queue->broken != NULL) {
                return NO_ROOM_NOW;
            }
            if (r->part_count + MOST_PARTS > POOL) {
                return r->used_count > 0 ? NO_ROOM_IN_POOL : NO_ROOM_EVER;
            }
            /* All entries of the ring together are not enough. */
            return r->used_count == 0 && n == r->queue->setup.size
                       ? NO_ROOM_EVER
                       : NO_ROOM_NOW;
        }
        room += r->buffers[r->used_count + n].length;
        n++;
    } while (room < bytes && mergeable);
    return room < bytes ? NO_ROOM_EVER : (long)n;
}

/* Writes a frame into the next n buffers, and uses them. */
static void
fill_buffers(struct reception *r, const struct source *source,
             const struct offload_header *header, size_t n)
{
    struct virtqueue *q = r->queue;
    size_t size = guest_header(q), left, i, here;
    struct offload_header h = *header;
    const struct guest_buffer *b = &r->buffers[r->used_count];
    struct stream to = {r->parts + b->first, 0}, from;

    h.flags = has_feature(q, FEATURE_GUEST_CSUM)
                  ? h.flags & (VNET_NEEDS_CSUM | VNET_DATA_VALID)
                  : 0;
    h.buffer_count = (uint16_t)n;
    convert_header(&h);
    left = size + source->held + source->length;
    write_bytes(&to, (const unsigned char *)&h, size);
    if (source->held > 0 && source->first == r->used_count) {
        skip_bytes(&to, source->held);
    }
    else if (source->held > 0) {
        from = (struct stream){r->parts + r->buffers[source->first].first, 0};
        skip_bytes(&from, size);
        move_bytes(&to, &from, source->held);
    }
    write_bytes(&to, source->ours, source->length);
    for (i = 0; i < n; i++) {
        here = b[i].length < left ? b[i].length : left;
        put_used(q, b[i].head, (uint32_t)here);
        left -= here;
    }
    r->used_count += n;
}

/* Saves the frames from `from` on whose buffers are among those before `end`,
   which another frame is to fill. */
static void
save_frames(struct reception *r, size_t from, size_t end)
{
    size_t i;

    for (i = from;
         i < r->count && (r->frames[i].saved || r->frames[i].first < end);
         i++) {
        if (!r->frames[i].saved) {
            save_frame(r, i);
        }
    }
}

void
hold_frames(struct reception *r)
{
    save_frames(r, r->next, SIZE_MAX);
    return_buffers(r, r->used_count);
    publish(r->queue);
    r->buffer_count = r->part_count = r->used_count = 0;
}

/* Gives a frame to the guest. `behind` is the first frame behind it. */
static enum placed
place_source(struct reception *r, struct source *source,
             const struct offload_header *header, size_t behind)
{
    size_t bytes = guest_header(r->queue) + source->held + source->length;
    long n = find_room(r, bytes);

    if (n == NO_ROOM_IN_POOL) {
        /* What has been placed frees the pool. */
        hold_frames(r);
        if (source->held > 0) {
            /* The frame itself has been saved, too. */
            source->ours -= source->held;
            source->length += source->held;
            source->held = 0;
        }
        n = find_room(r, bytes);
    }
    if (r->queue->broken != NULL || n == NO_ROOM_NOW) {
        hold_frames(r);
        return r->queue->broken != NULL ? PLACE_BROKEN : PLACE_FULL;
    }
    if (n < 0) {
        r->dropped++;
        return PLACE_DONE;
    }
    save_frames(r, behind, r->used_count + (size_t)n);
    if (source->held == 0 || source->first != r->used_count) {
        r->moved++;
    }
    else if (source->length > 0) {
        r->spilled++;
    }
    fill_buffers(r, source, header, (size_t)n);
    r->placed++;
    return PLACE_DONE;
}

/* Remembers what a frame needed. A long one counts at once; if frames get
   shorter, the messages follow within some ten frames. */
static void
remember_need(struct reception *r, size_t bytes)
{
    if (bytes >= r->expected) {
        r->expected = bytes;
    }
    else {
        r->expected -= (r->expected - bytes + 7) / 8;
    }
}

static enum placed
place_next(struct reception *r)
{
    struct received_frame *f = &r->frames[r->next];
    struct source source;
    size_t length;

    if (f->length == 0) {
        r->dropped++;
        return PLACE_DONE;
    }
    if (f->tag != 0 && !f->tagged && f->length >= ETH_HLEN) {
        restore_tag(r, r->next);
    }
    if (!may_receive(r->queue, &r->headers[r->next])) {
        save_frame(r, r->next);
        return PLACE_CUT;
    }
    source.ours = saved_frame(r, &length);
    source.first = f->first;
    source.held = held_by_guest(f);
    source.ours += source.held;
    source.length = length - source.held;
    return place_source(r, &source, &r->headers[r->next], r->next + 1);
}

void
add_frames(struct reception *r, size_t n)
{
    size_t i;

    r->count = n;
    for (i = 0; i < n; i++) {
        if (r->frames[i].length > MOST_FRAME) {
            r->frames[i].length = 0;
        }
        remember_need(r, guest_header(r->queue) + r->frames[i].length);
    }
    return_buffers(r, n < r->armed ? r->frames[n].first : r->buffer_count);
    r->armed = 0;
}

enum placed
place_frames(struct reception *r)
{
    enum placed placed = PLACE_DONE;

    while (r->next < r->count && placed == PLACE_DONE) {
        if (r->queue->broken != NULL) {
            hold_frames(r);
            return PLACE_BROKEN;
        }
        placed = place_next(r);
        r->next += placed == PLACE_DONE;
    }
    if (placed == PLACE_DONE) {
        hold_frames(r);
    }
    return placed;
}

enum placed
put_frame(struct reception *r, const struct offload_header *header,
          const unsigned char *bytes, size_t length)
{
    struct source source = {.ours = bytes, .length = length};

    if (r->queue->broken != NULL) {
        hold_frames(r);
        return PLACE_BROKEN;
    }
    return place_source(r, &source, header, r->next);
}

void
skip_frame(struct reception *r)
{
    r->next++;
}

size_t
drop_frames(struct reception *r)
{
    size_t n = r->count - r->next;

    return_buffers(r, r->used_count);
    publish(r->queue);
    r->buffer_count = r->part_count = r->used_count = 0;
    r->next = r->count;
    return n;
}
