/* Finds the packets in recordings, and writes what is around a packet. See
   _rawmmsg_pcap.h. */

#include "_rawmmsg_pcap.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <linux/if_packet.h>

#include "_rawmmsg_offload.h"

/* ---- Constants ---------------------------------------------------------- */

#define NS_PER_S INT64_C(1000000000)

/* The first four bytes of a pcap file, with microseconds and nanoseconds. */
#define MAGIC_MICROSECONDS 0xa1b2c3d4
#define MAGIC_NANOSECONDS 0xa1b23c4d

#define FILE_HEADER 24
#define PACKET_HEADER 16

/* The rest of the field also has the length of a frame check sequence. */
#define LINK_TYPE_MASK 0x03ffffff

/* Types of blocks, and the bytes of each before its options or its packet: its
   type, its length, and its fields. */
enum {
    INTERFACE_BLOCK = 1,
    OLD_PACKET_BLOCK = 2,
    SIMPLE_PACKET_BLOCK = 3,
    STATISTICS_BLOCK = 5,
    PACKET_BLOCK = 6,
    SECTION_BLOCK = 0x0a0d0d0a /* the same in both byte orders */
};
enum {
    BLOCK_START = 8,
    INTERFACE_FIELDS = 16,
    SIMPLE_PACKET_FIELDS = 12,
    STATISTICS_FIELDS = 20,
    PACKET_FIELDS = 28, /* of an old packet block, too */
    SECTION_FIELDS = 24,
    BLOCK_END = 4 /* its length again */
};

#define MAGIC_SECTION 0x1a2b3c4d

enum {
    OPTION_END = 0,
    IF_NAME = 2,
    IF_DESCRIPTION = 3,
    IF_TSRESOL = 9,
    IF_FILTER = 11,
    IF_TSOFFSET = 14,
    ISB_IFRECV = 4,
    ISB_IFDROP = 5,
    EPB_FLAGS = 2,
    EPB_DROPCOUNT = 4
};

#define MICROSECONDS 6 /* the resolution if there is no if_tsresol */

/* Values of epb_flags: direction, and type of reception. */
enum {
    DIRECTION_MASK = 3,
    INBOUND = 1,
    OUTBOUND = 2,
    RECEPTION_SHIFT = 2,
    RECEPTION_MASK = 7,
    UNICAST = 1,
    MULTICAST = 2,
    BROADCAST = 3,
    PROMISCUOUS = 4
};

/* The drop count of an old packet block that says nothing. */
#define UNKNOWN_DROPS 0xffff

/* ---- Numbers ------------------------------------------------------------ */

static uint16_t
load_16(const struct finder *f, const unsigned char *p)
{
    uint16_t number = *(const volatile unaligned_16 *)p;

    return f->swapped ? __builtin_bswap16(number) : number;
}

static uint32_t
load_32(const struct finder *f, const unsigned char *p)
{
    uint32_t number = *(const volatile unaligned_32 *)p;

    return f->swapped ? __builtin_bswap32(number) : number;
}

static uint64_t
load_64(const struct finder *f, const unsigned char *p)
{
    uint64_t first = load_32(f, p), second = load_32(f, p + 4);
    const uint16_t one = 1;
    bool little = *(const unsigned char *)&one != f->swapped;

    return little ? second << 32 | first : first << 32 | second;
}

/* Rounds up to a multiple of 4. */
static size_t
padded(size_t length)
{
    return (length + 3) & ~(size_t)3;
}

/* ---- Times -------------------------------------------------------------- */

/* Seconds, and nanoseconds of a second. */
struct instant {
    uint64_t s;
    uint64_t ns;
};

static uint64_t
power_of_ten(unsigned digits)
{
    uint64_t power = 1;

    for (; digits > 0; digits--) {
        power *= 10;
    }
    return power;
}

