/* A guest's rings: the split virtqueues of a vhost-user back end for network
   devices (virtio 1.2, sections 2.7 and 5.1.6). These functions know nothing
   of Python.

   The memory of a guest lies in this process, so the buffers that its rings
   name can be the iovecs of sendmmsg(2) and recvmmsg(2): one system call for
   each batch, and one copy, which the kernel makes.

   HOSTILE GUESTS. A guest can write anything to its memory at any time. So
   each number is loaded once, checked against the memory table, and then used.
   What a decision is made on is copied first: always the offload header, and
   of a frame that the guest sends as many bytes as the caller wants to look at
   (`copied`). The copy is sent. A ring that breaks a rule stops for good:
   virtqueue.broken says why. A queue does at most as much work in one call as
   its batch has messages, and a message has at most MOST_PARTS parts.

   HEADERS. Both structs below keep offload headers in memory of their own, so
   a socket may use any size of header (`socket_header`: 10, 12, or 0 if it has
   none), whatever size the guest uses: a frame never moves for that, and no
   kernel needs PACKET_VNET_HDR_SZ.

   FROM THE GUEST. Chains of descriptors are read, sent and used in the order
   of the available ring:

       n = read_frames(t);              0: nothing to send, or queue->broken
       discard_frames(t, unwanted);     if a filter rejects some
       while (t->next < t->count) {
           n = sendmmsg(fd, t->messages + t->next, t->count - t->next, flags);
           n < 0 and the error is about the frame:    refuse_frame(t);
           n < 0 because the socket is full:          break, and poll(2)
           else                                       finish_frames(t, n);
       }
       if (wants_call(t->queue))        write(2) to the eventfd

   What is not finished stays in the batch; the next call goes on with it.

   TO THE GUEST. The length of a message is unknown before recvmmsg(2). So a
   message begins with the buffers that recent frames needed, and ends with
   memory of ours, so that no frame is ever truncated:

       n = arm_frames(r);               0: no buffers, or frames are held
       n = recvmmsg(fd, r->messages, n, MSG_DONTWAIT, NULL);
                                        an error: n = 0
       r->frames[i].length, .tag = ...  for each of them
       add_frames(r, n);
       for (;;) {
           switch (place_frames(r)) {
           case PLACE_CUT:              the guest does not take frame r->next:
               segment_frames() of saved_frame(r), put_frame() each segment,
               skip_frame(r)
               continue
           case PLACE_FULL:             see below
           case PLACE_DONE, PLACE_BROKEN:
           }
           break;
       }
       if (wants_call(r->queue))        write(2) to the eventfd

   Buffers are used in the order of the available ring. If a frame needs fewer
   or more than its message had, the frames behind it move: the one case in
   which bytes are copied here. What no frame needs is given back, so that it
   is still available. If the ring has too few buffers, the remaining frames
   are held in our memory (PLACE_FULL). Then the caller waits for a kick before
   it takes anything else from the socket, and calls place_frames() again.

   WAITING. A queue that has nothing to do asks for a kick, then looks again,
   and only then may the caller sleep:

       if (ask_for_kick(q, false))      there is something already
           continue;
       poll(2)

   A receive queue asks only if it has no buffers or too few: ask_for_kick(q,
   true). Otherwise both queues refuse kicks while they work. A caller looks
   again once and then polls without waiting, so that a guest that changes its
   index all the time cannot keep it from other work. It stops polling for a
   queue that is broken.

   OTHER MESSAGES OF THE FRONT END. SET_MEM_TABLE while rings run:
   return_frames() and hold_frames(), then move_queue(), and only then unmap
   the old table. GET_VRING_BASE: finish what is being sent, or
   return_frames(); hold_frames(); then queue_base() is the answer. A disabled
   receive queue is not used; what a disabled transmit queue has is read, and
   all of it discarded.

   THREADS. A queue, and what uses it, belongs to one thread at a time. */

#ifndef RAWMMSG_VIRTQUEUE_H
#define RAWMMSG_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/socket.h>
#include <sys/uio.h>

#include "_rawmmsg_offload.h"

/* ---- Memory ------------------------------------------------------------- */

/* VHOST_MEMORY_BASELINE_NREGIONS: without CONFIGURE_MEM_SLOTS, a memory table
   has at most 8 regions (QEMU docs/interop/vhost-user.rst). */
#define MOST_REGIONS 8

/* Parts of the memory of a guest. `memory` is where the caller has mapped the
   first of the `size` bytes; the mapping must stay while a queue uses it. (The
   offset of a region in its file need not be a multiple of the page size. So
   the mapping may begin before the region.) */
struct guest_region {
    uint64_t guest_address; /* descriptors use these */
    uint64_t user_address;  /* of the front end; messages use these */
    uint64_t size;
    unsigned char *memory;
};

/* The caller's; constant while a queue uses it. */
struct guest_memory {
    size_t count;
    struct guest_region regions[MOST_REGIONS];
};

