/* Checks classic BPF programs and runs them over packets in memory:
   _rawmmsg_filter.h says what for. The rules are those of net/core/filter.c
   in the kernel. */

#define _DEFAULT_SOURCE /* syscall() */

#include <string.h>

#include <linux/if_ether.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "_rawmmsg_filter.h"
#include "_rawmmsg_offload.h"

/* ---- Constants ---------------------------------------------------------- */

/* Offsets from these up have meanings of their own (linux/filter.h). */
#define ANCILLARY_OFFSET ((uint32_t)SKF_AD_OFF)
#define NETWORK_OFFSET ((uint32_t)SKF_NET_OFF)
#define LINK_OFFSET ((uint32_t)SKF_LL_OFF)

#define ETHERTYPE_OFFSET 12
#define ETHERNET_HEADER 14

/* ---- Checking ----------------------------------------------------------- */

static bool
reads_scratch(uint16_t code)
{
    return code == (BPF_LD | BPF_MEM) || code == (BPF_LDX | BPF_MEM);
}

static bool
writes_scratch(uint16_t code)
{
    return code == BPF_ST || code == BPF_STX;
}

static bool
returns(uint16_t code)
{
    return code == (BPF_RET | BPF_K) || code == (BPF_RET | BPF_A);
}

/* Checks an operation of the ALU. Operands in X are checked when it runs. */
static enum filter_fault
check_arithmetic(const struct sock_filter *i)
{
    switch (i->code & ~BPF_X) {
    case BPF_ALU | BPF_ADD:
    case BPF_ALU | BPF_SUB:
    case BPF_ALU | BPF_MUL:
    case BPF_ALU | BPF_OR:
    case BPF_ALU | BPF_AND:
    case BPF_ALU | BPF_XOR:
        return FILTER_VALID;
    case BPF_ALU | BPF_DIV:
    case BPF_ALU | BPF_MOD:
        return i->code & BPF_X || i->k != 0 ? FILTER_VALID
                                            : FILTER_DIVISION_BY_ZERO;
    case BPF_ALU | BPF_LSH:
    case BPF_ALU | BPF_RSH:
        return i->code & BPF_X || i->k < 32 ? FILTER_VALID : FILTER_LONG_SHIFT;
    default:
        return i->code == (BPF_ALU | BPF_NEG) ? FILTER_VALID
                                              : FILTER_UNKNOWN_OPCODE;
    }
}

/* Checks a jump. `rest` is the number of instructions after it. */
static enum filter_fault
check_jump(const struct sock_filter *i, size_t rest)
{
    switch (i->code) {
    case BPF_JMP | BPF_JA:
        return i->k < rest ? FILTER_VALID : FILTER_JUMP_PAST_END;
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JEQ | BPF_X:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_X:
    case BPF_JMP | BPF_JSET | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_X:
        return i->jt < rest && i->jf < rest ? FILTER_VALID
                                            : FILTER_JUMP_PAST_END;
    default:
        return FILTER_UNKNOWN_OPCODE;
    }
}

/* Checks an instruction that is neither a jump nor an operation. */
static enum filter_fault
check_simple(const struct sock_filter *i)
{
    uint32_t field = i->k - ANCILLARY_OFFSET;

    switch (i->code) {
    case BPF_LD | BPF_W | BPF_ABS:
    case BPF_LD | BPF_H | BPF_ABS:
    case BPF_LD | BPF_B | BPF_ABS:
        /* The field 2, for example, does not exist. */
        return i->k < ANCILLARY_OFFSET
                       || (field < SKF_AD_MAX && field % 4 == 0)
                   ? FILTER_VALID
                   : FILTER_UNKNOWN_ANCILLARY;
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
        return i->k < BPF_MEMWORDS ? FILTER_VALID : FILTER_NO_SCRATCH_WORD;
    case BPF_LD | BPF_W | BPF_IND:
    case BPF_LD | BPF_H | BPF_IND:
    case BPF_LD | BPF_B | BPF_IND:
    case BPF_LD | BPF_IMM:
    case BPF_LD | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_IMM:
    case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_B | BPF_MSH:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA:
        return FILTER_VALID;
    default:
        return FILTER_UNKNOWN_OPCODE;
    }
}