/* units / 10^digits seconds. */
static struct instant
decimal_time(uint64_t units, unsigned digits)
{
    enum {
        MOST_DIGITS = 19 /* of a power of ten in 64 bits */
    };
    uint64_t whole = digits <= MOST_DIGITS ? power_of_ten(digits) : 0;
    struct instant t = {whole > 0 ? units / whole : 0,
                        whole > 0 ? units % whole : units};

    if (digits <= 9) {
        t.ns *= power_of_ten(9 - digits);
    }
    else if (digits - 9 <= MOST_DIGITS) {
        t.ns /= power_of_ten(digits - 9);
    }
    else {
        t.ns = 0;
    }
    return t;
}

/* units / 2^digits seconds. */
static struct instant
binary_time(uint64_t units, unsigned digits)
{
    uint64_t s = digits < 64 ? units >> digits : 0;
    uint64_t part = digits < 64 ? units - (s << digits) : units;
    /* The product of `part` and NS_PER_S, from its bit 32 on. */
    uint64_t high = (part >> 32) * NS_PER_S
                    + ((part & UINT32_MAX) * (uint64_t)NS_PER_S >> 32);

    return (struct instant){s, digits < 32   ? part * NS_PER_S >> digits
                               : digits < 96 ? high >> (digits - 32)
                                             : 0};
}

int64_t
time_of(const struct record_interface *i, uint64_t units)
{
    unsigned digits = i->resolution & 0x7f;
    struct instant t = i->resolution & 0x80 ? binary_time(units, digits)
                                            : decimal_time(units, digits);
    int64_t seconds, ns, part = (int64_t)t.ns;

    if (__builtin_add_overflow(t.s, i->offset_s, &seconds)) {
        return INT64_MAX; /* `t.s` is not negative */
    }
    if (seconds < 0 && part > 0) { /* the same, with both of one sign */
        seconds++;
        part -= NS_PER_S;
    }
    if (__builtin_mul_overflow(seconds, NS_PER_S, &ns)
        || __builtin_add_overflow(ns, part, &ns)) {
        return seconds < 0 ? INT64_MIN : INT64_MAX;
    }
    return ns;
}

/* ---- Faults ------------------------------------------------------------- */

/* Notes why the file cannot be read on. Always returns FIND_FAULT. */
__attribute__((format(printf, 2, 3))) static enum find_result
fault(struct finder *f, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(f->reason, sizeof(f->reason), format, arguments);
    va_end(arguments);
    return FIND_FAULT;
}

/* Says how many bytes are needed from `at` on. Always returns FIND_MORE. */
static enum find_result
more(struct finder *f, size_t wanted)
{
    f->wanted = wanted;
    return FIND_MORE;
}

/* The functions below that read a record, a block or the header of a file
   return this if there is nothing to return to the caller yet. */
#define GO_ON ((enum find_result) - 1)

/* ---- pcap --------------------------------------------------------------- */

static enum find_result
read_file_header(struct finder *f, const unsigned char *p)
{
    uint16_t major = load_16(f, p + 4), minor = load_16(f, p + 6);
    uint32_t snap_length = load_32(f, p + 16);

    if (major != 2 || minor != 4) {
        return fault(f,
                     "version %u.%u of pcap is not supported; all "
                     "programs of today write version 2.4",
                     major, minor);
    }
    f->description = (struct record_description){
        .link_type = load_32(f, p + 20) & LINK_TYPE_MASK,
        .interface = {.snap_length = snap_length, .resolution = 9}};
    f->most_packet = snap_length > MOST_BLOCK    ? MOST_BLOCK
                     : snap_length > MOST_PACKET ? snap_length
                                                 : MOST_PACKET;
    f->format = FORMAT_PCAP;
    f->interface_count = 1;
    f->at += FILE_HEADER;
    return FIND_INTERFACE;
}

