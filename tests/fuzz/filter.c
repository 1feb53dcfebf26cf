/* A libFuzzer target for _rawmmsg_filter.c; tests/fuzz/filter.py builds and
   runs it.

   An input is a program, a packet and what is beside it. The program is
   checked, and run if it is valid. All memory has exactly the size that is
   needed, so AddressSanitizer reports each access beyond it. The results must
   be equal to those of the plain code below.

       1 byte    the number of instructions
       then for each of them:
       1 byte    an index in OPCODES, or another number: 2 bytes follow, the
                 opcode
       2 bytes   jt, jf
       4 bytes   k
       2 bytes   the fields that are known
       4 bytes   field i is this number times i + 1
       4 bytes   the length on the wire
       2 bytes   the offset of the network header; 65,535: SIZE_MAX
       the rest  the packet

   Numbers have the byte order of this machine. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_rawmmsg_filter.h"

#define MOST_INSTRUCTIONS 255
#define RANDOM_FIELD (SKF_AD_RANDOM / 4)

/* linux/filter.h and linux/bpf_common.h, in numbers. */
static const uint16_t opcodes[] = {
    0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1, 0x80, 0x81, 0x00,
    0x01, 0x60, 0x61, 0x02, 0x03, 0x04, 0x0c, 0x14, 0x1c, 0x24,
    0x2c, 0x34, 0x3c, 0x94, 0x9c, 0x44, 0x4c, 0x54, 0x5c, 0xa4,
    0xac, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0x07, 0x87, 0x05, 0x15,
    0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16,
};
#define OPCODES (sizeof(opcodes) / sizeof(*opcodes))

/* The part of the input that has not been read yet. */
struct input {
    const uint8_t *at;
    size_t left;
};

/* ---- Input -------------------------------------------------------------- */

static void
promise(bool kept, const char *what)
{
    if (!kept) {
        fprintf(stderr, "broken promise: %s\n", what);
        abort();
    }
}

static void
take(struct input *in, void *out, size_t size)
{
    size_t n = size < in->left ? size : in->left;

    memset(out, 0, size);
    memcpy(out, in->at, n);
    in->at += n;
    in->left -= n;
}

static struct sock_filter
take_instruction(struct input *in)
{
    struct sock_filter i = {0};
    uint8_t index;

    take(in, &index, 1);
    if (index < OPCODES) {
        i.code = opcodes[index];
    }
    else {
        take(in, &i.code, 2);
    }
    take(in, &i.jt, 1);
    take(in, &i.jf, 1);
    take(in, &i.k, 4);
    return i;
}

/* ---- What is right ------------------------------------------------------ */

static bool
is_opcode(uint16_t code)
{
    size_t i;

    for (i = 0; i < OPCODES && opcodes[i] != code; i++) {
    }
    return i < OPCODES;
}

static bool
is_test(const struct sock_filter *i)
{
    return (i->code & 7) == 5 && i->code != 0x05;
}

/* Whether an instruction is valid, except for what it reads of scratch
   memory. */
static bool
is_valid(const struct sock_filter *i, size_t place, size_t count)
{
    uint64_t next = place + 1;

    if (!is_opcode(i->code)) {
        return false;
    }
    if (i->code == 0x05) {
        return next + i->k < count;
    }
    if (is_test(i)) {
        return next + i->jt < count && next + i->jf < count;
    }
    switch (i->code) {
    case 0x34:
    case 0x94:
        return i->k != 0;
    case 0x64:
    case 0x74:
        return i->k <= 31;
    case 0x60:
    case 0x61:
    case 0x02:
    case 0x03:
        return i->k <= 15;
    case 0x20:
    case 0x28:
    case 0x30:
        return i->k < 0xfffff000
               || (i->k <= 0xfffff000 + 60 && (i->k & 3) == 0);
    default:
        return true;
    }
}

/* Whether a path reads a scratch word that it has not written; *at is the
   instruction. To the kernel, a return goes on with what follows. */
