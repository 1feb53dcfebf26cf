/* A libFuzzer target for _rawmmsg_pcap.c; tests/fuzz/recording.py builds and
   runs it.

   An input is a recording. It is searched in one piece, and in pieces that
   come one after the other, as from a pipe: the records must be the same. They
   must also equal those that the plain code below finds. All memory has
   exactly the size that is needed, so AddressSanitizer reports each access
   beyond it. Then what was found is written, and found again.

       1 byte    how many records are found at a time, and 1
       1 byte    how many bytes come at a time, and 1
       the rest  the recording */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/if_packet.h>

#include "_rawmmsg_pcap.h"

/* An input has at most 4,096 bytes, a record at least 12. */
#define MOST_RECORDS 512

static void
promise(bool kept, const char *what)
{
    if (!kept) {
        fprintf(stderr, "broken promise: %s\n", what);
        abort();
    }
}

/* What was found in a recording. `at` is where the last record ends, or where
   there is a fault. */
struct found {
    struct record records[MOST_RECORDS];
    size_t count;
    struct record_interface interfaces[MOST_RECORDS];
    size_t interface_count;
    bool fault;
    size_t at;
    uint64_t drops;
};

/* A copy that has the right size for AddressSanitizer. The caller frees it. */
static uint8_t *
copied(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size);

    if (size > 0) {
        memcpy(copy, bytes, size);
    }
    return copy;
}

/* ---- What is right ------------------------------------------------------ */

struct plain {
    const uint8_t *bytes;
    size_t size;
    bool little;
    struct found *found;
    size_t first; /* interface of the section */
};

static uint64_t
number(const struct plain *p, size_t at, int size)
{
    uint64_t value = 0;
    int i;

    for (i = 0; i < size; i++) {
        value |= (uint64_t)p->bytes[at + (size_t)i]
                 << 8 * (p->little ? i : size - 1 - i);
    }
    return value;
}

static int64_t
in_range(__int128 ns)
{
    return ns > INT64_MAX   ? INT64_MAX
           : ns < INT64_MIN ? INT64_MIN
                            : (int64_t)ns;
}

/* The time, without a thought for speed. */
static int64_t
plain_time(const struct record_interface *i, uint64_t units)
{
    unsigned __int128 ns = units;
    int digits = i->resolution & 0x7f, n;

    if (i->resolution & 0x80) {
        ns = ns * 1000000000 >> digits;
    }
    else {
        for (n = digits; n < 9; n++) {
            ns *= 10;
        }
        for (n = 9; n < digits; n++) {
            ns /= 10;
        }
    }
    return in_range((__int128)ns + (__int128)i->offset_s * 1000000000);
}

static void
add_record(struct found *f, size_t start, uint64_t length, uint64_t wire,
           int64_t time, size_t interface)
{
    f->records[f->count++] = (struct record){.start = start,
                                             .length = (uint32_t)length,
                                             .wire_length = (uint32_t)wire,
                                             .time_ns = time,
                                             .interface = (int32_t)interface};
}

static void
plain_pcap(struct plain *p, bool nanoseconds)
{
    struct found *f = p->found;
    uint64_t snap, most, length;

    if (p->size < 24) {
        return;
    }
    snap = number(p, 16, 4);
    most = snap > 16 << 20 ? 16 << 20 : snap > 262144 ? snap : 262144;
    if (number(p, 4, 2) != 2 || number(p, 6, 2) != 4) {
        f->fault = true;
        return;
    }
    f->interface_count = 1;
    for (f->at = 24; p->size - f->at >= 16; f->at += 16 + length) {
        length = number(p, f->at + 8, 4);
        if (length > most) {
            f->fault = true;
            return;
        }
        if (p->size - f->at - 16 < length) {
            return;
        }
        add_record(
            f, f->at + 16, length, number(p, f->at + 12, 4),
            (int64_t)(number(p, f->at, 4) * 1000000000
                      + number(p, f->at + 4, 4) * (nanoseconds ? 1 : 1000)),
            0);
    }
}

/* Finds an option among those at start..end-1 and sets *at to its value.
   Returns its length, -1 if it is not there, and -2 if the options are
   malformed. The last one counts. */
static int
option(const struct plain *p, size_t start, size_t end, unsigned code,
       size_t *at)
{
    int result = -1;

    while (end - start >= 4 && number(p, start, 2) != 0) {
        size_t length = number(p, start + 2, 2);
        size_t size = 4 + (length + 3) / 4 * 4;

        if (size > end - start) {
            return -2;
        }
        if (number(p, start, 2) == code) {
            *at = start + 4;
            result = (int)length;
        }
        start += size;
    }
    return result;
}