/* Returns why a region cannot be mapped, or NULL. `offset` and `file_size` are
   those of the file from which it is to be mapped. Does not use
   region->memory. */
const char *check_region(const struct guest_region *region, uint64_t offset,
                         uint64_t file_size);

/* Returns why the regions, each of which is valid, are not a table, or NULL. */
const char *check_memory(const struct guest_memory *memory);

/* Finds guest memory. A buffer can lie in several regions. Returns how many
   parts it has; 0 if some of it is not in the table, and room + 1 if there are
   more parts than `room`. */
size_t find_parts(const struct guest_memory *memory, uint64_t guest_address,
                  uint64_t length, struct iovec *parts, size_t room);

/* ---- Queues ------------------------------------------------------------- */

/* Feature bits of virtio 1.2, sections 5.1.3 and 6. */
enum feature {
    FEATURE_CSUM = 0,
    FEATURE_GUEST_CSUM = 1,
    FEATURE_GUEST_TSO4 = 7,
    FEATURE_GUEST_TSO6 = 8,
    FEATURE_GUEST_ECN = 9,
    FEATURE_HOST_TSO4 = 11,
    FEATURE_HOST_TSO6 = 12,
    FEATURE_HOST_ECN = 13,
    FEATURE_MRG_RXBUF = 15,
    FEATURE_INDIRECT_DESC = 28,
    FEATURE_EVENT_IDX = 29,
    FEATURE_VERSION_1 = 32,
    FEATURE_GUEST_USO4 = 54,
    FEATURE_GUEST_USO6 = 55,
    FEATURE_HOST_USO = 56
};

#define MOST_ENTRIES 32768

/* What the front end has said about a queue. */
struct queue_setup {
    uint32_t size;        /* SET_VRING_NUM */
    uint32_t base;        /* SET_VRING_BASE */
    uint64_t descriptors; /* SET_VRING_ADDR: user addresses */
    uint64_t available;
    uint64_t used;
    uint64_t features; /* SET_FEATURES */
};

struct virtqueue {
    const char *broken; /* NULL, or why the queue must not be used any more;
                           a static string */

    /* start_queue() and move_queue() set these. */
    struct queue_setup setup;
    const struct guest_memory *memory;
    const unsigned char *descriptors;
    const unsigned char *available;
    unsigned char *used;

    uint16_t next_available; /* the next entry to take */
    uint16_t seen_available; /* the guest's index, when it was last loaded */
    uint16_t next_used;      /* the next entry to write */
    uint16_t published;      /* the index that the guest knows */
    uint16_t called;         /* that index, at the last wants_call() */
    bool must_call;          /* the first one always notifies */
};

/* Starts a queue. Returns why it cannot start, or NULL.

   It goes on from SET_VRING_BASE. All entries before that must be used, since
   entries are used in order. If the used ring has an index of less than a ring
   before that, another back end ended before it used them, and the queue goes
   on from there (frames may be sent twice, but no buffer is lost). */
const char *start_queue(struct virtqueue *q, const struct guest_memory *memory,
                        const struct queue_setup *setup);

/* Goes on with another memory table. Returns why it cannot, or NULL. No batch
   may have chains of this queue: see return_frames() and hold_frames(). */
const char *move_queue(struct virtqueue *q, const struct guest_memory *memory);

/* What GET_VRING_BASE answers: the next entry that is not used. The same rule
   holds. */
uint16_t queue_base(const struct virtqueue *q);

/* Whether there are entries to take. False if the queue is broken, which this
   may find. */
bool has_entries(struct virtqueue *q);

/* Asks the guest for a kick when it adds entries, and looks again. Returns
   whether there are entries already; if `more`, those that were seen before do
   not count, because they are not enough (PLACE_FULL). */
bool ask_for_kick(struct virtqueue *q, bool more);

/* Says that kicks are not needed. They may still come. */
void refuse_kicks(struct virtqueue *q);

/* Whether the guest wants to be notified of what was used since the last call
   of this function. */
bool wants_call(struct virtqueue *q);

/* ---- From the guest ----------------------------------------------------- */

/* UIO_MAXIOV of linux/uio.h is 1,024. Two parts are ours. */
#define MOST_PARTS 1022

/* The longest frame: 65,535 bytes of IP, with Ethernet header and tags. The
   same as PacketBatch.SUPER_FRAME. */
#define MOST_FRAME 69632

struct transmission {
    /* The caller's. open_transmission() reads them; constant then. */
    struct virtqueue *queue;
    size_t capacity;
    size_t copied;        /* bytes of each frame to copy, at most MOST_FRAME */
    size_t socket_header; /* 0, 10 or 12: PACKET_VNET_HDR_SZ */