static enum find_result
read_pcap_record(struct finder *f, struct record *r)
{
    const unsigned char *p = f->bytes + f->at;
    size_t left = f->size - f->at;
    uint64_t seconds, fraction;
    uint32_t length;

    if (left < PACKET_HEADER) {
        return more(f, PACKET_HEADER);
    }
    length = load_32(f, p + 8);
    if (length > f->most_packet) {
        return fault(f,
                     "a packet of %" PRIu32 " bytes is too long: at most "
                     "%" PRIu32 " are possible, so the file is damaged",
                     length, f->most_packet);
    }
    if (left - PACKET_HEADER < length) {
        return more(f, PACKET_HEADER + (size_t)length);
    }
    seconds = load_32(f, p);
    fraction = load_32(f, p + 4);
    *r = (struct record){
        .start = f->at + PACKET_HEADER,
        .length = length,
        .wire_length = load_32(f, p + 12),
        .time_ns = (int64_t)(seconds * NS_PER_S
                             + fraction * (f->nanoseconds ? 1 : 1000)),
        .packet_type = UNKNOWN_TYPE,
    };
    f->count++;
    f->at += PACKET_HEADER + (size_t)length;
    return GO_ON;
}

/* ---- pcapng: options ---------------------------------------------------- */

/* A list of options, while it is read. */
struct options {
    const unsigned char *at;
    size_t left;
    uint16_t code;
    uint16_t length;
    const unsigned char *value;
};

/* Reads the next option. Returns false at the end of the list, and if the
   option does not fit: then sets *bad. */
static bool
next_option(const struct finder *f, struct options *o, bool *bad)
{
    size_t size;

    if (o->left < 4) {
        return false;
    }
    o->code = load_16(f, o->at);
    o->length = load_16(f, o->at + 2);
    o->value = o->at + 4;
    if (o->code == OPTION_END) {
        return false;
    }
    size = 4 + padded(o->length);
    if (size > o->left) {
        *bad = true;
        return false;
    }
    o->at += size;
    o->left -= size;
    return true;
}

static enum find_result
bad_options(struct finder *f)
{
    return fault(f, "an option is longer than its block");
}

static enum find_result
bad_length(struct finder *f, const struct options *o, unsigned right)
{
    return fault(f, "option %u has %u bytes instead of %u", o->code, o->length,
                 right);
}

/* ---- pcapng: blocks ----------------------------------------------------- */

/* A complete block. */
struct block {
    const unsigned char *bytes;
    uint32_t type;
    uint32_t length; /* a multiple of 4 */
};

/* Returns the options of a block that begin behind `offset` bytes. */
static struct options
options_at(const struct block *b, size_t offset)
{
    return (struct options){.at = b->bytes + offset,
                            .left = b->length - BLOCK_END - offset};
}

/* A new section: numbers may have the other byte order from here on. The
   caller has checked that the block is complete. */
static enum find_result
read_section(struct finder *f, const struct block *b)
{
    uint16_t major = load_16(f, b->bytes + 12);
    uint16_t minor = load_16(f, b->bytes + 14);

    if (major != 1 || (minor != 0 && minor != 2)) {
        return fault(f,
                     "version %u.%u of pcapng is not supported; all programs "
                     "of today write version 1.0",
                     major, minor);
    }
    f->format = FORMAT_PCAPNG;
    f->first_interface = f->interface_count;
    return GO_ON;
}

static enum find_result
read_interface(struct finder *f, const struct block *b)
{
    struct record_description *d = &f->description;
    struct options o = options_at(b, INTERFACE_FIELDS);
    bool bad = false;

    if (f->interface_count == MOST_INTERFACES) {
        return fault(f, "more than %d interfaces", MOST_INTERFACES);
    }
    *d = (struct record_description){
        .link_type = load_16(f, b->bytes + 8),
        .interface = {.snap_length = load_32(f, b->bytes + 12),
                      .resolution = MICROSECONDS}};
    while (next_option(f, &o, &bad)) {
        struct record_text text = {o.value, o.length};

        switch (o.code) {
        case IF_NAME:
            d->name = text;
            break;
        case IF_DESCRIPTION:
            d->description = text;
            break;
        case IF_FILTER:
            d->filter = text;
            break;
        case IF_TSRESOL:
            if (o.length != 1) {
                return bad_length(f, &o, 1);
            }
            d->interface.resolution = o.value[0];
            break;
        case IF_TSOFFSET:
            if (o.length != 8) {
                return bad_length(f, &o, 8);
            }
            d->interface.offset_s = (int64_t)load_64(f, o.value);
            break;
        }
    }
    if (bad) {
        return bad_options(f);
    }
    f->interface_count++;
    return FIND_INTERFACE;
}

