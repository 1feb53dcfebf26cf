/* What the C files of rawmmsg._rawmmsg share.

   Each file, and what it may know:

       _rawmmsg.c           the module and RawSocket; makes the system calls
       _rawmmsg_batch.c     BatchMemory, Window, PacketBatch; prepares the
                            messages of a system call and parses them
       _rawmmsg_offload.c   checksums and segments; no Python, see its header

   At most three calls a batch, and none a packet, cross from one file to
   another.

   Rules that hold throughout:

   - Between the release of the GIL and its return, only memory is touched
     that a BatchMemory or the call's own Py_buffers keep alive.
   - A PacketBatch is used by one call at a time (`busy`); what user code can
     write at any time (`lengths`) is read once and then checked.
   - A RawSocket's descriptors are closed by close() where no call is in
     flight, otherwise by the last call that leaves (`state`).

   Locals of one letter:

       b  PacketBatch           a  struct arrival
       m  BatchMemory           t  struct transfer, struct frame_table
       s  RawSocket             o  struct options
       w  Window                p  struct program, or a pointer to bytes
       c  struct carver,        d  struct destinations
          changes, cmsghdr      f  struct super_frame, struct fanout
       g  struct geometry,      h  struct offload_header
          segmentation          n  struct name, link_name, or a number
       v  struct visit          i, k  indices
*/

#ifndef RAWMMSG_H
#define RAWMMSG_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <linux/if_packet.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "_rawmmsg_offload.h"

#if PY_VERSION_HEX < 0x030c0000
#include <structmember.h>
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY
#endif

/* ---- Constants ---------------------------------------------------------- */

#define NS_PER_S INT64_C(1000000000)

/* The two sizes of an offload header. */
#define VNET_HEADER offsetof(struct offload_header, buffer_count)
#define MERGEABLE_HEADER sizeof(struct offload_header)

/* struct tpacket_auxdata as of Linux 3.14: older headers name the last field
   tp_padding. */
struct auxdata {
    uint32_t tp_status;
    uint32_t tp_len;
    uint32_t tp_snaplen;
    uint16_t tp_mac;
    uint16_t tp_net;
    uint16_t tp_vlan_tci;
    uint16_t tp_vlan_tpid;
};

/* tpacket_auxdata, scm_timestamping, and the SO_RXQ_OVFL counter. */
#define CONTROL_SIZE                           \
    (CMSG_SPACE(sizeof(struct auxdata))        \
     + CMSG_SPACE(3 * sizeof(struct timespec)) \
     + CMSG_SPACE(sizeof(uint32_t)))

/* What a socket collects with each packet, and so which columns hold it. */
enum collected {
    COLLECT_ALWAYS = 1 << 0, /* flags */
    COLLECT_VLAN = 1 << 1,   /* auxdata: tags, wire lengths */
    COLLECT_ADDRESSES = 1 << 2,
    COLLECT_TIMES = 1 << 3,
    COLLECT_OFFLOADS = 1 << 4,
    COLLECT_BUFFER_COUNTS = 1 << 5,
    COLLECT_NAMES = 1 << 6, /* senders, off AF_PACKET */
};

/* ---- Module state ------------------------------------------------------- */

typedef struct {
    PyTypeObject *memory_type;
    PyTypeObject *window_type;
    PyTypeObject *batch_type;
    PyTypeObject *socket_type;
    PyTypeObject *statistics_type;
} module_state;

/* The state of the module that made a type; the types are final, so that is
   the type of every object. NULL with RuntimeError set where the collector has
   taken the module apart, and user code still uses an object. */
static inline module_state *
state_of(PyTypeObject *type)
{
    module_state *state = PyType_GetModuleState(type);

    if (state == NULL || state->statistics_type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "rawmmsg has been unloaded");
        return NULL;
    }
    return state;
}

/* ---- Forks -------------------------------------------------------------- */

/* A forked child has copies of everything that counts the calls and marks the
   batches of its parent's threads, which it does not have. So whatever says
   "in use" says in which process: after how many forks since the module was
   loaded. This is the only static object that changes, since a fork is of all
   interpreters; it changes in a child that has no other thread yet. */
struct forks {
    atomic_bool counted;
    atomic_uint count;
    atomic_ulong thread; /* that forked: it goes on in the child */
};

extern struct forks forks;

