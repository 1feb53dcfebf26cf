/* What the C files of rawmmsg._rawmmsg share.

   Each file, and what it may know:

       _rawmmsg.c           the module and RawSocket; makes the system calls
       _rawmmsg_batch.c     BatchMemory, Window, PacketBatch; prepares the
                            messages of a system call and parses them
       _rawmmsg_guest.c     _GuestRings: moves frames between a guest's rings
                            and a RawSocket or a PacketBatch
       _rawmmsg_switch.c    _FrameSorter: the frames of a PacketBatch for each
                            port of a switch
       _rawmmsg_columns.c   columns of integers that the caller gives, and
                            batches of slices made of them
       _rawmmsg_recording.c _RecordFinder, _RecordWriter: the packets of a
                            recording as batches, and the reverse
       _rawmmsg_offload.c   checksums and segments; no Python, see its header
       _rawmmsg_filter.c    classic BPF; no Python, see its header
       _rawmmsg_virtqueue.c the rings of a guest; no Python, see its header
       _rawmmsg_pcap.c      pcap and pcapng; no Python, see its header

   At most three calls per batch, and none per packet, cross from one file to
   another.

   Rules that hold throughout:

   - Code that runs without the GIL uses only memory that a BatchMemory or the
     call's own Py_buffers keep alive.
   - Only one call at a time uses a PacketBatch (`busy`). User code can write
     to `lengths`, offload headers and frames at any time, so each value that
     decides about memory is read once and then checked.
   - close() closes a RawSocket's descriptors if no call is in progress.
     Otherwise the last of these calls closes them when it ends (`state`).

   Locals of one letter:

       b  PacketBatch           a  struct arrival
       m  BatchMemory           t  struct transfer, struct frame_table
       s  RawSocket             o  struct options
       w  Window                p  struct program, filter_packet, or a
                                   pointer to bytes
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

#include "_rawmmsg_filter.h"
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

/* struct tpacket_auxdata as of Linux 3.14. Older kernel headers have
   tp_padding in place of its last field. */
struct auxdata {
    uint32_t tp_status;
    uint32_t tp_len;
    uint32_t tp_snaplen;
    uint16_t tp_mac;
    uint16_t tp_net;
    uint16_t tp_vlan_tci;
    uint16_t tp_vlan_tpid;
};

/* Bytes for the control messages of one packet: struct tpacket_auxdata, struct
   scm_timestamping, and the SO_RXQ_OVFL counter. */
#define CONTROL_SIZE                           \
    (CMSG_SPACE(sizeof(struct auxdata))        \
     + CMSG_SPACE(3 * sizeof(struct timespec)) \
     + CMSG_SPACE(sizeof(uint32_t)))

/* What a socket collects with each packet: the columns that are valid. */
enum collected {
    COLLECT_ALWAYS = 1 << 0,    /* flags */
    COLLECT_VLAN = 1 << 1,      /* vlan_tcis, vlan_tpids */
    COLLECT_ADDRESSES = 1 << 2, /* ifindexes, packet_types; AF_PACKET only */
    COLLECT_TIMES = 1 << 3,
    COLLECT_OFFLOADS = 1 << 4, /* the offload headers */
    COLLECT_BUFFER_COUNTS = 1 << 5,
    COLLECT_NAMES = 1 << 6,        /* senders; other families than AF_PACKET */
    COLLECT_WIRE_LENGTHS = 1 << 7, /* always, with COLLECT_VLAN */
};

/* What a batch collects that user code, or another call than a receive, has
   filled with frames. */
#define FILLED (COLLECT_OFFLOADS | COLLECT_BUFFER_COUNTS)

/* ---- Module state ------------------------------------------------------- */

/* Strong references, set when the module is executed; then constant until the
   collector clears the module. */
typedef struct {
    PyTypeObject *memory_type;
    PyTypeObject *window_type;
    PyTypeObject *batch_type;
    PyTypeObject *socket_type;
    PyTypeObject *guest_type;
    PyTypeObject *sorter_type;
    PyTypeObject *finder_type;
    PyTypeObject *writer_type;
    PyTypeObject *statistics_type;
} module_state;

