/* Receiving by AF_XDP in copy mode (Documentation/networking/af_xdp.rst): a
   program at the interface passes each frame to the socket, before the rest of
   the network stack. Plain system calls; no library is needed. */

#pragma once

#include "side.h"

#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <sys/mman.h>

#ifndef SOL_XDP
#define SOL_XDP 283
#endif

/* Powers of two. */
#define CHUNK_SIZE 2048
#define CHUNKS 8192 /* 16 MiB, as the queues of the sockets */

/* A ring shared with the kernel. */
struct queue {
    char *map;
    size_t size;
    uint32_t *producer, *consumer;
    void *entries;
};

struct receiver {
    int fd, map, program, link;
    char *memory; /* of the frames */
    struct queue filled, received;
    unsigned batch;
    int in_place; /* -1: there is no packet socket that counts drops */
};

static long
bpf(int command, union bpf_attr *attributes)
{
    return syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

/* Closing what is not open fails, which does no harm. */
static void
receiver_close(struct receiver *r)
{
    close(r->link); /* takes the program off the interface */
    close(r->program);
    close(r->map);
    close(r->fd);
    munmap(r->filled.map, r->filled.size);
    munmap(r->received.map, r->received.size);
    munmap(r->memory, (size_t)CHUNKS * CHUNK_SIZE);
}

static int
set_size(int fd, int option)
{
    int size = CHUNKS;

    return setsockopt(fd, SOL_XDP, option, &size, sizeof(size));
}

/* 0, or -1 with errno set, like the functions below. */
static int
map_queue(int fd, struct queue *q, const struct xdp_ring_offset *at,
          size_t entry, off_t which)
{
    q->size = at->desc + CHUNKS * entry;
    q->map = mmap(NULL, q->size, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_POPULATE, fd, which);
    q->producer = (uint32_t *)(q->map + at->producer);
    q->consumer = (uint32_t *)(q->map + at->consumer);
    q->entries = q->map + at->desc;
    return q->map == MAP_FAILED ? -1 : 0;
}

/* Makes the memory of the frames, and lets the kernel fill all of it. */
static int
open_socket(struct receiver *r)
{
    struct xdp_umem_reg memory = {
        .len = (uint64_t)CHUNKS * CHUNK_SIZE,
        .chunk_size = CHUNK_SIZE,
    };
    struct xdp_mmap_offsets at;
    socklen_t size = sizeof(at);
    uint64_t *chunks;
    uint32_t i;

    r->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    r->memory = mmap(NULL, memory.len, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    memory.addr = (uintptr_t)r->memory;
    if (r->fd < 0 || r->memory == MAP_FAILED
        || setsockopt(r->fd, SOL_XDP, XDP_UMEM_REG, &memory, sizeof(memory))
               < 0
        || set_size(r->fd, XDP_UMEM_FILL_RING) < 0
        || set_size(r->fd, XDP_UMEM_COMPLETION_RING) < 0
        || set_size(r->fd, XDP_RX_RING) < 0
        || getsockopt(r->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &size) < 0
        || map_queue(r->fd, &r->filled, &at.fr, sizeof(uint64_t),
                     XDP_UMEM_PGOFF_FILL_RING)
               < 0
        || map_queue(r->fd, &r->received, &at.rx, sizeof(struct xdp_desc),
                     XDP_PGOFF_RX_RING)
               < 0) {
        return -1;
    }
    chunks = r->filled.entries;
    for (i = 0; i < CHUNKS; i++) {
        chunks[i] = (uint64_t)i * CHUNK_SIZE;
    }
    __atomic_store_n(r->filled.producer, CHUNKS, __ATOMIC_RELEASE);
    return 0;
}

/* return bpf_redirect_map(&map, ctx->rx_queue_index, XDP_PASS) */
static int
load_program(struct receiver *r)
{
    union bpf_attr map = {
        .map_type = BPF_MAP_TYPE_XSKMAP,
        .key_size = sizeof(uint32_t),
        .value_size = sizeof(int),
        .max_entries = 1,
    };
    union bpf_attr program = {.prog_type = BPF_PROG_TYPE_XDP};
    struct bpf_insn code[] = {
        /* code, destination, source, offset, number */
        {BPF_LDX | BPF_W | BPF_MEM, BPF_REG_2, BPF_REG_1,
         offsetof(struct xdp_md, rx_queue_index), 0},
        {BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, 0},
        {0, 0, 0, 0, 0}, /* the upper half of the number */
        {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, XDP_PASS},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
    };

    r->map = (int)bpf(BPF_MAP_CREATE, &map);
    code[1].imm = r->map;
    program.insns = (uintptr_t)code;
    program.insn_cnt = sizeof(code) / sizeof(code[0]);
    program.license = (uintptr_t)"Dual MIT/GPL";
    r->program = r->map < 0 ? -1 : (int)bpf(BPF_PROG_LOAD, &program);
    return r->program < 0 ? -1 : 0;
}

/* Uses the stack's hook and not the driver's, for which veth copies each frame
   into other memory. That costs more than the stack does before its own
   hook. */
static int
attach(struct receiver *r, unsigned interface)
{
    struct sockaddr_xdp address = {
        .sxdp_family = AF_XDP,
        .sxdp_flags = XDP_COPY,
        .sxdp_ifindex = interface,
    };
    uint32_t key = 0;
    union bpf_attr element = {
        .map_fd = (uint32_t)r->map,
        .key = (uintptr_t)&key,
        .value = (uintptr_t)&r->fd,
    };
    union bpf_attr link = {
        .link_create.prog_fd = (uint32_t)r->program,
        .link_create.target_ifindex = interface,
        .link_create.attach_type = BPF_XDP,
        .link_create.flags = XDP_FLAGS_SKB_MODE,
    };

    if (bind(r->fd, (struct sockaddr *)&address, sizeof(address)) < 0
        || bpf(BPF_MAP_UPDATE_ELEM, &element) < 0) {
        return -1;
    }
    r->link = (int)bpf(BPF_LINK_CREATE, &link);
    return r->link < 0 ? -1 : 0;
}

static int
receiver_open(struct receiver *r, const struct side_setup *setup, char *error)
{
    *r = (struct receiver){
        -1, -1, -1, -1, .batch = setup->batch, .in_place = -1};
    if (open_socket(r) < 0 || load_program(r) < 0
        || attach(r, if_nametoindex(setup->rx_name)) < 0) {
        return fail(error, "AF_XDP on", setup->rx_name, errno);
    }
    return 0;
}

/* At most a batch. The chunks go back to the kernel, which does not write to
   one again before it has used all others. */
static inline int
receiver_take(struct receiver *r, arrival_put *put, void *sink)
{
    const struct xdp_desc *frames = r->received.entries;
    uint64_t *chunks = r->filled.entries;
    uint32_t begin = *r->received.consumer, free = *r->filled.producer;
    uint32_t n =
        __atomic_load_n(r->received.producer, __ATOMIC_ACQUIRE) - begin;
    uint32_t i;

    n = n < r->batch ? n : r->batch;
    for (i = 0; i < n; i++) {
        struct xdp_desc at = frames[(begin + i) % CHUNKS];
        struct arrival frame = {r->memory + at.addr, at.len, 0, 0};

        put(sink, &frame);
        chunks[(free + i) % CHUNKS] = at.addr / CHUNK_SIZE * CHUNK_SIZE;
    }
    __atomic_store_n(r->received.consumer, begin + n, __ATOMIC_RELEASE);
    __atomic_store_n(r->filled.producer, free + n, __ATOMIC_RELEASE);
    return (int)n;
}

static inline int
receiver_fileno(const struct receiver *r)
{
    return r->fd;
}