/* Finds the first instruction that reads one of eight scratch words, from
   `first` on, while a path leads to it that has not written the word. Returns
   its index, or `count`.

   As net/core/filter.c:check_load_and_stores(): jumps only go forward, so one
   pass is exact. It intersects, at the target of each jump, the sets of words
   that are written on the paths to it. */
static size_t
find_unwritten(const struct sock_filter *program, size_t count, uint32_t first)
{
    uint8_t written_at[BPF_MAXINSNS], written = 0; /* a bit for each word */
    const struct sock_filter *i;
    size_t n;

    memset(written_at, 0xff, count);
    for (n = 0; n < count; n++) {
        i = &program[n];
        written &= written_at[n];
        if (reads_scratch(i->code) && i->k - first < 8
            && !(written >> (i->k - first) & 1)) {
            return n;
        }
        if (writes_scratch(i->code) && i->k - first < 8) {
            written |= (uint8_t)(1 << (i->k - first));
        }
        else if (BPF_CLASS(i->code) == BPF_JMP) {
            if (BPF_OP(i->code) == BPF_JA) {
                written_at[n + 1 + i->k] &= written;
            }
            else {
                written_at[n + 1 + i->jt] &= written;
                written_at[n + 1 + i->jf] &= written;
            }
            written = UINT8_MAX; /* only jumps lead to what follows */
        }
    }
    return count;
}

static enum filter_fault
check_scratch(const struct sock_filter *program, size_t count, size_t *at)
{
    size_t one = find_unwritten(program, count, 0);
    size_t other = find_unwritten(program, count, 8);

    _Static_assert(BPF_MEMWORDS == 16, "twice eight words");
    *at = one < other ? one : other;
    return *at < count ? FILTER_UNWRITTEN_WORD : FILTER_VALID;
}

enum filter_fault
check_filter(const struct sock_filter *program, size_t count, size_t *at)
{
    enum filter_fault fault;
    bool scratch = false;
    size_t n;

    if (count == 0) {
        return FILTER_EMPTY;
    }
    if (count > BPF_MAXINSNS) {
        return FILTER_TOO_LONG;
    }
    for (n = 0; n < count; n++) {
        switch (BPF_CLASS(program[n].code)) {
        case BPF_ALU:
            fault = check_arithmetic(&program[n]);
            break;
        case BPF_JMP:
            fault = check_jump(&program[n], count - n - 1);
            break;
        default:
            fault = check_simple(&program[n]);
        }
        if (fault != FILTER_VALID) {
            *at = n;
            return fault;
        }
        scratch = scratch || reads_scratch(program[n].code);
    }
    if (!returns(program[count - 1].code)) {
        return FILTER_NO_RETURN;
    }
    return scratch ? check_scratch(program, count, at) : FILTER_VALID;
}

/* ---- What a program reads ----------------------------------------------- */

/* Ancillary data is found in the Ethernet header and what follows it:
   protocol_of(). */
#define ANCILLARY_REACH (ETHERNET_HEADER + 2)

/* How many bytes of the packet an instruction can read from its start. */
static size_t
reach_of(const struct sock_filter *i)
{
    bool loads = BPF_CLASS(i->code) == BPF_LD || BPF_CLASS(i->code) == BPF_LDX;

    if (!loads
        || (BPF_MODE(i->code) != BPF_ABS && BPF_MODE(i->code) != BPF_IND
            && BPF_MODE(i->code) != BPF_MSH)) {
        return 0;
    }
    if (BPF_MODE(i->code) == BPF_IND) {
        return SIZE_MAX;
    }
    if (BPF_MODE(i->code) == BPF_ABS && i->k >= ANCILLARY_OFFSET) {
        return ANCILLARY_REACH;
    }
    /* From LINK_OFFSET on, an offset is relative to a header. */
    return i->k < LINK_OFFSET ? (size_t)i->k + 4 : SIZE_MAX;
}