/* Returns the state of the module that made the type of an object. (The types
   are final, so no object is of a subclass.) NULL with RuntimeError set if the
   collector has already cleared the module and user code still uses one of its
   objects. */
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

/* A forked child has a copy of every mark that says "in use", but it does not
   have the threads of its parent that set them: it would wait for ever for
   calls that cannot end. So each mark also says in which process it was set,
   and a mark of another process does not count. A process is identified by the
   number of forks since the module was loaded.

   `forks` is static: it cannot belong to a module state, because a fork affects
   all interpreters. (The only other static object that changes is
   `spare_contexts` of _rawmmsg_guest.c.) Only count_fork() changes it, in a
   child that has no second thread yet. */
struct forks {
    atomic_bool counted; /* count_fork() is registered */
    atomic_uint count;
    atomic_ulong thread; /* the thread that forked, which runs in the child */
};

extern struct forks forks;

static inline unsigned
this_process(void)
{
    return atomic_load_explicit(&forks.count, memory_order_relaxed);
}

/* ---- Addresses ---------------------------------------------------------- */

/* Bytes of the longest hardware address, InfiniBand's. struct sockaddr_ll has
   room for 8. */
#define MAX_HARDWARE 20

/* The name of an AF_PACKET socket, with room for any hardware address. */
struct link_name {
    struct sockaddr_ll ll;
    unsigned char rest[offsetof(struct sockaddr_ll, sll_addr) + MAX_HARDWARE
                       - sizeof(struct sockaddr_ll)];
};

/* Where the hardware address begins. */
static inline unsigned char *
hardware_of(struct link_name *n)
{
    return (unsigned char *)n + offsetof(struct sockaddr_ll, sll_addr);
}

/* The name of a socket of any family, in the form of the system calls. */
struct name {
    union {
        struct sockaddr_storage storage;
        struct link_name link;
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
    socklen_t length; /* 0: the sender has no name */
};

#define NAME_WORDS (sizeof(struct name) / sizeof(uint64_t))
#define PATH_OFFSET offsetof(struct sockaddr_un, sun_path)

_Static_assert(sizeof(struct name) % sizeof(uint64_t) == 0, "whole words");

/* ---- BatchMemory -------------------------------------------------------- */

/* BatchMemory_create() sets all fields. They are constant then, except
   `names`; so are the caller's buffers, which stay exported. The memory that
   they point to changes: a call that uses the batch may write to it, and user
   code to what is marked "user code". */
typedef struct {
    PyObject_HEAD
    Py_ssize_t capacity;
    Py_ssize_t frame_size; /* 0 if each buffer has its own */

    /* Owned. The exported memory of the caller, released by dealloc. */
    Py_buffer *pins;
    Py_ssize_t pin_count;

    /* Owned. One allocation: all that the pointers below point into, except
       `spans`, `names` and the caller's frames. */
    void *block;
    size_t block_size;

    /* Owned. All memory that the batch writes to, in order of address: `block`
       and the frames. None overlaps another. */
    struct span *spans;
    Py_ssize_t span_count;

    /* Strong. Of a view: where its frames are. Otherwise NULL. */
    PyObject *viewed;

    /* Its frames are slices of the only pin, which may overlap. Nothing writes
       to them, so `rx`, `addresses` and `control` are NULL. */
    bool is_slices;

    /* Bytes before each frame that nothing else uses: 0 or TAG_SIZE. */
    size_t headroom;

    /* The messages of recvmmsg(2) and of sendmmsg(2), and their parts. Part 2i
       is the offload header of frame i, part 2i + 1 the frame. Those of `rx`
       tell where each frame is and how many bytes it has room for. They never
       change, except in a view: FrameSorter_show(). Those of `tx` have the
       length of the packet to send. */
    struct mmsghdr *rx;
    struct mmsghdr *tx;
    struct iovec *rx_parts;
    struct iovec *tx_parts;
    struct link_name *addresses;
    char *control; /* CONTROL_SIZE bytes for each frame */

    /* The columns. */
    struct offload_header *offload_headers; /* several columns; user code */
    _Atomic uint32_t *lengths;              /* user code */
    uint32_t *wire_lengths;
    int64_t *timestamps_ns;
    int32_t *ifindexes;
    uint8_t *packet_types;
    uint16_t *flags;
    uint16_t *vlan_tcis;
    uint16_t *vlan_tpids;

    /* Owned. The senders on sockets that are not AF_PACKET. NULL until the
       first receive that collects them; changed only by the call that uses
       the batch. */
    struct name *names;

    char *frames;          /* user code; NULL if the buffers are scattered */
    Py_ssize_t shape[2];   /* of the frames */
    Py_ssize_t strides[2]; /* of the frames */
} BatchMemory;

/* ---- PacketBatch -------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    BatchMemory *memory; /* strong; constant */
    PyObject *weakrefs;  /* CPython's */