static inline unsigned
this_process(void)
{
    return atomic_load_explicit(&forks.count, memory_order_relaxed);
}

/* ---- Addresses ---------------------------------------------------------- */

/* The longest hardware address, InfiniBand's; sockaddr_ll has room for 8
   bytes. */
#define MAX_HARDWARE 20

/* A name of AF_PACKET. */
struct link_name {
    struct sockaddr_ll ll;
    unsigned char rest[offsetof(struct sockaddr_ll, sll_addr) + MAX_HARDWARE
                       - sizeof(struct sockaddr_ll)];
};

/* A name of any family, as the kernel gives and takes it. */
struct name {
    union {
        struct sockaddr_storage storage;
        struct link_name link;
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
    socklen_t length; /* 0: a sender without a name */
};

#define NAME_WORDS (sizeof(struct name) / sizeof(uint64_t))
#define PATH_OFFSET offsetof(struct sockaddr_un, sun_path)

_Static_assert(sizeof(struct name) % sizeof(uint64_t) == 0, "whole words");

/* ---- BatchMemory -------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_ssize_t capacity;
    Py_ssize_t frame_size; /* 0 where each buffer has its own */

    /* The caller's memory, exported to us; released in dealloc. */
    Py_buffer *pins;
    Py_ssize_t pin_count;

    /* One allocation, that holds all below but the spans (frames where they
       are ours). */
    void *block;
    size_t block_size;

    /* All that is written for the batch: `block` and the frames, in the order
       of the addresses; pin_count + 1 of them, apart from one another. */
    struct span *spans;

    /* Armed for life: part 2i is frame i's offload header, part 2i + 1 the
       frame. The parts of `rx` are never changed and so tell where a frame
       is and how much fits; those of `tx` have the length of what is sent.
       All are used under the batch's `busy`. */
    struct mmsghdr *rx;
    struct mmsghdr *tx;
    struct iovec *rx_parts;
    struct iovec *tx_parts;
    struct link_name *addresses;
    char *control; /* CONTROL_SIZE each */

    /* The columns. `offload_headers` (several of them) and `lengths` are open
       to user code at any time. */
    struct offload_header *offload_headers;
    _Atomic uint32_t *lengths;
    uint32_t *wire_lengths;
    int64_t *timestamps_ns;
    int32_t *ifindexes;
    uint8_t *packet_types;
    uint16_t *flags;
    uint16_t *vlan_tcis;
    uint16_t *vlan_tpids;

    /* The senders off AF_PACKET: NULL until a receive collects them. Used
       under the batch's `busy`. */
    struct name *names;

    char *frames;          /* NULL where scattered */
    Py_ssize_t shape[2];   /* of the frames */
    Py_ssize_t strides[2]; /* of the frames */
} BatchMemory;

/* ---- PacketBatch -------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    BatchMemory *memory; /* strong, for life */
    PyObject *weakrefs;
    atomic_uint busy;           /* a call of process `busy` - 1 is using it */
    atomic_ulong user;          /* the thread of that call */
    atomic_uint_fast32_t count; /* packets held; written under busy */
    atomic_uint collected;      /* enum collected; written under busy */
    unsigned armed;             /* what `rx` asks for; used under busy */
    unsigned sending;           /* how `tx` is armed; used under busy */
} PacketBatch;

/* ---- RawSocket ---------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    _Atomic uint64_t state;

    /* Set by the constructor, then constant. The descriptors are valid while
       the object is open or a call is in flight. */
    int fd;
    unsigned made_in;    /* this_process() */
    int wake_fd;         /* eventfd; close() makes it readable. -1 where a
                            forked child could not have its own */
    PyObject *interface; /* str, or NULL: all interfaces */
    int family;
    int type;
    int proto;         /* AF_PACKET: the EtherType, in host order */
    int ifindex;       /* 0: all interfaces, or not AF_PACKET */
    int link_type;     /* ARPHRD_ of the interface; -1: all interfaces */
    bool receives;     /* false: protocol 0 */
    bool names_needed; /* ask for names: addresses, or to know the
                           link type of each frame */
    unsigned collects; /* enum collected */
    unsigned vnet_hdr; /* bytes of offload header with each frame, or 0 */
    unsigned stamp;    /* which of scm_timestamping's (timestamping.rst) */

    atomic_int fanout_group; /* -1: none */
    atomic_llong timeout_ns; /* < 0: none, 0: never wait */

    /* The kernel reports an error once per socket. What somebody else has
       drawn is kept here for the receiver: an errno, or 0. */
    atomic_int error_kept;
    /* ENETDOWN was seen, and the link not up since: the interface may be
       gone. */
    atomic_bool link_doubted;
    atomic_bool filter_busy; /* a call is changing the filter */

    atomic_ullong packets_received;
    atomic_ullong packets_dropped;
    atomic_ullong batches_received;
    atomic_ullong packets_sent;
    atomic_ullong batches_sent;
    atomic_ullong send_retries;

    /* The only sender expected, a struct name, in half `peer_version` & 1:
       see load_peer(). */
    atomic_bool peer_busy; /* a call is setting it */
    atomic_uint peer_version;
    _Atomic uint64_t peer_words[2][NAME_WORDS];
    atomic_ullong strangers; /* datagrams of others while it was set */
} RawSocket;