static bool
reads_unwritten(const struct sock_filter *program, size_t count, uint32_t word,
                size_t *at)
{
    bool unwritten[MOST_INSTRUCTIONS + 1] = {true};
    const struct sock_filter *i;
    size_t n;

    for (n = 0; n < count; n++) {
        i = &program[n];
        if (!unwritten[n]) {
            continue;
        }
        if ((i->code == 0x60 || i->code == 0x61) && i->k == word) {
            *at = n;
            return true;
        }
        if (i->code == 0x05) {
            unwritten[n + 1 + i->k] = true;
        }
        else if (is_test(i)) {
            unwritten[n + 1 + i->jt] = true;
            unwritten[n + 1 + i->jf] = true;
        }
        else if ((i->code != 0x02 && i->code != 0x03) || i->k != word) {
            unwritten[n + 1] = true;
        }
    }
    return false;
}

/* Whether the kernel accepts a program. If not because of an instruction, *at
   is the first such. */
static bool
accepts(const struct sock_filter *program, size_t count, size_t *at)
{
    size_t n, first = count;
    uint32_t word;

    for (n = 0; n < count; n++) {
        if (!is_valid(&program[n], n, count)) {
            *at = n;
            return false;
        }
    }
    if (count == 0
        || (program[count - 1].code != 6 && program[count - 1].code != 0x16)) {
        return false;
    }
    for (word = 0; word < 16; word++) {
        if (reads_unwritten(program, count, word, &n) && n < first) {
            *at = first = n;
        }
    }
    return first == count;
}

/* What loaded() returns if there is no number. OUTSIDE: the program returns 0.
   NO_INTERFACE: it returns A. */
enum {
    OUTSIDE = -1,
    NO_INTERFACE = -2
};

/* The number at an offset, or OUTSIDE. */
static int64_t
number_at(const struct filter_packet *p, uint32_t offset, int size)
{
    int64_t number = 0, at = offset;
    int i;

    if (offset >= 0xfff00000) {
        if (p->network_offset > 65535) {
            return OUTSIDE;
        }
        at = (int64_t)p->network_offset + (offset - 0xfff00000);
    }
    else if (offset >= 0xffe00000) {
        at = offset - 0xffe00000;
    }
    else if (offset >= 0x80000000) {
        return OUTSIDE;
    }
    for (i = 0; i < size; i++, at++) {
        if (at >= (int64_t)p->length) {
            return OUTSIDE;
        }
        number = number << 8 | p->bytes[at];
    }
    return number;
}

/* The field at SKF_AD_OFF + offset, or NO_INTERFACE. */
static int64_t
field_at(const struct filter_packet *p, uint32_t offset, uint32_t a,
         uint32_t x)
{
    int64_t type;

    if (offset == 40) {
        return a ^ x;
    }
    if (p->known & 1u << offset / 4) {
        return p->ancillary[offset / 4];
    }
    if ((offset == 8 || offset == 28) && !(p->known & 1u << 2)) {
        return NO_INTERFACE;
    }
    if (offset != 0) {
        return 0;
    }
    type = number_at(p, 12, 2);
    if (type < 0) {
        return 0;
    }
    if (type >= 1536) {
        return type;
    }
    return number_at(p, 14, 2) == 0xffff ? 1 : 4;
}

static uint32_t
alu(uint16_t code, uint32_t a, uint32_t b)
{
    switch (code & 0xf0) {
    case 0x00:
        return a + b;
    case 0x10:
        return a - b;
    case 0x20:
        return (uint32_t)((uint64_t)a * b);
    case 0x30:
        return a / b;
    case 0x40:
        return a | b;
    case 0x50:
        return a & b;
    case 0x60:
        return (uint32_t)((uint64_t)a << (b % 32));
    case 0x70:
        return a >> (b % 32);
    case 0x80:
        return ~a + 1;
    case 0x90:
        return a - a / b * b;
    default:
        return (a | b) - (a & b);
    }
}

static bool
test(uint16_t code, uint32_t a, uint32_t b)
{
    switch (code & 0xf0) {
    case 0x10:
        return a == b;
    case 0x20:
        return a > b;
    case 0x30:
        return !(a < b);
    default:
        return a & b;
    }
}

/* What an instruction loads of the packet or of what is beside it; 0 if it
   loads nothing. */
static int64_t
loaded(const struct filter_packet *p, const struct sock_filter *i, uint32_t a,
       uint32_t x)
{
    static const int sizes[] = {4, 2, 1};
    int size = sizes[(i->code >> 3 & 3) % 3];

    switch (i->code) {
    case 0x20:
    case 0x28:
    case 0x30:
        return i->k < 0xfffff000 ? number_at(p, i->k, size)
                                 : field_at(p, i->k - 0xfffff000, a, x);
    case 0x40:
    case 0x48:
    case 0x50:
        return number_at(p, x + i->k, size);
    case 0xb1:
        return number_at(p, i->k, 1);
    default:
        return 0;
    }
}

