/* Offloads: what a NIC would have done to a frame, done here.

   A frame of a socket with vnet_hdr may lack its checksum, or be a
   super-frame of many segments; the header beside it (struct offload_header)
   says so. The functions below complete such frames for a receiver that
   needs whole ones. They know nothing of Python. Frames and headers may come
   from a stranger, and user code may write to them while the functions run,
   so each value that decides about memory is read once and then checked.

   Reasons are static strings that say why a frame cannot be used; NULL
   means that it can. */

#ifndef RAWMMSG_OFFLOAD_H
#define RAWMMSG_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/uio.h>

/* struct virtio_net_hdr_mrg_rxbuf (linux/virtio_net.h) in the machine's byte
   order, as packet sockets have it: the longest header that
   PACKET_VNET_HDR_SZ allows. The usual one, struct virtio_net_hdr, lacks the
   last field. */
struct offload_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t header_length;
    uint16_t gso_size;
    uint16_t checksum_start;
    uint16_t checksum_offset;
    uint16_t buffer_count;
};

_Static_assert(sizeof(struct offload_header) == 12, "no padding");

/* offload_header.flags and .gso_type: VIRTIO_NET_HDR_F_ and
   VIRTIO_NET_HDR_GSO_. */
enum {
    VNET_NEEDS_CSUM = 1
};
enum {
    GSO_NONE = 0,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,
    GSO_UDP_L4 = 5,
    GSO_ECN = 0x80
};

enum packet_flag {
    TRUNCATED = 1 << 0,
    CHECKSUM_NOT_READY = 1 << 1,
    CHECKSUM_VALID = 1 << 2,
    VLAN_RESTORED = 1 << 3,
    CONTROL_TRUNCATED = 1 << 4,
    FOREIGN = 1 << 5,
};

/* A tag is put in after the two addresses of an Ethernet header. */
#define TAG_OFFSET 12
#define TAG_SIZE 4

/* Rows of frames and what belongs to each; all is the caller's. Other threads
   may write to frames, headers and lengths at any time. */
struct frame_table {
    size_t count;              /* rows */
    const struct iovec *parts; /* 2i + 1: frame i, and the room it has */
    struct offload_header *headers;
    _Atomic uint32_t *lengths;
    uint16_t *flags; /* enum packet_flag */
};

/* Whether the kernel takes the frames from `start` on with their headers: how
   many of them, with *reason set where that is not all. A frame is as long as
   the room that it has. One that lacks an SCTP checksum gets it here, because
   the kernel would write an Internet checksum. */
size_t check_frames(const struct frame_table *t, size_t start,
                    const char **reason);

/* Completes the checksums of the frames, except super-frames: how many it
   has completed, with *reason set where the frame at *at cannot be. */
size_t complete_frames(const struct frame_table *t, size_t *at,
                       const char **reason);

/* A walk from the frames of one table to what a sink without offloads needs:
   frames as they are, with their checksums, or cut into segments. */
struct segmentation {
    struct frame_table from;
    struct frame_table to; /* shares no memory with `from` */
    size_t written;        /* rows of `to` */

    size_t frame;       /* where it is now */
    uint32_t segment;   /* of that frame */
    const char *reason; /* why it stopped there; NULL: done, or `to` is full */
};

/* Goes on until all is done, the target is full, or a frame cannot be done. */
void segment_frames(struct segmentation *g);

/* One load, that the compiler does not repeat. */
static inline uint8_t
load_byte(const unsigned char *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline uint16_t
load_be16(const unsigned char *p)
{
    return (uint16_t)(load_byte(p) << 8 | load_byte(p + 1));
}

#endif