/* Finds an interface of this section, by its number there. Returns its number
   in the whole recording, or -1 after fault(). */
static int32_t
find_interface(struct finder *f, uint32_t number)
{
    uint32_t count = f->interface_count - f->first_interface;

    if (number >= count) {
        fault(f, "interface %" PRIu32 " does not exist: there are %" PRIu32,
              number, count);
        return -1;
    }
    return (int32_t)(f->first_interface + number);
}

static enum find_result
read_statistics(struct finder *f, const struct block *b)
{
    struct options o = options_at(b, STATISTICS_FIELDS);
    struct record_statistics *s = &f->statistics;
    int32_t interface = find_interface(f, load_32(f, b->bytes + 8));
    bool bad = false;

    if (interface < 0) {
        return FIND_FAULT;
    }
    *s = (struct record_statistics){.interface = (uint32_t)interface};
    while (next_option(f, &o, &bad)) {
        if (o.code != ISB_IFRECV && o.code != ISB_IFDROP) {
            continue;
        }
        if (o.length != 8) {
            return bad_length(f, &o, 8);
        }
        if (o.code == ISB_IFRECV) {
            s->has_received = true;
            s->received = load_64(f, o.value);
        }
        else {
            s->has_dropped = true;
            s->dropped = load_64(f, o.value);
        }
    }
    return bad ? bad_options(f) : FIND_STATISTICS;
}

/* The type of a packet, from its epb_flags. */
static uint8_t
type_of(uint32_t flags)
{
    if ((flags & DIRECTION_MASK) == OUTBOUND) {
        return PACKET_OUTGOING;
    }
    if ((flags & DIRECTION_MASK) != INBOUND) {
        return UNKNOWN_TYPE;
    }
    switch (flags >> RECEPTION_SHIFT & RECEPTION_MASK) {
    case MULTICAST:
        return PACKET_MULTICAST;
    case BROADCAST:
        return PACKET_BROADCAST;
    case PROMISCUOUS:
        return PACKET_OTHERHOST;
    default:
        return PACKET_HOST;
    }
}

static enum find_result
read_packet_options(struct finder *f, struct options *o, struct record *r)
{
    bool bad = false;

    while (next_option(f, o, &bad)) {
        if (o->code == EPB_FLAGS) {
            if (o->length != 4) {
                return bad_length(f, o, 4);
            }
            r->packet_type = type_of(load_32(f, o->value));
        }
        else if (o->code == EPB_DROPCOUNT) {
            if (o->length != 8) {
                return bad_length(f, o, 8);
            }
            f->drops += load_64(f, o->value);
        }
    }
    return bad ? bad_options(f) : GO_ON;
}

/* Checks how many bytes of a packet its block holds. GO_ON, or FIND_FAULT. */
static enum find_result
check_packet(struct finder *f, const struct block *b, uint32_t length)
{
    uint32_t room = b->length - PACKET_FIELDS - BLOCK_END;

    if (length > room) {
        return fault(f,
                     "a packet of %" PRIu32 " bytes is longer than its block, "
                     "which has room for %" PRIu32,
                     length, room);
    }
    return GO_ON;
}

/* An enhanced packet block, or one of its obsolete predecessors, which have a
   drop count in place of half of the number of the interface, and the same
   options. */