    /* 0, or 1 + this_process() while a call uses the batch, and the thread of
       that call: take_batch(). Only that call changes the fields below. */
    atomic_uint busy;
    atomic_ulong user;
    atomic_uint_fast32_t count; /* packets held; anybody reads it */
    atomic_uint collected;      /* enum collected; anybody reads it */
    unsigned armed;             /* what `rx` asks for: arm_receive() */
    unsigned sending;           /* how `tx` begins: arm_send() */
} PacketBatch;

/* ---- RawSocket ---------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;     /* CPython's */
    _Atomic uint64_t state; /* SOCKET_CLOSED ... */

    /* The constructor sets these. They are constant then, except `wake_fd`,
       which a forked child replaces. The descriptors are owned, and valid
       while the object is open or a call is in progress. */
    int fd;
    unsigned made_in;    /* this_process() */
    int wake_fd;         /* an eventfd that close() makes readable; -1 if a
                            forked child could not make its own */
    PyObject *interface; /* strong; a str, or NULL for all interfaces */
    int family;
    int type;
    int proto;         /* AF_PACKET: the EtherType, in host order */
    int ifindex;       /* 0: all interfaces, or not AF_PACKET */
    int link_type;     /* ARPHRD_ of the interface; -1: all interfaces */
    bool receives;     /* false if the protocol is 0 */
    bool names_needed; /* ask for the name with each packet: for addresses, or
                          for the link type of the frame */
    unsigned collects; /* enum collected */
    unsigned vnet_hdr; /* bytes of offload header with each frame, or 0 */
    unsigned stamp;    /* which stamp of struct scm_timestamping to use
                          (timestamping.rst) */

    /* The fields below are atomic: any thread reads and writes them. */

    atomic_int fanout_group; /* -1: none */
    atomic_llong timeout_ns; /* < 0: none, 0: never wait */

    /* An errno that the next receive raises, or 0. The kernel returns a
       pending error only once, and another call has got it: doubt_error(),
       drain(). */
    atomic_int error_kept;
    /* There was ENETDOWN, and the link has not been up since, as far as we
       know: the interface may have been deleted. */
    atomic_bool link_doubted;
    atomic_bool filter_busy; /* a call is changing the filter */

    atomic_ullong packets_received;
    atomic_ullong packets_dropped;
    atomic_ullong batches_received;
    atomic_ullong packets_sent;
    atomic_ullong batches_sent;
    atomic_ullong send_retries;

    /* The only expected sender: see load_peer(). */
    atomic_bool peer_busy;    /* a call is setting it */
    atomic_uint peer_version; /* its lowest bit is the index of the valid copy
                                 in peer_words */
    _Atomic uint64_t peer_words[2][NAME_WORDS]; /* each a struct name */
    atomic_ullong strangers; /* packets of other senders while it was set */
} RawSocket;

/* How many bytes of a name the kernel may write for this socket. */
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

/* What the kernel says about one packet. A local of the receiving call. */
struct arrival {
    uint32_t length;
    uint32_t wire_length;
    int64_t timestamp_ns;
    uint16_t flags;
    uint16_t tci;
    uint16_t tpid;
    uint8_t name_length;
    bool stripped; /* the tag is in tci and tpid but not in the frame */
};

/* The messages of one sendmmsg(2): those of a batch, or made for a sequence. A
   local of the sending call. */
struct outgoing {
    unsigned vnet_hdr;        /* as RawSocket.vnet_hdr */
    PacketBatch *batch;       /* borrowed, and taken for this call; NULL for a
                                 sequence */
    struct mmsghdr *messages; /* the batch's, or owned */
    Py_ssize_t count;