/* Whether all options `code` have the right length. */
static bool
options_are(const struct plain *p, size_t start, size_t end, unsigned code,
            size_t right)
{
    for (; end - start >= 4 && number(p, start, 2) != 0;
         start += 4 + (number(p, start + 2, 2) + 3) / 4 * 4) {
        if (number(p, start, 2) == code && number(p, start + 2, 2) != right) {
            return false;
        }
    }
    return true;
}

static bool
plain_interface(struct plain *p, size_t at, size_t end)
{
    struct found *f = p->found;
    struct record_interface *i = &f->interfaces[f->interface_count];
    size_t value;

    *i = (struct record_interface){
        .snap_length = (uint32_t)number(p, at + 12, 4), .resolution = 6};
    if (option(p, at + 16, end, 9, &value) == -2
        || !options_are(p, at + 16, end, 9, 1)
        || !options_are(p, at + 16, end, 14, 8)) {
        return false;
    }
    if (option(p, at + 16, end, 9, &value) == 1) {
        i->resolution = p->bytes[value];
    }
    if (option(p, at + 16, end, 14, &value) == 8) {
        i->offset_s = (int64_t)number(p, value, 8);
    }
    f->interface_count++;
    return true;
}

static bool
plain_packet(struct plain *p, size_t at, size_t end, bool old)
{
    struct found *f = p->found;
    uint64_t length = number(p, at + 20, 4);
    size_t interface = p->first + number(p, at + 8, old ? 2 : 4), options, v;
    uint64_t units = number(p, at + 12, 4) << 32 | number(p, at + 16, 4);

    if (interface >= f->interface_count || length > end - at - 28) {
        return false;
    }
    options = at + 28 + (length + 3) / 4 * 4;
    if (option(p, options, end, 2, &v) == -2
        || !options_are(p, options, end, 2, 4)
        || !options_are(p, options, end, 4, 8)) {
        return false;
    }
    add_record(f, at + 28, length, number(p, at + 24, 4),
               plain_time(&f->interfaces[interface], units), interface);
    return true;
}

static bool
plain_simple(struct plain *p, size_t at, size_t end)
{
    struct found *f = p->found;
    uint64_t wire = number(p, at + 8, 4), length = wire, snap;

    if (p->first >= f->interface_count) {
        return false;
    }
    snap = f->interfaces[p->first].snap_length;
    length = snap > 0 && snap < length ? snap : length;
    length = end - at - 12 < length ? end - at - 12 : length;
    add_record(f, at + 12, length, wire, 0, p->first);
    return true;
}

static bool
plain_statistics(struct plain *p, size_t at, size_t end)
{
    size_t v;

    return p->first + number(p, at + 8, 4) < p->found->interface_count
           && option(p, at + 20, end, 4, &v) != -2
           && options_are(p, at + 20, end, 4, 8)
           && options_are(p, at + 20, end, 5, 8);
}

/* Reads a block whose fields are at..end-1. */
static bool
plain_block(struct plain *p, uint64_t type, size_t at, size_t end)
{
    switch (type) {
    case 0x0a0d0d0a:
        p->first = p->found->interface_count;
        return number(p, at + 12, 2) == 1
               && (number(p, at + 14, 2) == 0 || number(p, at + 14, 2) == 2);
    case 1:
        return plain_interface(p, at, end);
    case 2:
        return plain_packet(p, at, end, true);
    case 3:
        return plain_simple(p, at, end);
    case 5:
        return plain_statistics(p, at, end);
    case 6:
        return plain_packet(p, at, end, false);
    default:
        return true;
    }
}

static void
plain_pcapng(struct plain *p)
{
    static const uint32_t least[] = {
        [1] = 20, [2] = 32, [3] = 16, [5] = 24, [6] = 32};
    struct found *f = p->found;
    uint64_t type, length, fewest;

    for (f->at = 0; p->size - f->at >= 8; f->at += length) {
        type = number(p, f->at, 4);
        fewest = type == 0x0a0d0d0a            ? 28
                 : type < 7 && least[type] > 0 ? least[type]
                                               : 0;
        if (type == 0x0a0d0d0a) {
            if (p->size - f->at < 12) {
                return;
            }
            p->little = p->bytes[f->at + 8] == 0x4d;
            f->fault = number(p, f->at + 8, 4) != 0x1a2b3c4d;
        }
        length = number(p, f->at + 4, 4);
        f->fault |= length % 4 != 0 || length < (fewest > 0 ? fewest : 12)
                    || (fewest > 0 && length > 16 << 20);
        if (f->fault || p->size - f->at < length) {
            return;
        }
        f->fault = number(p, f->at + length - 4, 4) != length
                   || !plain_block(p, type, f->at, f->at + length - 4);
        if (f->fault) {
            return;
        }
    }
}