size_t
filter_reach(const struct sock_filter *program, size_t count)
{
    size_t reach = 0, here, i;

    for (i = 0; i < count; i++) {
        here = reach_of(&program[i]);
        reach = here > reach ? here : reach;
    }
    return reach;
}

/* ---- Running ------------------------------------------------------------ */

/* Loads bytes of the packet as a number in network byte order. False if they
   are outside of the packet. */
static inline bool
load_bytes(const struct filter_packet *p, uint32_t offset, uint16_t code,
           uint32_t *value)
{
    size_t start = offset, base = 0;

    if (offset > INT32_MAX) {
        if (offset < LINK_OFFSET) {
            return false;
        }
        start = offset - LINK_OFFSET;
        if (offset >= NETWORK_OFFSET) {
            start = offset - NETWORK_OFFSET;
            base = p->network_offset;
        }
    }
    if (base > p->length || start >= p->length - base) {
        return false;
    }
    start += base;
    switch (BPF_SIZE(code)) {
    case BPF_B:
        *value = load_byte(p->bytes + start);
        return true;
    case BPF_H:
        if (p->length - start < 2) {
            return false;
        }
        *value = load_be16(p->bytes + start);
        return true;
    default:
        if (p->length - start < 4) {
            return false;
        }
        *value = load_be32(p->bytes + start);
        return true;
    }
}

/* Returns a random number. Where getrandom(2) fails (Linux 3.17 was the first
   to have it), it is 0. */
static uint32_t
random_number(void)
{
    uint32_t number = 0;

    return syscall(SYS_getrandom, &number, sizeof(number), 0) == sizeof(number)
               ? number
               : 0;
}

static inline bool
knows(const struct filter_packet *p, uint32_t field)
{
    return p->known >> field / 4 & 1;
}

/* Returns the protocol of an Ethernet frame as net/ethernet/eth.c:
   eth_type_trans() finds it; 0 if the frame is too short. */
static uint32_t
protocol_of(const struct filter_packet *p)
{
    uint32_t type = 0, start = 0;

    if (!load_bytes(p, ETHERTYPE_OFFSET, BPF_H, &type)
        || type >= ETH_P_802_3_MIN) {
        return type;
    }
    /* The field is a length. The payload of Novell's IPX begins so. */
    load_bytes(p, ETHERNET_HEADER, BPF_H, &start);
    return start == UINT16_MAX ? ETH_P_802_3 : ETH_P_802_2;
}

/* Loads ancillary data, of which most is 0 if it is not known. False if the
   program ends with the value of A: net/core/filter.c:
   convert_bpf_extensions() ends it so if there is no interface. */
static bool
load_ancillary(const struct filter_packet *p, uint32_t field, uint32_t a,
               uint32_t x, uint32_t *value)
{
    *value = 0;
    if (field == SKF_AD_ALU_XOR_X) {
        *value = a ^ x;
    }
    else if (knows(p, field)) {
        *value = p->ancillary[field / 4];
    }
    else if (field == SKF_AD_PROTOCOL) {
        *value = protocol_of(p);
    }
    else if (field == SKF_AD_RANDOM) {
        *value = random_number();
    }
    else if (field == SKF_AD_IFINDEX || field == SKF_AD_HATYPE) {
        return knows(p, SKF_AD_IFINDEX);
    }
    return true;
}

static inline uint32_t
calculate(uint16_t code, uint32_t a, uint32_t b)
{
    switch (BPF_OP(code)) {
    case BPF_ADD:
        return a + b;
    case BPF_SUB:
        return a - b;
    case BPF_MUL:
        return a * b;
    case BPF_DIV:
        return a / b;
    case BPF_MOD:
        return a % b;
    case BPF_OR:
        return a | b;
    case BPF_AND:
        return a & b;
    case BPF_XOR:
        return a ^ b;
    case BPF_LSH:
        return a << (b & 31);
    case BPF_RSH:
        return a >> (b & 31);
    default: /* BPF_NEG */
        return -a;
    }
}

