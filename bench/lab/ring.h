/* The memory that a packet socket shares with the kernel: PACKET_RX_RING and
   PACKET_TX_RING (Documentation/networking/packet_mmap.rst). */

#pragma once

#include "side.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <sys/mman.h>

/* Room for a frame of 1,500 bytes, its tags, and the kernel's header. Not a
   power of two, because slots would compete for the same cache sets. */
#define SLOT_SIZE 2112

/* The shortest time after which a block that is not full is passed on. */
#define RETIRE_MS 1

struct ring {
    /* Set before ring_open(). */
    int version; /* TPACKET_V2: slots; TPACKET_V3: blocks, to receive only */
    size_t block_size;
    unsigned blocks;

    int fd;
    char *memory;
    size_t size;
    unsigned slots_per_block; /* version 3: 1 */
    unsigned block, slot;     /* the next to look at */
};

/* Closing what is not open fails, which does no harm. */
static void
ring_close(struct ring *r)
{
    munmap(r->memory, r->size);
    close(r->fd);
}

/* `option` is PACKET_RX_RING, or PACKET_TX_RING, which does not listen. 0, or
   -errno; ring_close() follows in either case. */
static int
ring_open(struct ring *r, const char *interface, int option)
{
    int protocol = option == PACKET_RX_RING ? ETH_P_ALL : 0;
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET,
        .sll_ifindex = (int)if_nametoindex(interface),
        .sll_protocol = htons((uint16_t)protocol),
    };
    unsigned slots = (unsigned)(r->block_size / SLOT_SIZE);
    struct tpacket_req3 request = {
        .tp_block_size = (unsigned)r->block_size,
        .tp_block_nr = r->blocks,
        .tp_frame_size = SLOT_SIZE,
        .tp_frame_nr = r->blocks * slots,
        .tp_retire_blk_tov = RETIRE_MS, /* version 3 */
    };
    int v3 = r->version == TPACKET_V3;

    r->slots_per_block = v3 ? 1 : slots;
    r->size = r->block_size * r->blocks;
    r->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (r->fd < 0
        || setsockopt(r->fd, SOL_PACKET, PACKET_VERSION, &r->version,
                      sizeof(r->version))
               < 0
        || setsockopt(r->fd, SOL_PACKET, option, &request,
                      v3 ? sizeof(request) : sizeof(struct tpacket_req))
               < 0) {
        return -errno;
    }
    r->memory = mmap(NULL, r->size, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_POPULATE, r->fd, 0);
    if (r->memory == MAP_FAILED
        || bind(r->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return -errno;
    }
    return 0;
}

/* The slot (version 2) or the block (version 3) to look at. */
static inline void *
ring_slot(const struct ring *r)
{
    return r->memory + r->block * r->block_size + (size_t)r->slot * SLOT_SIZE;
}

static inline void
ring_next(struct ring *r)
{
    if (++r->slot >= r->slots_per_block) {
        r->slot = 0;
        r->block = r->block + 1 < r->blocks ? r->block + 1 : 0;
    }
}

static inline int
ring_take_slot(struct tpacket2_hdr *slot, arrival_put *put, void *sink)
{
    uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
    struct arrival frame = {
        .data = (const char *)slot + slot->tp_mac,
        .length = slot->tp_snaplen,
        .tagged = (status & TP_STATUS_VLAN_VALID) != 0,
        .stamped = slot->tp_sec != 0,
    };

    if (!(status & TP_STATUS_USER)) {
        return 0;
    }
    put(sink, &frame);
    __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    return 1;
}

static inline int
ring_take_block(struct tpacket_block_desc *block, arrival_put *put, void *sink)
{
    struct tpacket_hdr_v1 *header = &block->hdr.bh1;
    const char *at = (const char *)block;
    int i, n;

    if (!(__atomic_load_n(&header->block_status, __ATOMIC_ACQUIRE)
          & TP_STATUS_USER)) {
        return 0;
    }
    at += header->offset_to_first_pkt;
    n = (int)header->num_pkts;
    for (i = 0; i < n; i++) {
        const struct tpacket3_hdr *slot = (const void *)at;
        struct arrival frame = {
            .data = at + slot->tp_mac,
            .length = slot->tp_snaplen,
            .tagged = (slot->tp_status & TP_STATUS_VLAN_VALID) != 0,
            .stamped = slot->tp_sec != 0,
        };

        put(sink, &frame);
        at += slot->tp_next_offset;
    }
    __atomic_store_n(&header->block_status, TP_STATUS_KERNEL,
                     __ATOMIC_RELEASE);
    return n;
}

/* Passes on the frames of a slot or block and gives it back: how many, 0 if
   there are none. */
static inline int
ring_take(struct ring *r, arrival_put *put, void *sink)
{
    int n = r->version == TPACKET_V3 ? ring_take_block(ring_slot(r), put, sink)
                                     : ring_take_slot(ring_slot(r), put, sink);

    if (n > 0) {
        ring_next(r);
    }
    return n;
}
