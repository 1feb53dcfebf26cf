/* The loop with a packet ring on the receiving end. */

#include "inbox.h"
#include "ring.h"

#include <net/if.h>

/* Small, for a block is handed over when the frame after it has come. */
#define BLOCK_SIZE (16 * 1024)

#define LARGE (8 * 1024 * 1024)

/* What version 3 puts in front of a frame, at most. */
#define HEADROOM 128

struct loop {
    struct sender sender;
    struct ring ring;
    struct inbox inbox;
    uint64_t sent;
};

void
loop_close(struct loop *l)
{
    if (l != NULL) {
        sender_close(&l->sender);
        ring_close(&l->ring);
        inbox_close(&l->inbox);
        free(l);
    }
}

/* A ring of at least two batches; in no more bytes than that, so that what of
   it is in use stays in the cache, unless it is to be large. 0, or -errno. */
static int
open_ring(struct loop *l, const struct loop_setup *setup)
{
    struct ring_setup wanted = {
        .interface = if_nametoindex(setup->rx_name),
        .version = setup->options & LOOP_V3 ? TPACKET_V3 : TPACKET_V2,
        .option = PACKET_RX_RING,
        .block_size = BLOCK_SIZE,
    };
    size_t bytes = wanted.version == TPACKET_V3
                       ? setup->size + HEADROOM
                       : BLOCK_SIZE / (BLOCK_SIZE / SLOT_SIZE);

    wanted.size = 2 * setup->batch * bytes + 3 * BLOCK_SIZE;
    if (setup->options & LOOP_LARGE && wanted.size < LARGE) {
        wanted.size = LARGE;
    }
    return ring_open(&l->ring, &wanted);
}

struct loop *
loop_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct loop *l = calloc(1, sizeof(*l));
    int result = -ENOMEM;

    if (l != NULL) {
        l->ring.fd = -1;
        result = sender_open(&l->sender, setup);
    }
    if (result == 0) {
        result = inbox_open(&l->inbox, setup);
    }
    if (result == 0) {
        result = open_ring(l, setup);
    }
    if (result == 0) {
        return l;
    }
    snprintf(error, ERROR_SIZE, "a packet ring on %s: %s", setup->rx_name,
             strerror(-result));
    loop_close(l);
    return NULL;
}

static void
put(void *inbox, const struct ring_frame *frame)
{
    inbox_put(inbox, frame->data, frame->length, frame->tagged,
              frame->stamped);
}

/* Waits for all that was sent: 0, or -errno. */
static int
take_all(struct loop *l)
{
    while (l->inbox.totals.packets < l->sent) {
        int error = ring_take(&l->ring, put, &l->inbox);

        if (error == -EAGAIN) {
            error = wait_for(l->ring.fd, POLLIN);
        }
        if (error < 0) {
            return error;
        }
    }
    return 0;
}

static int
send_half(struct loop *l)
{
    l->sent += l->inbox.batch;
    return sender_send(&l->sender);
}

/* Version 3 takes the blocks that are full. The frames in the one that is not
   would be handed over a millisecond later (RETIRE_MS), and are left to a
   round that comes before. */
static int
receive_half(struct loop *l)
{
    if (l->ring.version == TPACKET_V3) {
        while (ring_take(&l->ring, put, &l->inbox) == 0) {
        }
        return 0;
    }
    return take_all(l);
}

int
loop_run(struct loop *l, unsigned rounds, uint64_t parts[2])
{
    return run_halves(l, rounds, parts, send_half, receive_half);
}

int
loop_prove(struct loop *l, uint32_t *lengths)
{
    int error = take_all(l);

    return error < 0 ? error : inbox_prove(&l->inbox, lengths);
}

int
loop_fileno(const struct loop *l)
{
    return l->ring.fd;
}

void
loop_get_totals(const struct loop *l, struct loop_totals *totals)
{
    *totals = l->inbox.totals;
}
