/* The loop, with a function for offload headers. */

#define RECEIVER "receive_calls.h"
#include "../loop/side.c"

/* The offload header (SIDE_VNET_HDR) of frame i to send, or received. */
struct virtio_net_hdr *
side_header(const struct side *s, int received, unsigned i)
{
    return &(received ? s->receiver.batch : s->out)->headers[i];
}