    /* Messages next..count-1 are to be sent. Message i has header, length and
       copy i until discard_frames(). */
    size_t count;
    size_t next;
    struct mmsghdr *messages;
    struct offload_header *headers; /* copies; the caller may change them */
    uint32_t *lengths;              /* without header */
    unsigned char *copies;          /* `copied` bytes for each frame */

    uint64_t malformed;     /* frames without a whole Ethernet header, or with
                               an offload header that the guest must not use */
    uint64_t too_long;      /* frames of more than MOST_FRAME bytes */
    uint64_t refused_sends; /* refuse_frame() */
    uint64_t discarded;     /* discard_frames() */

    /* Private. */
    void *block;
    struct iovec *parts;
    struct sent_chain *chains;
    size_t chain_count;
    size_t next_chain;
};

/* Allocates what a transmission needs. Returns false if there is no memory. */
bool open_transmission(struct transmission *t);
void close_transmission(struct transmission *t);

/* Prepares messages for the chains that the guest has made available, if the
   batch is empty. Returns how many are to be sent. */
size_t read_frames(struct transmission *t);

/* Removes messages that are not to be sent: `unwanted` has an element for each
   of the messages next..count-1. Then `headers` and `copies` are no longer in
   the order of the messages. */
void discard_frames(struct transmission *t, const bool *unwanted);

/* Says that the first n of the messages to be sent were sent. */
void finish_frames(struct transmission *t, size_t n);

/* Says that the first of the messages to be sent cannot be sent. */
void refuse_frame(struct transmission *t);

/* Empties the batch. Frames that were not sent stay available, so they are read
   again; with them, those behind them that were discarded. */
void return_frames(struct transmission *t);

/* ---- To the guest ------------------------------------------------------- */

/* A received frame. */
struct received_frame {
    uint32_t length; /* the caller's: without header; 0: drop it */
    uint32_t tag;    /* the caller's: TPID << 16 | TCI of a tag that the kernel
                        has stripped, or 0 */

    /* Private. */
    size_t first;    /* the first buffer of the message */
    size_t in_guest; /* bytes of the frame that the buffers have room for */
    bool saved;      /* all of the frame is in our memory */
    bool tagged;     /* and the tag is in it */
};

enum placed {
    PLACE_DONE,
    PLACE_CUT,   /* frame `next` needs segment_frames() or a checksum */
    PLACE_FULL,  /* the ring has too few buffers */
    PLACE_BROKEN /* queue->broken; the frames are still held */
};

struct reception {
    /* The caller's. open_reception() reads them; constant then. */
    struct virtqueue *queue;
    size_t capacity;
    size_t socket_header;

    struct mmsghdr *messages;       /* only the parts are set here; names and
                                       control messages are the caller's */
    struct offload_header *headers; /* of the frames; not guest memory */
    struct received_frame *frames;
    size_t count; /* frames next..count-1 are not placed yet */
    size_t next;

    uint64_t placed;  /* frames */
    uint64_t spilled; /* frames that needed more buffers than they had */
    uint64_t moved;   /* frames that were copied to other buffers */
    uint64_t dropped; /* frames for which the guest has no room, ever */

    /* Private. */
    void *block;
    unsigned char *saved; /* a frame and a tag for each message */
    struct iovec *message_parts;
    struct iovec *parts;          /* of all buffers, in order */
    struct guest_buffer *buffers; /* that were taken, in order */
    size_t part_count;
    size_t buffer_count;
    size_t used_count; /* of them */
    size_t armed;
    size_t expected; /* bytes that recent frames needed */
};

/* Allocates what a reception needs. Returns false if there is no memory. */
bool open_reception(struct reception *r);
void close_reception(struct reception *r);

/* Prepares messages. Returns how many; 0 if frames are held, if the ring is
   empty, or if the queue is broken. Until add_frames(), the queue must not be
   used otherwise. */
size_t arm_frames(struct reception *r);

/* Says that the first n messages have frames. Gives back the buffers of the
   others. */
void add_frames(struct reception *r, size_t n);

/* Gives as many of the frames to the guest as it can take, in order. */
enum placed place_frames(struct reception *r);

/* After PLACE_CUT: the bytes of frame `next`, in our memory. Its header is
   headers[next], its length *length. */
unsigned char *saved_frame(struct reception *r, size_t *length);
/* Whether the guest takes a frame with this header. */
bool may_receive(const struct virtqueue *q, const struct offload_header *h);

/* Gives another frame to the guest: a segment of it. PLACE_DONE, PLACE_FULL
   or PLACE_BROKEN. */
enum placed put_frame(struct reception *r, const struct offload_header *header,
                      const unsigned char *bytes, size_t length);
/* Goes on behind frame `next`. */
void skip_frame(struct reception *r);

/* Moves frames that are not placed to our memory, and gives back all buffers,
   so that the queue can move or stop. */
void hold_frames(struct reception *r);

/* Forgets the frames that are held. Returns how many there were. */
size_t drop_frames(struct reception *r);

#endif