static enum find_result
read_packet(struct finder *f, const struct block *b, struct record *r)
{
    const unsigned char *p = b->bytes;
    bool old = b->type == OLD_PACKET_BLOCK;
    int32_t interface =
        find_interface(f, old ? load_16(f, p + 8) : load_32(f, p + 8));
    uint64_t units = (uint64_t)load_32(f, p + 12) << 32 | load_32(f, p + 16);
    uint32_t length = load_32(f, p + 20);
    uint16_t drops = old ? load_16(f, p + 10) : UNKNOWN_DROPS;
    struct options o;

    if (interface < 0 || check_packet(f, b, length) != GO_ON) {
        return FIND_FAULT;
    }
    *r = (struct record){.start = f->at + PACKET_FIELDS,
                         .length = length,
                         .wire_length = load_32(f, p + 24),
                         .time_ns = time_of(&f->interfaces[interface], units),
                         .interface = interface,
                         .packet_type = UNKNOWN_TYPE};
    o = options_at(b, PACKET_FIELDS + padded(length));
    if (o.left > 0 && read_packet_options(f, &o, r) != GO_ON) {
        return FIND_FAULT;
    }
    f->drops += drops == UNKNOWN_DROPS ? 0 : drops;
    f->count++;
    return GO_ON;
}

/* A simple packet block has no time, and its length on the wire only. Its
   packet is of the first interface. */
static enum find_result
read_simple_packet(struct finder *f, const struct block *b, struct record *r)
{
    uint32_t wire_length = load_32(f, b->bytes + 8);
    uint32_t room = b->length - SIMPLE_PACKET_FIELDS - BLOCK_END;
    int32_t interface = find_interface(f, 0);
    uint32_t snap_length, length;

    if (interface < 0) {
        return FIND_FAULT;
    }
    snap_length = f->interfaces[interface].snap_length;
    length = snap_length > 0 && snap_length < wire_length ? snap_length
                                                          : wire_length;
    *r = (struct record){.start = f->at + SIMPLE_PACKET_FIELDS,
                         .length = length < room ? length : room,
                         .wire_length = wire_length,
                         .interface = interface,
                         .packet_type = UNKNOWN_TYPE};
    f->count++;
    return GO_ON;
}

/* Returns the bytes of the fields of a block that is read, or 0 if blocks of
   this type are passed over. */
static uint32_t
fields_of(uint32_t type)
{
    switch (type) {
    case SECTION_BLOCK:
        return SECTION_FIELDS;
    case INTERFACE_BLOCK:
        return INTERFACE_FIELDS;
    case STATISTICS_BLOCK:
        return STATISTICS_FIELDS;
    case SIMPLE_PACKET_BLOCK:
        return SIMPLE_PACKET_FIELDS;
    case OLD_PACKET_BLOCK:
    case PACKET_BLOCK:
        return PACKET_FIELDS;
    default:
        return 0;
    }
}

static enum find_result
read_known_block(struct finder *f, const struct block *b)
{
    struct record *r = &f->records[f->count];

    switch (b->type) {
    case SECTION_BLOCK:
        return read_section(f, b);
    case INTERFACE_BLOCK:
        return read_interface(f, b);
    case STATISTICS_BLOCK:
        return read_statistics(f, b);
    case SIMPLE_PACKET_BLOCK:
        return read_simple_packet(f, b, r);
    case OLD_PACKET_BLOCK:
    case PACKET_BLOCK:
        return read_packet(f, b, r);
    default:
        return GO_ON;
    }
}

/* Learns the byte order from the block of a section. GO_ON, or FIND_FAULT. */
static enum find_result
read_byte_order(struct finder *f, const unsigned char *p)
{
    uint32_t magic;

    f->swapped = false;
    magic = load_32(f, p + BLOCK_START);
    if (magic != MAGIC_SECTION && __builtin_bswap32(magic) != MAGIC_SECTION) {
        return fault(f, "a section of pcapng without its byte order");
    }
    f->swapped = magic != MAGIC_SECTION;
    return GO_ON;
}

