/* The baseline: a C program that does the same work with the same system calls
   in the same pattern, on the same sockets and frames. */

#include "receive_calls.h"
#include "loop.h"

/* The offload header (SIDE_VNET_HDR) of frame i to send, or received. */
struct virtio_net_hdr *
side_header(const struct side *s, int received, unsigned i)
{
    return &(received ? s->receiver.batch : s->out)->headers[i];
}
