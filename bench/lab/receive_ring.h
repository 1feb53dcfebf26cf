/* Receiving by a packet ring, TPACKET_V2 or (SIDE_V3) TPACKET_V3. */

#pragma once

#include "ring.h"

/* Small blocks: a block is passed on when the frame after it arrives. */
#define BLOCK_SIZE (16 * 1024)
#define LARGE_SIZE (8 * 1024 * 1024)

/* For a flood: as large as the queues of the sockets. */
#define FLOOD_SLOT_BLOCK (64 * 1024)
#define FLOOD_BLOCK (1024 * 1024)
#define FLOOD_SIZE (16 * 1024 * 1024)

#define HEADROOM 128 /* the most that version 3 puts before a frame */

struct receiver {
    struct ring ring;
    unsigned batch;
    int in_place;
    int lazy;
};

static void
receiver_close(struct receiver *r)
{
    ring_close(&r->ring);
}

/* A ring of two batches, which is small enough to stay in the cache, unless a
   larger one is wanted. */
static int
receiver_open(struct receiver *r, const struct side_setup *setup, char *error)
{
    int v3 = (setup->options & SIDE_V3) != 0, result;
    size_t bytes =
        v3 ? setup->size + HEADROOM : BLOCK_SIZE / (BLOCK_SIZE / SLOT_SIZE);
    size_t size = 2 * setup->batch * bytes + 3 * BLOCK_SIZE;
    size_t block = BLOCK_SIZE;

    if (setup->options & SIDE_LARGE && size < LARGE_SIZE) {
        size = LARGE_SIZE;
    }
    if (setup->options & SIDE_FLOOD) {
        size = FLOOD_SIZE;
        block = v3 ? FLOOD_BLOCK : FLOOD_SLOT_BLOCK;
    }
    *r = (struct receiver){.batch = setup->batch, .lazy = v3};
    r->ring.version = v3 ? TPACKET_V3 : TPACKET_V2;
    r->ring.block_size = block;
    r->ring.blocks = (unsigned)((size - 1) / block + 1);
    result = ring_open(&r->ring, setup->rx_name, PACKET_RX_RING);
    return result < 0 ? fail(error, "a ring on", setup->rx_name, -result) : 0;
}

/* At most a batch, or the rest of a block. */
static inline int
receiver_take(struct receiver *r, arrival_put *put, void *sink)
{
    unsigned taken = 0;
    int n = 1;

    while (taken < r->batch && n > 0) {
        n = ring_take(&r->ring, put, sink);
        taken += (unsigned)n;
    }
    return (int)taken;
}

static inline int
receiver_fileno(const struct receiver *r)
{
    return r->ring.fd;
}