/* Checks the length of a block. GO_ON, or FIND_FAULT. */
static enum find_result
check_block(struct finder *f, uint32_t type, uint32_t length)
{
    uint32_t fields = fields_of(type);
    uint32_t least = (fields > 0 ? fields : BLOCK_START) + BLOCK_END;

    if (length % 4 != 0 || length < least) {
        return fault(f,
                     "a block of type %" PRIu32 " with a length of %" PRIu32
                     ": it must be a multiple of 4, and %" PRIu32 " at least",
                     type, length, least);
    }
    if (fields > 0 && length > MOST_BLOCK) {
        return fault(f,
                     "a block of type %" PRIu32 " with a length of %" PRIu32
                     ": %d are possible",
                     type, length, MOST_BLOCK);
    }
    return GO_ON;
}

/* Checks the length at the end of a block. GO_ON, or FIND_FAULT. */
static enum find_result
check_end(struct finder *f, const unsigned char *p, uint32_t length)
{
    uint32_t again = load_32(f, p);

    if (again != length) {
        return fault(f,
                     "a block has the length %" PRIu32
                     " at its beginning and %" PRIu32 " at its end",
                     length, again);
    }
    return GO_ON;
}

/* The end of a block that is passed over, and was not there as a whole. */
static enum find_result
read_skipped_end(struct finder *f)
{
    if (f->at > f->size || f->size - f->at < BLOCK_END) {
        return more(f, BLOCK_END);
    }
    if (check_end(f, f->bytes + f->at, f->skipped_length) != GO_ON) {
        return FIND_FAULT;
    }
    f->at += BLOCK_END;
    f->skipped_length = 0;
    f->behind = 0;
    return GO_ON;
}

static enum find_result
read_block(struct finder *f)
{
    struct block b = {.bytes = f->bytes + f->at};
    size_t left = f->size - f->at;
    enum find_result result;

    if (left < BLOCK_START) {
        return more(f, BLOCK_START);
    }
    b.type = load_32(f, b.bytes);
    if (b.type == SECTION_BLOCK) {
        if (left < BLOCK_START + 4) {
            return more(f, BLOCK_START + 4);
        }
        if (read_byte_order(f, b.bytes) != GO_ON) {
            return FIND_FAULT;
        }
    }
    b.length = load_32(f, b.bytes + 4);
    if (check_block(f, b.type, b.length) != GO_ON) {
        return FIND_FAULT;
    }
    if (left < b.length) {
        if (fields_of(b.type) > 0) {
            return more(f, b.length);
        }
        f->skipped_length = b.length;
        f->behind = b.length - BLOCK_END;
        f->at += f->behind;
        return more(f, BLOCK_END);
    }
    if (check_end(f, b.bytes + b.length - BLOCK_END, b.length) != GO_ON) {
        return FIND_FAULT;
    }
    result = read_known_block(f, &b);
    if (result != FIND_FAULT) {
        f->at += b.length;
    }
    return result;
}

/* ---- Finding ------------------------------------------------------------ */

/* Recognizes the format. */
static enum find_result
read_beginning(struct finder *f)
{
    const unsigned char *p = f->bytes + f->at;
    size_t left = f->size - f->at;
    uint32_t magic, other;

    if (left < 4) {
        return more(f, 4);
    }
    f->swapped = false;
    magic = load_32(f, p);
    other = __builtin_bswap32(magic);
    if (magic == SECTION_BLOCK) {
        return read_block(f);
    }
    f->swapped = other == MAGIC_MICROSECONDS || other == MAGIC_NANOSECONDS;
    magic = f->swapped ? other : magic;
    if (magic != MAGIC_MICROSECONDS && magic != MAGIC_NANOSECONDS) {
        return fault(f,
                     "not a pcap or pcapng file: it begins with %02x %02x "
                     "%02x %02x",
                     p[0], p[1], p[2], p[3]);
    }
    f->nanoseconds = magic == MAGIC_NANOSECONDS;
    return left < FILE_HEADER ? more(f, FILE_HEADER) : read_file_header(f, p);
}

