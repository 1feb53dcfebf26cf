/* Offloads: the work that a sender leaves to the network device, done here.

   On a socket with vnet_hdr, the checksum of a frame may be missing, and a
   frame may be a super-frame, which the device would cut into segments. The
   header beside each frame (struct offload_header) says so. The functions
   below do that work for callers that need complete frames. They also merge
   complete frames into super-frames. They know nothing of Python.

   Frames and headers may come from a hostile sender, and user code may write
   to them while these functions run. So each value that decides about memory
   is read once and then checked.

   A reason is a static string that says why a frame cannot be processed. NULL
   means that it can. */

#ifndef RAWMMSG_OFFLOAD_H
#define RAWMMSG_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <sys/uio.h>

/* struct virtio_net_hdr_mrg_rxbuf (linux/virtio_net.h): the longest header
   that PACKET_VNET_HDR_SZ allows. The usual one, struct virtio_net_hdr, does
   not have the last field. Packet sockets use the machine's byte order. */
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

/* Values of offload_header.flags (the kernel's VIRTIO_NET_HDR_F_) and of
   .gso_type (VIRTIO_NET_HDR_GSO_). */
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

/* Bits of the column `flags`. */
enum packet_flag {
    TRUNCATED = 1 << 0,
    CHECKSUM_NOT_READY = 1 << 1,
    CHECKSUM_VALID = 1 << 2,
    VLAN_RESTORED = 1 << 3,
    CONTROL_TRUNCATED = 1 << 4,
    FOREIGN = 1 << 5,
};

/* A VLAN tag follows the two addresses of an Ethernet header. */
#define TAG_OFFSET 12
#define TAG_SIZE 4

/* The frames of a batch, one in each row. All memory belongs to the caller.
   User code may write to the frames, headers and lengths at any time; nobody
   else uses the rest meanwhile. */
struct frame_table {
    size_t count;              /* rows */
    const struct iovec *parts; /* part 2i + 1 is frame i: where its memory is,
                                  and how much it has */
    struct offload_header *headers; /* NULL: all frames are complete (only
                                       in `from` of merge_frames(), and for
                                       compute_frames(), verify_frames()) */
    _Atomic uint32_t *lengths;
    uint16_t *flags; /* enum packet_flag; NULL: not known (only for
                        verify_frames()) */
};

/* Checks whether the kernel accepts the frames from `start` on with their
   headers. Returns how many it accepts, and sets *reason if it refuses the
   next one. Here a frame is as long as its memory.

   If the checksum of an SCTP packet is missing, completes it in the frame: no
   offload header can ask for a CRC32c, so the kernel would write an Internet
   checksum. */
size_t check_frames(const struct frame_table *t, size_t start,
                    const char **reason);

/* Completes the missing checksums of all frames except super-frames. Returns
   how many it has completed. Stops at the first frame that it cannot process:
   *reason then says why, and *at is the row. */
size_t complete_frames(const struct frame_table *t, size_t *at,
                       const char **reason);

/* Computes the checksums of the outer headers of all frames of IP: of the IPv4
   header, and of TCP, UDP, ICMP, ICMPv6 and SCTP. If the header of a frame asks
   for another one (in a tunnel), completes that first. In a super-frame, writes
   the sum of the pseudo-header, which a device starts from. Returns how many
   frames of IP there are. Stops at the first one that it cannot process:
   *reason then says why, and *at is the row. */
size_t compute_frames(const struct frame_table *t, size_t *at,
                      const char **reason);

/* What verify_frames() says about a frame: BAD if a checksum is wrong, even if
   another one is missing; PENDING if one is missing; otherwise GOOD or NONE. */
enum checksum_status {
    CHECKSUM_NONE,   /* no transport checksum, or the frame cannot be read */
    CHECKSUM_GOOD,   /* of the transport header, and of the IPv4 header */
    CHECKSUM_BAD,    /* one of the two */
    CHECKSUM_PENDING /* that of the transport header is still missing */
};

/* Verifies the same checksums, and writes a status for each frame. Stops at the
   first frame whose length is beyond its memory: *reason then says so, and *at
   is the row. */
void verify_frames(const struct frame_table *t, uint8_t *statuses, size_t *at,
                   const char **reason);

/* The state of segment_frames(). The caller's; nobody else uses it. */
struct segmentation {
    struct frame_table from;
    struct frame_table to; /* shares no memory with `from` */
    size_t written;        /* rows of `to` that are filled */

    size_t frame;       /* the row of `from` to go on with */
    uint32_t segment;   /* and the segment of that frame */
    const char *reason; /* why that frame cannot be processed, or NULL */
};

/* Fills the rows of `to` with what a device without offloads needs: frames as
   they are, with complete checksums, or cut into segments. Stops when all of
   `from` is done, when `to` is full, or at a frame that cannot be
   processed. */
void segment_frames(struct segmentation *g);

/* Limits of struct merging. UDP_MAX_SEGMENTS in include/linux/udp.h is 128, and
   was 64 in older kernels. */
#define MOST_FLOWS 256
#define MOST_SEGMENTS 128

/* The state of merge_frames(). The caller's; nobody else uses it. */
struct merging {
    struct frame_table from;
    struct frame_table to; /* shares no memory with `from` */
    size_t flows;          /* that are open at a time, 1 to MOST_FLOWS */
    size_t segments;       /* of a super-frame, at most; 1 to MOST_SEGMENTS */
    size_t max_length;     /* of a frame that is merged, without its tag */
    bool keep_ids; /* false: DF frames whose ids are equal are merged, too */
    bool udp;      /* false: only TCP is merged */
    void *memory;  /* of merging_memory(flows) bytes, as malloc() aligns it */

    size_t written;     /* rows of `to` that are filled */
    size_t frame;       /* the row of `from` to go on with */
    const char *reason; /* why that frame cannot be taken, or NULL */
};

/* The bytes that merge_frames() needs for so many flows. They may be more than
   a thread with a small stack has there. */
size_t merging_memory(size_t flows);

/* Fills the rows of `to` with the frames of `from`, of which those that belong
   together are merged into super-frames. segment_frames() of `to` gives the
   same frames, to the byte, and of each flow in the same order (with
   !keep_ids, ids may differ). Stops when all of `from` is done, before the
   first frame that needs a new row when `to` is full, or at a frame that does
   not fit into the next row. */
void merge_frames(struct merging *m);

/* Loads a byte once: without this, the compiler may load it again later. */
static inline uint8_t
load_byte(const unsigned char *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

/* The same for numbers in network byte order, at any address. */
typedef uint16_t unaligned_16 __attribute__((aligned(1), may_alias));
typedef uint32_t unaligned_32 __attribute__((aligned(1), may_alias));

static inline uint16_t
load_be16(const unsigned char *p)
{
    return ntohs(*(const volatile unaligned_16 *)p);
}

static inline uint32_t
load_be32(const unsigned char *p)
{
    return ntohl(*(const volatile unaligned_32 *)p);
}

#endif