static void
plain_find(const uint8_t *bytes, size_t size, struct found *f)
{
    static const uint8_t section[] = {0x0a, 0x0d, 0x0d, 0x0a};
    struct plain p = {.bytes = bytes, .size = size, .found = f};
    uint64_t magic;

    if (size < 4) {
        return;
    }
    if (memcmp(bytes, section, 4) == 0) {
        plain_pcapng(&p);
        return;
    }
    p.little = bytes[3] == 0xa1;
    magic = number(&p, 0, 4);
    f->fault = magic != 0xa1b2c3d4 && magic != 0xa1b23c4d;
    if (!f->fault) {
        plain_pcap(&p, magic == 0xa1b23c4d);
    }
}

/* ---- Finding ------------------------------------------------------------ */

/* Takes what one call has found. `base` is where its bytes begin. */
static void
take(struct finder *f, enum find_result result, size_t base,
     struct found *found)
{
    const struct record *r;
    size_t i;

    for (i = 0; i < f->count; i++) {
        r = &f->records[i];
        promise(r->start <= f->size && r->length <= f->size - r->start,
                "a packet is in the bytes");
        promise((uint32_t)r->interface < f->interface_count,
                "its interface exists");
        promise(found->count < MOST_RECORDS, "there are not too many");
        found->records[found->count] = *r;
        found->records[found->count++].start += base;
    }
    f->count = 0;
    if (result == FIND_INTERFACE) {
        promise(found->interface_count < MOST_RECORDS,
                "there are not too many interfaces");
        found->interfaces[found->interface_count++] = f->description.interface;
        promise(f->interface_count == found->interface_count,
                "interfaces are counted");
    }
    if (result == FIND_STATISTICS) {
        promise(f->statistics.interface < f->interface_count,
                "statistics are of an interface");
    }
    if (result == FIND_FAULT) {
        promise(f->reason[0] != '\0' && strlen(f->reason) < sizeof(f->reason),
                "a fault has a reason");
    }
}

/* Searches bytes that are `base` bytes from the beginning of the recording,
   and releases them. Returns FIND_MORE or FIND_FAULT. */
static enum find_result
search(struct finder *f, uint8_t *bytes, size_t size, size_t base, size_t room,
       struct found *found)
{
    enum find_result result;
    size_t before;

    f->bytes = bytes;
    f->size = size;
    do {
        before = f->at;
        f->records = malloc(room * sizeof(*f->records));
        f->room = room;
        f->stop_at = f->at + 100;
        f->interfaces = found->interfaces;
        result = find_records(f);
        promise(f->at > before || result == FIND_MORE || result == FIND_FAULT,
                "a call gets on");
        take(f, result, base, found);
        free(f->records);
    } while (result != FIND_MORE && result != FIND_FAULT);
    free(bytes);
    return result;
}

static void
find_whole(const uint8_t *bytes, size_t size, size_t room, struct found *found)
{
    struct finder f = {0};
    enum find_result result =
        search(&f, copied(bytes, size), size, 0, room, found);

    found->fault = result == FIND_FAULT;
    found->at = f.at - f.behind;
    found->drops = f.drops;
}

static void
find_pieces(const uint8_t *bytes, size_t size, size_t room, size_t step,
            struct found *found)
{
    struct finder f = {0};
    enum find_result result = FIND_MORE;
    size_t base = 0, end = 0;

    while (result == FIND_MORE && end < size) {
        base += f.at;
        if (base > size) {
            f.at = 0;
            break;
        }
        end = base > end ? base + step : end + step;
        end = end < size ? end : size;
        f.at = 0;
        result = search(&f, copied(bytes + base, end - base), end - base, base,
                        room, found);
    }
    found->fault = result == FIND_FAULT;
    found->at = base + f.at - f.behind;
    found->drops = f.drops;
}

static bool
same_record(const struct record *a, const struct record *b)
{
    return a->start == b->start && a->length == b->length
           && a->wire_length == b->wire_length && a->time_ns == b->time_ns
           && a->interface == b->interface;
}