enum find_result
find_records(struct finder *f)
{
    enum find_result result = GO_ON;

    while (result == GO_ON) {
        if (f->count == f->room || f->at >= f->stop_at) {
            return FIND_FULL;
        }
        switch (f->format) {
        case FORMAT_PCAP:
            result = read_pcap_record(f, &f->records[f->count]);
            break;
        case FORMAT_PCAPNG:
            result =
                f->skipped_length > 0 ? read_skipped_end(f) : read_block(f);
            break;
        default:
            result = read_beginning(f);
        }
    }
    return result;
}

/* ---- Writing ------------------------------------------------------------ */

static unsigned char *
store_16(unsigned char *to, unsigned number)
{
    uint16_t value = (uint16_t)number;

    memcpy(to, &value, sizeof(value));
    return to + sizeof(value);
}

static unsigned char *
store_32(unsigned char *to, uint32_t number)
{
    memcpy(to, &number, sizeof(number));
    return to + sizeof(number);
}

static unsigned char *
store_64(unsigned char *to, uint64_t number)
{
    memcpy(to, &number, sizeof(number));
    return to + sizeof(number);
}

/* The bytes of the options, with their end; 0 if there are none. */
static size_t
option_bytes(const struct record_header *h)
{
    size_t bytes = (h->flags > 0 ? 8 : 0) + (h->dropped > 0 ? 12 : 0);

    return bytes > 0 ? bytes + 4 : 0;
}

static uint32_t
block_length(const struct record_header *h)
{
    return (uint32_t)(PACKET_FIELDS + padded(h->length) + option_bytes(h)
                      + BLOCK_END);
}

size_t
write_record_head(enum record_format format, const struct record_header *h,
                  unsigned char *to)
{
    unsigned char *start = to;

    if (format == FORMAT_PCAP) {
        to = store_32(to, (uint32_t)(h->time_ns / NS_PER_S));
        to = store_32(to, (uint32_t)(h->time_ns % NS_PER_S));
    }
    else {
        to = store_32(to, PACKET_BLOCK);
        to = store_32(to, block_length(h));
        to = store_32(to, h->interface);
        to = store_32(to, (uint32_t)((uint64_t)h->time_ns >> 32));
        to = store_32(to, (uint32_t)h->time_ns);
    }
    to = store_32(to, h->length);
    to = store_32(to, h->wire_length);
    return (size_t)(to - start);
}

size_t
write_record_tail(enum record_format format, const struct record_header *h,
                  unsigned char *to)
{
    unsigned char *start = to;

    if (format == FORMAT_PCAP) {
        return 0;
    }
    memset(to, 0, 3);
    to += padded(h->length) - h->length;
    if (h->flags > 0) {
        to = store_16(to, EPB_FLAGS);
        to = store_16(to, 4);
        to = store_32(to, h->flags);
    }
    if (h->dropped > 0) {
        to = store_16(to, EPB_DROPCOUNT);
        to = store_16(to, 8);
        to = store_64(to, h->dropped);
    }
    if (option_bytes(h) > 0) {
        to = store_32(to, OPTION_END);
    }
    to = store_32(to, block_length(h));
    return (size_t)(to - start);
}

uint32_t
direction_of(uint8_t packet_type)
{
    switch (packet_type) {
    case PACKET_HOST:
        return INBOUND | UNICAST << RECEPTION_SHIFT;
    case PACKET_BROADCAST:
        return INBOUND | BROADCAST << RECEPTION_SHIFT;
    case PACKET_MULTICAST:
        return INBOUND | MULTICAST << RECEPTION_SHIFT;
    case PACKET_OTHERHOST:
        return INBOUND | PROMISCUOUS << RECEPTION_SHIFT;
    case PACKET_OUTGOING:
        return OUTBOUND;
    default:
        return 0;
    }
}
