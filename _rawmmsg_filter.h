/* Classic BPF: checks programs, and runs them over packets in memory, as the
   kernel does. These functions know nothing of Python.

   A packet may come from a hostile sender who writes to it while a program
   runs: a program loads each value once. A program must not change, neither
   while it is checked nor from then on. */

#ifndef RAWMMSG_FILTER_H
#define RAWMMSG_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/filter.h>

/* The fields that a program can load at SKF_AD_OFF + 4 * i. */
#define ANCILLARY_FIELDS (SKF_AD_MAX / 4)

/* A packet, and what the kernel would know about it. The caller's. */
struct filter_packet {
    const unsigned char *bytes;
    size_t length;         /* of `bytes`: no more is read */
    size_t network_offset; /* of the network header; SKF_NET_OFF stands for
                                it. May be beyond `length` */
    uint32_t wire_length;  /* before the packet was truncated */
    uint32_t known;        /* bit i: ancillary[i] has a value */
    uint32_t ancillary[ANCILLARY_FIELDS];
};

/* Why the kernel refuses a program, with EINVAL and no further word. */
enum filter_fault {
    FILTER_VALID,
    FILTER_EMPTY,
    FILTER_TOO_LONG,
    FILTER_UNKNOWN_OPCODE,
    FILTER_JUMP_PAST_END,
    FILTER_DIVISION_BY_ZERO,
    FILTER_LONG_SHIFT,
    FILTER_NO_SCRATCH_WORD,
    FILTER_UNKNOWN_ANCILLARY,
    FILTER_NO_RETURN,
    FILTER_UNWRITTEN_WORD
};

/* Checks a program as net/core/filter.c:bpf_check_classic() does. If it finds
   a fault of an instruction, sets *at to its index. */
enum filter_fault check_filter(const struct sock_filter *program, size_t count,
                               size_t *at);

/* Returns how many bytes from the start of a packet a valid program can read:
   SIZE_MAX if that depends on the packet. */
size_t filter_reach(const struct sock_filter *program, size_t count);

/* Runs a program that check_filter() has found valid. Returns how many bytes
   of the packet it accepts, which may be more than the packet has; 0 rejects
   it. Every program ends, because jumps only go forward. */
uint32_t run_filter(const struct sock_filter *program,
                    const struct filter_packet *p);

/* The same. Writes the index of each executed instruction to `trace`, which
   has room for all instructions of the program, and their number to
   *traced. */
uint32_t trace_filter(const struct sock_filter *program,
                      const struct filter_packet *p, uint16_t *trace,
                      size_t *traced);

#endif