    /* Owned, for a sequence only. */
    struct iovec *parts;
    Py_ssize_t part_count;
    Py_buffer *views; /* the first view_count are acquired */
    Py_ssize_t view_count;
};

/* ---- What _rawmmsg_batch.c does for the other files --------------------- */

extern PyType_Spec BatchMemory_spec, Window_spec, PacketBatch_spec;

/* Returns a view: a new batch whose rows are frames of `source`, or NULL with
   an exception set. It has messages, lengths and offload headers of its own. At
   first, row i is frame i. Whatever takes a batch takes a view. */
PacketBatch *make_view(const module_state *state, PacketBatch *source);

/* Returns a new batch that holds `count` slices of a buffer, or NULL with an
   exception set. Until set_slice() has set each, the caller uses it alone. */
PacketBatch *make_slices(const module_state *state, PyObject *buffer,
                         Py_ssize_t count);

/* Sets slice i. 0, or -1 with ValueError set if it is not in the buffer. */
int set_slice(PacketBatch *b, Py_ssize_t i, int64_t offset, int64_t length);

/* 0, or -1 with BufferError set if nothing may write to the frames. */
int check_writable(const PacketBatch *b);

/* Marks the batch as used by this call, until release_batch(). 0, or -1 with
   BufferError set if another call is using it. */
int take_batch(PacketBatch *b);
void release_batch(PacketBatch *b);

/* Which columns of the batch are valid: enum collected. */
unsigned collected_of(PacketBatch *b);

/* Reads the length of packet i once. Returns it, or -1 with ValueError set if
   user code has written a length that is beyond the frame. */
Py_ssize_t checked_length(BatchMemory *m, Py_ssize_t i);

/* Takes a batch and the target of its frames for this call, until
   release_both(). 0, or -1 with an exception set. */
int take_both(PacketBatch *from, PacketBatch *to);
void release_both(PacketBatch *from, PacketBatch *to);

/* How many frames the batch holds. */
Py_ssize_t count_of(PacketBatch *b);

/* Stores what the batch holds now. The caller has taken it. */
void set_held(PacketBatch *b, Py_ssize_t count, unsigned collected);

/* Whether the batch holds offload headers. */
bool has_headers(PacketBatch *b);

/* Returns what the batch collects once user code has filled it with packets to
   send. It keeps its offload headers if it has any. If the last receive did
   not collect headers, those in memory are of an earlier one, so all rows are
   zeroed. The caller has taken the batch. */
unsigned filled_headers(PacketBatch *b);

/* Takes the batch for this call, until end_filling(), and empties it. Sets a
   table of all its frames. 0, or -1 with an exception set. */
int begin_filling(PacketBatch *b, struct frame_table *t);

/* Stores that the batch holds `count` frames, and releases it. */
void end_filling(PacketBatch *b, Py_ssize_t count);

/* Takes the batch for this call, until end_receive(), and prepares its
   messages for what this socket collects. 0, or -1 with an exception set. */
int begin_receive(PacketBatch *b, const RawSocket *s);

/* Fills rows 0..count-1 of the columns from the received messages. Runs
   without the GIL. */
void parse_messages(const RawSocket *s, BatchMemory *m, int count);

/* Stores that the batch holds `count` packets, unless that is negative, and
   releases the batch. If `peer` is not NULL, marks each packet of another
   sender and returns how many there are. */
unsigned long long end_receive(PacketBatch *b, const RawSocket *s, int count,
                               const struct name *peer);

/* Parses what came with one message, restores a stripped tag in its frame, and
   prepares the header for the next call. Runs without the GIL. */
void parse_message(const RawSocket *s, struct mmsghdr *message,
                   struct arrival *a);

/* Parses the control messages of one packet. */
void read_control(const RawSocket *s, struct arrival *a,
                  struct msghdr *header);

/* Takes a batch for this call, until end_outgoing(); a sequence stays as it
   is. Returns how many packets there are, or -1 with an exception set. */
Py_ssize_t begin_outgoing(struct outgoing *out, unsigned vnet_hdr,
                          const module_state *state, PyObject *packets);