static void
compare(const struct found *a, const struct found *b, const char *what)
{
    size_t i;

    promise(a->count == b->count, what);
    for (i = 0; i < a->count; i++) {
        promise(same_record(&a->records[i], &b->records[i]), what);
    }
    promise(a->fault == b->fault && a->interface_count == b->interface_count,
            what);
}

/* ---- Writing ------------------------------------------------------------ */

/* Adds a packet of `length` zeroes to a recording of `size` bytes. */
static size_t
write_record(enum record_format format, const struct record_header *h,
             uint8_t *to)
{
    uint8_t *head = malloc(RECORD_HEAD), *tail = malloc(RECORD_TAIL);
    size_t before = write_record_head(format, h, head);
    size_t behind = write_record_tail(format, h, tail);

    promise(before <= RECORD_HEAD && behind <= RECORD_TAIL,
            "heads and tails have their room");
    memcpy(to, head, before);
    memset(to + before, 0, h->length);
    memcpy(to + before + h->length, tail, behind);
    free(head);
    free(tail);
    return before + h->length + behind;
}

/* The header of a file with one interface, in this machine's byte order, and
   times in nanoseconds. */
static size_t
write_header(enum record_format format, uint8_t *to)
{
    static const uint32_t pcap[] = {0xa1b23c4d, 0, 0, 0, 262144, 1};
    static const uint32_t pcapng[] = {
        0x0a0d0d0a, 28, 0x1a2b3c4d, 0, 0xffffffff, 0xffffffff, 28, 1,
        32,         1,  0,          0, 0,          0,          32};
    const uint16_t major_minor[] = {2, 4}, one[] = {1, 0}, option[] = {9, 1};

    if (format == FORMAT_PCAP) {
        memcpy(to, pcap, sizeof(pcap));
        memcpy(to + 4, major_minor, 4);
        return sizeof(pcap);
    }
    memcpy(to, pcapng, sizeof(pcapng));
    memcpy(to + 12, one, 4);
    memcpy(to + 36, one, 4);
    memcpy(to + 44, option, 4);
    to[48] = 9;
    return sizeof(pcapng);
}

static void
write_and_find(const struct found *found, enum record_format format)
{
    static struct found again;
    static struct record_header headers[MOST_RECORDS];
    uint8_t *bytes = malloc(100 + 2 * 4096 + MOST_RECORDS * 64);
    size_t size = write_header(format, bytes), i;
    uint64_t drops = 0;

    memset(&again, 0, sizeof(again));
    for (i = 0; i < found->count; i++) {
        const struct record *r = &found->records[i];

        headers[i] = (struct record_header){
            .time_ns = r->time_ns
                       & (format == FORMAT_PCAP ? INT64_C(0x1fffffffffffffff)
                                                : INT64_MAX),
            .length = r->length,
            .wire_length = r->wire_length,
            .flags = direction_of(r->packet_type),
            .dropped = i % 3};
        drops += format == FORMAT_PCAPNG ? i % 3 : 0;
        size += write_record(format, &headers[i], bytes + size);
    }
    find_whole(bytes, size, 16, &again);
    promise(again.count == found->count && !again.fault && again.at == size,
            "what is written is found");
    promise(again.drops == drops, "drop counts are found");
    for (i = 0; i < found->count; i++) {
        const struct record *r = &again.records[i];

        promise(r->length == headers[i].length
                    && r->wire_length == headers[i].wire_length
                    && r->time_ns == headers[i].time_ns,
                "what is found is what was written");
        promise(format == FORMAT_PCAP
                    || r->packet_type == found->records[i].packet_type,
                "directions are found");
    }
    free(bytes);
}

/* ---- The target --------------------------------------------------------- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct found plain, whole, pieces;

    if (size < 2 || size > 4096) {
        return 0;
    }
    memset(&plain, 0, sizeof(plain));
    memset(&whole, 0, sizeof(whole));
    memset(&pieces, 0, sizeof(pieces));
    plain_find(data + 2, size - 2, &plain);
    find_whole(data + 2, size - 2, data[0] + 1u, &whole);
    find_pieces(data + 2, size - 2, data[0] + 1u, data[1] + 1u, &pieces);
    compare(&plain, &whole, "the plain code finds the same");
    promise(plain.at == whole.at, "a fault, and a cut, are at their place");
    compare(&whole, &pieces, "in pieces, the same is found");
    promise(whole.drops == pieces.drops, "in pieces, drops are the same");
    promise(whole.at == pieces.at,
            "in pieces, a fault, and a cut, are at their place");
    write_and_find(&whole, FORMAT_PCAP);
    write_and_find(&whole, FORMAT_PCAPNG);
    return 0;
}