static uint32_t
run(const struct sock_filter *program, const struct filter_packet *p,
    uint16_t *trace, size_t *traced)
{
    uint32_t a = 0, x = 0, memory[16] = {0}, right;
    const struct sock_filter *i;
    int64_t number;
    size_t n = 0;

    for (*traced = 0;; n++) {
        i = &program[n];
        trace[(*traced)++] = (uint16_t)n;
        right = i->code & 8 ? x : i->k;
        number = loaded(p, i, a, x);
        if (number < 0) {
            return number == OUTSIDE ? 0 : a;
        }
        if (i->code == 0x06 || i->code == 0x16) {
            return i->code == 0x06 ? i->k : a;
        }
        else if (i->code == 0xb1) {
            x = ((uint32_t)number & 15) * 4;
        }
        else if (i->code == 0x00 || i->code == 0x60 || i->code == 0x80) {
            a = i->code == 0x00   ? i->k
                : i->code == 0x60 ? memory[i->k]
                                  : p->wire_length;
        }
        else if ((i->code & 7) == 1) {
            x = i->code == 0x01   ? i->k
                : i->code == 0x61 ? memory[i->k]
                                  : p->wire_length;
        }
        else if ((i->code & 7) == 0) {
            a = (uint32_t)number;
        }
        else if (i->code == 0x02 || i->code == 0x03) {
            memory[i->k] = i->code == 0x02 ? a : x;
        }
        else if (i->code == 0x07) {
            x = a;
        }
        else if (i->code == 0x87) {
            a = x;
        }
        else if (i->code == 0x05) {
            n += i->k;
        }
        else if (is_test(i)) {
            n += test(i->code, a, right) ? i->jt : i->jf;
        }
        else if (right == 0 && (i->code & 0xf0) % 0x60 == 0x30) {
            return 0;
        }
        else {
            a = alu(i->code, a, right);
        }
    }
}

/* ---- The target --------------------------------------------------------- */

static void
check_run(const struct sock_filter *program, size_t count,
          const struct filter_packet *p)
{
    uint16_t *trace = malloc(count * sizeof(*trace));
    uint16_t wanted_trace[MOST_INSTRUCTIONS];
    size_t traced, wanted_traced;
    uint32_t wanted = run(program, p, wanted_trace, &wanted_traced);

    promise(run_filter(program, p) == wanted, "the verdict is right");
    promise(trace_filter(program, p, trace, &traced) == wanted,
            "a trace does not change the verdict");
    promise(traced == wanted_traced
                && memcmp(trace, wanted_trace, traced * sizeof(*trace)) == 0,
            "the trace is right");
    free(trace);
}

static void
check_packet(struct input *in, const struct sock_filter *program, size_t count)
{
    struct filter_packet p = {0};
    uint16_t known, offset;
    uint32_t number, i;
    uint8_t *bytes;

    take(in, &known, 2);
    take(in, &number, 4);
    take(in, &p.wire_length, 4);
    take(in, &offset, 2);
    p.known = known | 1u << RANDOM_FIELD; /* so that it is the same twice */
    p.network_offset = offset == UINT16_MAX ? SIZE_MAX : offset;
    for (i = 0; i < ANCILLARY_FIELDS; i++) {
        p.ancillary[i] = number * (i + 1);
    }
    p.length = in->left;
    bytes = malloc(p.length);
    if (p.length > 0) {
        memcpy(bytes, in->at, p.length);
    }
    p.bytes = bytes;
    check_run(program, count, &p);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    size_t n, at = 0, wanted_at = 0;
    struct sock_filter *program;
    uint8_t count;
    bool valid;

    take(&in, &count, 1);
    program = malloc(count * sizeof(*program));
    for (n = 0; n < count; n++) {
        program[n] = take_instruction(&in);
    }
    valid = check_filter(program, count, &at) == FILTER_VALID;
    promise(valid == accepts(program, count, &wanted_at),
            "valid programs are accepted, and no others");
    if (valid) {
        check_packet(&in, program, count);
    }
    else {
        promise(at == wanted_at, "the first fault is found");
    }
    free(program);
    return 0;
}