/* Prepares messages for packets start..stop-1, or for the first of them if one
   system call does not take so many: `count` says how many. 0, or -1 with an
   exception set. */
int prepare_outgoing(struct outgoing *out, PyObject *packets, Py_ssize_t start,
                     Py_ssize_t stop);

/* Releases the batch, or what was allocated and acquired for a sequence. */
void end_outgoing(struct outgoing *out);

/* Raises ValueError about packet i. Always returns -1. */
int raise_bad_frame(Py_ssize_t i, const char *reason);

/* Whether both names are those of the same socket. */
bool is_same_name(const struct name *a, const struct name *b);

/* Returns the address tuple for an AF_PACKET name, or NULL with an exception
   set. Steals the reference to `interface`; if that is NULL, returns NULL. */
PyObject *make_link_address(struct link_name *n, PyObject *interface);

/* Returns the address for a name of another family, in the form of the socket
   module; None if the sender has no name. NULL with an exception set. */
PyObject *make_address(const struct name *n);

/* ---- What _rawmmsg.c does for the other files --------------------------- */

/* Returns a new reference to an attribute, or NULL with an exception set. Its
   name is interned, because CPython's cache of attribute lookups keeps every
   name that it has not seen before: of a string that PyObject_GetAttrString()
   makes in each call, up to 4096 copies. */
PyObject *get_attribute(PyObject *object, const char *name);

/* Adds to the current ValueError, TypeError or BufferError which packet or
   address it is about. */
void note_index(const char *what, Py_ssize_t i);

/* Raises an OSError that names the system call. `interface` may be NULL.
   Always returns -1. */
int raise_os_error(int error, const char *call, PyObject *interface);

/* Returns the instructions of a bytes object, which owns them, and sets their
   number. NULL with an exception set if the kernel would refuse them. */
const struct sock_filter *check_program(PyObject *program, size_t *count);

/* Sends or receives messages of the caller, with one system call that has
   transferred something, and counts them. Returns how many, or -1 with an
   exception set. Releases the GIL. `flags` are those of recvmmsg(2). */
int send_messages(RawSocket *s, struct mmsghdr *messages, unsigned count);
int receive_messages(RawSocket *s, struct mmsghdr *messages, unsigned count,
                     int flags);

/* ---- _rawmmsg_switch.c -------------------------------------------------- */

extern PyType_Spec FrameSorter_spec;

/* Functions of the module: _copy_frames(batch, start, stop, target), and
   _set_addresses(batch, destination, source). */
PyObject *rawmmsg_copy_frames(PyObject *module, PyObject *const *args,
                              Py_ssize_t nargs);
PyObject *rawmmsg_set_addresses(PyObject *module, PyObject *args);

/* ---- _rawmmsg_columns.c ------------------------------------------------- */

/* Integers that the caller gives: one for each packet, or one for all. A local
   of the call. */
struct numbers {
    const char *name; /* of the argument */
    Py_buffer view;   /* acquired if `items` is NULL, and `each` */
    PyObject *items;  /* strong: a tuple of ints; or NULL */
    Py_ssize_t count;
    bool each;      /* one for each packet */
    bool is_signed; /* those in `view` */
    int64_t value;  /* for all packets */
};

/* Acquires the numbers of an argument, until end_numbers(). 0, or -1 with an
   exception set. */
int begin_numbers(struct numbers *n, const char *name, PyObject *argument);
void end_numbers(struct numbers *n);

/* Reads number i, which is less than `count` unless it is for all. 0, or -1
   with an exception set. */
int read_number(const struct numbers *n, Py_ssize_t i, int64_t *number);

/* Returns a new batch of slices, or NULL with an exception set. */
PacketBatch *slice_buffer(const module_state *state, PyObject *buffer,
                          PyObject *offsets, PyObject *lengths);

/* ---- _rawmmsg_recording.c ----------------------------------------------- */

/* Packets that are found at a time. sendmmsg(2) takes no more. */
#define MOST_RECORDS 1024

extern PyType_Spec RecordFinder_spec, RecordWriter_spec;

/* ---- _rawmmsg_guest.c --------------------------------------------------- */

extern PyType_Spec GuestRings_spec;

#endif