/* Bytes of a name that the kernel may write for this socket. */
static inline socklen_t
name_room(const RawSocket *s)
{
    return s->family == AF_PACKET ? sizeof(struct link_name)
                                  : sizeof(struct sockaddr_storage);
}

/* Whether frames of this link type begin with an Ethernet header. */
static inline bool
is_ethernet(int link_type)
{
    return link_type == ARPHRD_ETHER || link_type == ARPHRD_LOOPBACK;
}

/* What the kernel tells of one packet. */
struct arrival {
    uint32_t length;
    uint32_t wire_length;
    int64_t timestamp_ns;
    uint16_t flags;
    uint16_t tci;
    uint16_t tpid;
    uint8_t name_length;
    bool stripped; /* the tag is in tci and tpid, not in the frame */
};

/* The messages of one sendmmsg(2): a batch's own, or made for a sequence. */
struct outgoing {
    unsigned vnet_hdr;  /* RawSocket.vnet_hdr */
    PacketBatch *batch; /* taken, borrowed; NULL for a sequence */
    struct mmsghdr *messages;
    Py_ssize_t count;

    /* For a sequence: owned. */
    struct iovec *parts;
    Py_ssize_t part_count;
    Py_buffer *views; /* acquired up to view_count */
    Py_ssize_t view_count;
};

/* ---- What _rawmmsg_batch.c does for _rawmmsg.c -------------------------- */

extern PyType_Spec BatchMemory_spec, Window_spec, PacketBatch_spec;

/* Takes the batch for a receive, until end_receive(), and asks for what this
   socket collects: 0, or -1 with an exception set. */
int begin_receive(PacketBatch *b, const RawSocket *s);

/* Fills rows 0..count-1 of the columns from the messages received. Needs no
   GIL. */
void parse_messages(const RawSocket *s, BatchMemory *m, int count);

/* Declares that the batch holds `count` packets, where that is not negative,
   and releases it. What others than `peer` have sent, if that is not NULL, is
   flagged: how many packets. */
unsigned long long end_receive(PacketBatch *b, const RawSocket *s, int count,
                               const struct name *peer);

/* Reads what came with a message, completes its frame, and makes the header
   ready for the next call. Needs no GIL. */
void parse_message(const RawSocket *s, struct mmsghdr *message,
                   struct arrival *a);

/* How many packets there are: a batch is taken for the call, until
   end_outgoing(). -1 with an exception set. */
Py_ssize_t begin_outgoing(struct outgoing *out, const RawSocket *s,
                          const module_state *state, PyObject *packets);

/* Makes packets from `start` on, before `stop`, ready, as many as one call
   takes: 0, or -1 with an exception set. */
int prepare_outgoing(struct outgoing *out, PyObject *packets, Py_ssize_t start,
                     Py_ssize_t stop);
void end_outgoing(struct outgoing *out);

/* Raises ValueError about packet i; always -1. */
int raise_bad_frame(Py_ssize_t i, const char *reason);

unsigned char *hardware_of(struct link_name *n);

/* Whether both are the name of the same socket. */
bool is_same_name(const struct name *a, const struct name *b);

/* The tuple of an AF_PACKET name; takes the reference to `interface`, and
   fails with NULL where that is NULL. */
PyObject *make_link_address(struct link_name *n, PyObject *interface);

/* The address that a name of another family stands for, in the form of the
   socket module; None where the sender has none. */
PyObject *make_address(const struct name *n);

#endif
