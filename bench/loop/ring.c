/* The loop with a packet ring on the receiving end. */

#include "loop.h"
#include "ring.h"

#include <net/if.h>

/* Small, for a block is handed over when the frame after it has come. */
#define BLOCK_SIZE (16 * 1024)

#define LARGE (8 * 1024 * 1024)

/* What version 3 puts in front of a frame, at most. */
#define HEADROOM 128

struct side {
    struct sender sender;
    struct ring ring;
    struct inbox inbox;
    uint64_t sent;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        sender_close(&s->sender);
        ring_close(&s->ring);
        inbox_close(&s->inbox);
        free(s);
    }
}

/* A ring of at least two batches; in no more bytes than that, so that what of
   it is in use stays in the cache, unless it is to be large. 0, or -errno. */
static int
open_ring(struct side *s, const struct side_setup *setup)
{
    struct ring_setup wanted = {
        .interface = if_nametoindex(setup->rx_name),
        .version = setup->options & SIDE_V3 ? TPACKET_V3 : TPACKET_V2,
        .option = PACKET_RX_RING,
        .block_size = BLOCK_SIZE,
    };
    size_t bytes = wanted.version == TPACKET_V3
                       ? setup->size + HEADROOM
                       : BLOCK_SIZE / (BLOCK_SIZE / SLOT_SIZE);

    wanted.size = 2 * setup->batch * bytes + 3 * BLOCK_SIZE;
    if (setup->options & SIDE_LARGE && wanted.size < LARGE) {
        wanted.size = LARGE;
    }
    return ring_open(&s->ring, &wanted);
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));
    int result = -ENOMEM;

    if (s != NULL) {
        s->ring.fd = -1;
        result = sender_open(&s->sender, setup);
    }
    if (result == 0) {
        result = inbox_open(&s->inbox, setup);
    }
    if (result == 0) {
        result = open_ring(s, setup);
    }
    if (result == 0) {
        return s;
    }
    snprintf(error, ERROR_SIZE, "a packet ring on %s: %s", setup->rx_name,
             strerror(-result));
    side_close(s);
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
take_all(struct side *s)
{
    while (s->inbox.totals.packets < s->sent) {
        int error = ring_take(&s->ring, put, &s->inbox);

        if (error == -EAGAIN) {
            error = wait_for(s->ring.fd, POLLIN);
        }
        if (error < 0) {
            return error;
        }
    }
    return 0;
}

static int
send_half(struct side *s)
{
    s->sent += s->inbox.batch;
    return sender_send(&s->sender);
}

/* Version 3 takes the blocks that are full. The frames in the one that is not
   would be handed over a millisecond later (RETIRE_MS), and are left to a
   round that comes before. */
static int
receive_half(struct side *s)
{
    if (s->ring.version == TPACKET_V3) {
        while (ring_take(&s->ring, put, &s->inbox) == 0) {
        }
        return 0;
    }
    return take_all(s);
}

int
side_run(struct side *s, unsigned times, uint64_t parts[2])
{
    return run_halves(s, times, parts, send_half, receive_half);
}

int
side_prove(struct side *s, uint32_t *lengths)
{
    int error = take_all(s);

    return error < 0 ? error : inbox_prove(&s->inbox, lengths);
}

int
side_fileno(const struct side *s)
{
    return s->ring.fd;
}

void
side_get_totals(const struct side *s, struct loop_totals *totals)
{
    *totals = s->inbox.totals;
}
