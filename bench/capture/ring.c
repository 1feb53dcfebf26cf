/* Receiving by a packet ring. */

#include "receiving.h"
#include "inbox.h"
#include "ring.h"

#include <net/if.h>

#define SLOT_BLOCK (64 * 1024)
#define BLOCK (1024 * 1024)
#define ROOM \
    (16 * 1024 * 1024) /* as much as the sockets of other sides have */

struct receiving {
    struct ring ring;
    struct inbox inbox;
    struct examiner examiner;
};

void
receiving_close(struct receiving *r)
{
    if (r != NULL) {
        ring_close(&r->ring);
        inbox_close(&r->inbox);
        examiner_close(&r->examiner);
        free(r);
    }
}

static int
open_ring(struct receiving *r, const struct loop_setup *setup)
{
    int is_v3 = (setup->options & LOOP_V3) != 0;
    struct ring_setup wanted = {
        .interface = if_nametoindex(setup->rx_name),
        .version = is_v3 ? TPACKET_V3 : TPACKET_V2,
        .option = PACKET_RX_RING,
        .block_size = is_v3 ? BLOCK : SLOT_BLOCK,
        .size = ROOM,
    };

    return ring_open(&r->ring, &wanted);
}

struct receiving *
receiving_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct receiving *r = calloc(1, sizeof(*r));
    int result = -ENOMEM;

    if (r != NULL) {
        r->ring.fd = -1;
        result = examiner_open(&r->examiner, setup);
    }
    if (result == 0) {
        result = inbox_open(&r->inbox, setup);
    }
    if (result == 0) {
        result = open_ring(r, setup);
    }
    if (result == 0) {
        return r;
    }
    snprintf(error, ERROR_SIZE, "a packet ring on %s: %s", setup->rx_name,
             strerror(-result));
    receiving_close(r);
    return NULL;
}

/* The frame is examined where it then is. */
static void
put(void *receiving, const struct ring_frame *frame)
{
    struct receiving *r = receiving;
    const char *at = inbox_put(&r->inbox, frame->data, frame->length,
                               frame->tagged, frame->stamped);

    examine(&r->examiner, at, frame->length);
}

/* A batch, or a block. */
static int
take(struct receiving *r)
{
    uint64_t before = r->examiner.receipt->frames, taken = 0;

    while (taken < r->inbox.batch && ring_take(&r->ring, put, r) == 0) {
        taken = r->examiner.receipt->frames - before;
    }
    return (int)taken;
}

int
receiving_run(struct receiving *r, const int *over, int more,
              struct receipt *receipt)
{
    r->examiner.receipt = receipt;
    return receive_until(r, &r->examiner, over, more, r->ring.fd, take);
}

int
receiving_fileno(const struct receiving *r)
{
    return r->ring.fd;
}