static inline bool
divides(uint16_t code)
{
    return BPF_OP(code) == BPF_DIV || BPF_OP(code) == BPF_MOD;
}

/* Returns whether the test of a conditional jump holds. */
static inline bool
holds(uint16_t code, uint32_t a, uint32_t b)
{
    switch (BPF_OP(code)) {
    case BPF_JEQ:
        return a == b;
    case BPF_JGT:
        return a > b;
    case BPF_JGE:
        return a >= b;
    default: /* BPF_JSET */
        return (a & b) != 0;
    }
}

/* The registers of a program. */
struct machine {
    uint32_t a;
    uint32_t x;
    uint32_t scratch[BPF_MEMWORDS];
};

/* Runs BPF_LD or BPF_LDX; *value is what goes to the register. False if the
   program ends: *value is then what it returns. */
static inline bool
load(const struct filter_packet *p, const struct sock_filter *i,
     const struct machine *m, uint32_t *value)
{
    bool inside;

    switch (BPF_MODE(i->code)) {
    case BPF_IMM:
        *value = i->k;
        return true;
    case BPF_MEM:
        *value = m->scratch[i->k];
        return true;
    case BPF_LEN:
        *value = p->wire_length;
        return true;
    case BPF_ABS:
        if (i->k >= ANCILLARY_OFFSET) {
            inside =
                load_ancillary(p, i->k - ANCILLARY_OFFSET, m->a, m->x, value);
            *value = inside ? *value : m->a;
            return inside;
        }
        inside = load_bytes(p, i->k, i->code, value);
        break;
    case BPF_IND:
        inside = load_bytes(p, m->x + i->k, i->code, value);
        break;
    default: /* BPF_MSH */
        inside = load_bytes(p, i->k, BPF_B, value);
        *value = inside ? 4 * (*value & 15) : 0;
    }
    *value = inside ? *value : 0;
    return inside;
}

/* run_filter() and trace_filter(): compiled for each of them, so that the
   first one does not look at `trace`. */
static inline __attribute__((always_inline)) uint32_t
interpret(const struct sock_filter *program, const struct filter_packet *p,
          uint16_t *trace, size_t *traced)
{
    struct machine m = {0};
    const struct sock_filter *i;
    uint32_t operand, value;

    for (i = program;; i++) {
        if (trace != NULL) {
            trace[(*traced)++] = (uint16_t)(i - program);
        }
        operand = i->code & BPF_X ? m.x : i->k;
        switch (BPF_CLASS(i->code)) {
        case BPF_LD:
        case BPF_LDX:
            if (!load(p, i, &m, &value)) {
                return value;
            }
            if (BPF_CLASS(i->code) == BPF_LD) {
                m.a = value;
            }
            else {
                m.x = value;
            }
            break;
        case BPF_ST:
            m.scratch[i->k] = m.a;
            break;
        case BPF_STX:
            m.scratch[i->k] = m.x;
            break;
        case BPF_ALU:
            if (operand == 0 && divides(i->code)) {
                return 0;
            }
            m.a = calculate(i->code, m.a, operand);
            break;
        case BPF_JMP:
            if (BPF_OP(i->code) == BPF_JA) {
                i += i->k;
            }
            else {
                i += holds(i->code, m.a, operand) ? i->jt : i->jf;
            }
            break;
        case BPF_RET:
            return BPF_RVAL(i->code) == BPF_A ? m.a : i->k;
        default: /* BPF_MISC */
            if (BPF_MISCOP(i->code) == BPF_TXA) {
                m.a = m.x;
            }
            else {
                m.x = m.a;
            }
        }
    }
}

uint32_t
run_filter(const struct sock_filter *program, const struct filter_packet *p)
{
    return interpret(program, p, NULL, NULL);
}

uint32_t
trace_filter(const struct sock_filter *program, const struct filter_packet *p,
             uint16_t *trace, size_t *traced)
{
    *traced = 0;
    return interpret(program, p, trace, traced);
}
