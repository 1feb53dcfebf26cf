/* Batches, and the messages of recvmmsg(2) and sendmmsg(2).

   In Python pseudo-code:

       class BatchMemory:               # private; one for each PacketBatch
           "All memory that recvmmsg(2) and sendmmsg(2) need for a batch. It
            also holds the caller's buffers if the frames are in them."

       class Window:                    # private; the exporter of a view
           "A part of a BatchMemory: a frame, or a column. An exporter cannot
            know which part of it a memoryview shows, so each part has an
            exporter of its own. It keeps the memory alive, not the batch."

       class PacketBatch:
           "How many packets a BatchMemory holds, and which call uses it."
*/

#include "_rawmmsg.h"
#include "_rawmmsg_docstrings.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <unistd.h>

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04
#endif
#ifndef TP_STATUS_VLAN_TPID_VALID
#define TP_STATUS_VLAN_TPID_VALID (1 << 6)
#endif
#ifndef TP_STATUS_CSUM_VALID
#define TP_STATUS_CSUM_VALID (1 << 7)
#endif

/* ---- Constants ---------------------------------------------------------- */

#define DEFAULT_CAPACITY 64
#define DEFAULT_FRAME_SIZE 2048
#define MAX_CAPACITY (1 << 20)

/* UIO_MAXIOV: the messages that one call sends (net/socket.c:
   __sys_sendmmsg()), and the parts that a message can have. */
#define MAX_SEND 1024
#define MAX_PARTS 1024

#define CACHE_LINE 64

/* ---- Addresses ---------------------------------------------------------- */

/* The bytes of the path in an AF_UNIX name. A path in the file system ends
   before its NUL, which the kernel includes in the length of the name; that of
   a path of 108 bytes is beyond sun_path (unix(7)). An abstract name begins
   with NUL. */
static size_t
path_length(const struct name *n)
{
    const char *path = (const char *)&n->storage + PATH_OFFSET;
    size_t length =
        n->length > PATH_OFFSET ? (size_t)n->length - PATH_OFFSET : 0;

    return length > 0 && path[0] != '\0' ? strnlen(path, length) : length;
}

bool
is_same_name(const struct name *a, const struct name *b)
{
    size_t a_length = a->length, b_length = b->length;

    if (a_length > PATH_OFFSET && a->storage.ss_family == AF_UNIX) {
        a_length = PATH_OFFSET + path_length(a);
    }
    if (b_length > PATH_OFFSET && b->storage.ss_family == AF_UNIX) {
        b_length = PATH_OFFSET + path_length(b);
    }
    return a_length == b_length
           && memcmp(&a->storage, &b->storage, a_length) == 0;
}

PyObject *
make_link_address(struct link_name *n, PyObject *interface)
{
    Py_ssize_t size =
        n->ll.sll_halen < MAX_HARDWARE ? n->ll.sll_halen : MAX_HARDWARE;

    return Py_BuildValue("Niiiy#", interface, (int)ntohs(n->ll.sll_protocol),
                         (int)n->ll.sll_pkttype, (int)n->ll.sll_hatype,
                         (char *)hardware_of(n), size);
}

PyObject *
make_address(const struct name *n)
{
    const char *path = (const char *)&n->storage + PATH_OFFSET;
    char host[INET6_ADDRSTRLEN];
    size_t size;

    if (n->length <= sizeof(n->storage.ss_family)) {
        Py_RETURN_NONE;
    }
    switch (n->storage.ss_family) {
    case AF_UNIX:
        size = path_length(n);
        return path[0] != '\0'
                   ? PyUnicode_DecodeFSDefaultAndSize(path, (Py_ssize_t)size)
                   : PyBytes_FromStringAndSize(path, (Py_ssize_t)size);
    case AF_INET:
        inet_ntop(AF_INET, &n->in.sin_addr, host, sizeof(host));
        return Py_BuildValue("si", host, (int)ntohs(n->in.sin_port));
    case AF_INET6:
        inet_ntop(AF_INET6, &n->in6.sin6_addr, host, sizeof(host));
        return Py_BuildValue("siII", host, (int)ntohs(n->in6.sin6_port),
                             (unsigned)ntohl(n->in6.sin6_flowinfo),
                             (unsigned)n->in6.sin6_scope_id);
    default:
        Py_RETURN_NONE;
    }
}

/* ---- BatchMemory -------------------------------------------------------- */

/* The memory at start..end-1. */
struct span {
    uintptr_t start;
    uintptr_t end;
    Py_ssize_t buffer; /* index in the argument `buffers`; -1: not of it */
};

/* Divides one block into arrays. While base is NULL, it only adds up the size.
   A local of allocate(). */
struct carver {
    char *base;
    size_t used;
    bool overflow;
};

static void *
carve(struct carver *c, size_t count, size_t size)
{
    size_t bytes, end;
    size_t start = (c->used + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);

    if (start < c->used || __builtin_mul_overflow(count, size, &bytes)
        || __builtin_add_overflow(start, bytes, &end)) {
        c->overflow = true;
        return NULL;
    }
    c->used = end;
    return c->base == NULL ? NULL : c->base + start;
}

/* Points each field of the memory at its part of the block. */
static void
lay_out(BatchMemory *m, struct carver *c, bool own_frames)
{
    size_t n = (size_t)m->capacity;
    char *frames;

    if (!m->is_slices) {
        m->rx = carve(c, n, sizeof(*m->rx));
        m->addresses = carve(c, n, sizeof(*m->addresses));
        m->control = carve(c, n, CONTROL_SIZE);
    }
    m->tx = carve(c, n, sizeof(*m->tx));
    m->rx_parts = carve(c, 2 * n, sizeof(*m->rx_parts));
    m->tx_parts = carve(c, 2 * n, sizeof(*m->tx_parts));
    m->offload_headers = carve(c, n, sizeof(*m->offload_headers));
    m->lengths = carve(c, n, sizeof(*m->lengths));
    m->wire_lengths = carve(c, n, sizeof(*m->wire_lengths));
    m->timestamps_ns = carve(c, n, sizeof(*m->timestamps_ns));
    m->ifindexes = carve(c, n, sizeof(*m->ifindexes));
    m->packet_types = carve(c, n, sizeof(*m->packet_types));
    m->flags = carve(c, n, sizeof(*m->flags));
    m->vlan_tcis = carve(c, n, sizeof(*m->vlan_tcis));
    m->vlan_tpids = carve(c, n, sizeof(*m->vlan_tpids));
    if (own_frames) {
        carve(c, 1, CACHE_LINE); /* the room before the first frame */
        frames = carve(c, n, (size_t)m->strides[0]);
        m->frames = frames;
    }
}

/* Allocates the block. 0, or -1 with MemoryError set. */
static int
allocate(BatchMemory *m, bool own_frames)
{
    struct carver c = {NULL, 0, false};

    lay_out(m, &c, own_frames);
    /* Add room to begin on a cache line. */
    if (c.overflow || c.used > PY_SSIZE_T_MAX - CACHE_LINE) {
        PyErr_NoMemory();
        return -1;
    }
    m->block_size = c.used + CACHE_LINE;
    m->block = PyMem_Calloc(1, m->block_size);
    if (m->block == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    c.base = (char *)(((uintptr_t)m->block + CACHE_LINE - 1)
                      & ~(uintptr_t)(CACHE_LINE - 1));
    c.used = 0;
    lay_out(m, &c, own_frames);
    return 0;
}

/* Points messages i, for receiving and for sending, at frame i. */
static void
arm_slot(BatchMemory *m, Py_ssize_t i, char *frame, size_t size)
{
    struct iovec *rx = &m->rx_parts[2 * i];
    struct iovec *tx = &m->tx_parts[2 * i];

    rx[0].iov_base = &m->offload_headers[i];
    rx[0].iov_len = 0;
    rx[1].iov_base = frame;
    rx[1].iov_len = size;
    if (!m->is_slices) {
        m->rx[i].msg_hdr.msg_iov = &rx[1];
        m->rx[i].msg_hdr.msg_iovlen = 1;
    }
    tx[0] = rx[0];
    tx[1] = rx[1];
    m->tx[i].msg_hdr.msg_iov = &tx[1];
    m->tx[i].msg_hdr.msg_iovlen = 1;
}

/* How many bytes frame i has room for. */
static size_t
room_of(const BatchMemory *m, Py_ssize_t i)
{
    return m->rx_parts[2 * i + 1].iov_len;
}

static char *
frame_of(const BatchMemory *m, Py_ssize_t i)
{
    return m->rx_parts[2 * i + 1].iov_base;
}

/* The distance between frames, with room for a tag before each of them. If it
   were a multiple of a large power of two, the beginnings of all frames would
   compete for the same few sets of the cache. With an odd number of cache
   lines they are spread over all sets. */
static size_t
stride_for(Py_ssize_t frame_size)
{
    size_t lines =
        ((size_t)frame_size + TAG_SIZE + CACHE_LINE - 1) / CACHE_LINE;

    return (lines | 1) * CACHE_LINE;
}

static void
set_geometry(BatchMemory *m, Py_ssize_t frame_size, size_t stride)
{
    m->frame_size = frame_size;
    m->shape[0] = m->capacity;
    m->shape[1] = frame_size;
    m->strides[0] = (Py_ssize_t)stride;
    m->strides[1] = 1;
}

static int
check_sizes(Py_ssize_t capacity, Py_ssize_t frame_size)
{
    if (capacity < 1 || capacity > MAX_CAPACITY) {
        PyErr_Format(PyExc_ValueError, "capacity must be 1 to %d, not %zd",
                     MAX_CAPACITY, capacity);
        return -1;
    }
    if (frame_size < 1 || frame_size > INT_MAX) {
        PyErr_Format(PyExc_ValueError, "frame_size must be 1 to %d, not %zd",
                     INT_MAX, frame_size);
        return -1;
    }
    return 0;
}

/* In the functions below, a size of -1 was not given by the caller. Each sets
   up the memory: 0, or -1 with an exception set. */

static int
use_own_memory(BatchMemory *m, Py_ssize_t capacity, Py_ssize_t frame_size)
{
    capacity = capacity < 0 ? DEFAULT_CAPACITY : capacity;
    frame_size = frame_size < 0 ? DEFAULT_FRAME_SIZE : frame_size;
    if (check_sizes(capacity, frame_size) < 0) {
        return -1;
    }
    m->capacity = capacity;
    m->headroom = TAG_SIZE;
    set_geometry(m, frame_size, stride_for(frame_size));
    return allocate(m, true);
}

/* Takes the sizes from the shape of a two-dimensional buffer. 0, or -1 with
   ValueError set if the caller gave other sizes. */
static int
divide_rows(const Py_buffer *view, Py_ssize_t *capacity,
            Py_ssize_t *frame_size)
{
    if (view->itemsize != 1) {
        PyErr_Format(PyExc_ValueError,
                     "a two-dimensional buffer must have items of one byte, "
                     "not %zd",
                     view->itemsize);
        return -1;
    }
    if ((*capacity >= 0 && *capacity != view->shape[0])
        || (*frame_size >= 0 && *frame_size != view->shape[1])) {
        PyErr_Format(PyExc_ValueError,
                     "the buffer's shape (%zd, %zd) does not match the given "
                     "capacity and frame_size",
                     view->shape[0], view->shape[1]);
        return -1;
    }
    *capacity = view->shape[0];
    *frame_size = view->shape[1];
    return check_sizes(*capacity, *frame_size);
}

/* Computes the sizes for a one-dimensional buffer. 0, or -1 with ValueError
   set. */
static int
divide_flat(const Py_buffer *view, Py_ssize_t *capacity,
            Py_ssize_t *frame_size)
{
    if (*frame_size < 0) {
        *frame_size =
            *capacity > 0 ? view->len / *capacity : DEFAULT_FRAME_SIZE;
    }
    if (*capacity < 0) {
        *capacity = *frame_size > 0 ? view->len / *frame_size : 0;
    }
    if (*capacity == 0 || *frame_size == 0) {
        PyErr_Format(PyExc_ValueError,
                     "a buffer of %zd bytes holds no frame with capacity %zd "
                     "and frame_size %zd",
                     view->len, *capacity, *frame_size);
        return -1;
    }
    if (check_sizes(*capacity, *frame_size) < 0) {
        return -1;
    }
    if (*capacity > view->len / *frame_size) {
        PyErr_Format(PyExc_ValueError,
                     "%zd frames of %zd bytes do not fit into a buffer of "
                     "%zd bytes",
                     *capacity, *frame_size, view->len);
        return -1;
    }
    return 0;
}

static int
use_buffer(BatchMemory *m, PyObject *buffer, Py_ssize_t capacity,
           Py_ssize_t frame_size)
{
    Py_buffer *view;

    m->pins = PyMem_Calloc(1, sizeof(*m->pins));
    if (m->pins == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    view = &m->pins[0];
    if (PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
        < 0) {
        return -1;
    }
    m->pin_count = 1;
    if (view->ndim > 2) {
        PyErr_Format(PyExc_ValueError,
                     "the buffer must have one dimension or two, not %d",
                     view->ndim);
        return -1;
    }
    if ((view->ndim == 2 ? divide_rows : divide_flat)(view, &capacity,
                                                      &frame_size)
        < 0) {
        return -1;
    }
    m->capacity = capacity;
    set_geometry(m, frame_size, (size_t)frame_size);
    m->frames = view->buf;
    return allocate(m, false);
}

/* Acquires the buffer of element i. 0, or -1 with an exception set. */
static int
pin_buffer(BatchMemory *m, PyObject *buffers, Py_ssize_t i)
{
    int result;
    PyObject *item = PySequence_GetItem(buffers, i);

    if (item == NULL) {
        return -1;
    }
    result = PyObject_GetBuffer(item, &m->pins[i],
                                PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS);
    Py_DECREF(item);
    if (result < 0) {
        return -1;
    }
    m->pin_count = i + 1;
    if (m->pins[i].len < 1 || m->pins[i].len > INT_MAX) {
        PyErr_Format(PyExc_ValueError,
                     "buffers[%zd] must have 1 to %d bytes, not %zd", i,
                     INT_MAX, m->pins[i].len);
        return -1;
    }
    return 0;
}

static int
use_buffers(BatchMemory *m, PyObject *buffers)
{
    PyObject *fixed = PySequence_Tuple(buffers);
    Py_ssize_t n, i;
    int result = -1;

    if (fixed == NULL) {
        return -1;
    }
    n = PyTuple_Size(fixed);
    if (check_sizes(n, 1) < 0) {
        goto finally;
    }
    m->pins = PyMem_Calloc((size_t)n, sizeof(*m->pins));
    if (m->pins == NULL) {
        PyErr_NoMemory();
        goto finally;
    }
    m->capacity = n;
    for (i = 0; i < n; i++) {
        if (pin_buffer(m, fixed, i) < 0) {
            goto finally;
        }
    }
    result = allocate(m, false);

finally:
    Py_DECREF(fixed);
    return result;
}

/* Acquires the memory that slices are in. 0, or -1 with an exception set. */
static int
use_slices(BatchMemory *m, PyObject *buffer, Py_ssize_t count)
{
    m->is_slices = true;
    m->capacity = count;
    if (check_sizes(count, 1) < 0) {
        return -1;
    }
    m->pins = PyMem_Calloc(1, sizeof(*m->pins));
    if (m->pins == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyObject_GetBuffer(buffer, &m->pins[0], PyBUF_C_CONTIGUOUS) < 0) {
        return -1;
    }
    m->pin_count = 1;
    return allocate(m, false);
}

static struct span
span_of(const void *start, size_t size, Py_ssize_t buffer)
{
    return (struct span){(uintptr_t)start, (uintptr_t)start + size, buffer};
}

static int
compare_spans(const void *left, const void *right)
{
    const struct span *a = left, *b = right;

    return (a->start > b->start) - (a->start < b->start);
}

/* Lists the memory that the batch writes to, or its slices are in. 0, or -1
   with an exception set: ValueError if two frames overlap, because a packet in
   one would overwrite the other. */
static int
note_spans(BatchMemory *m)
{
    const BatchMemory *viewed = (const BatchMemory *)m->viewed;
    Py_ssize_t n = 1 + (viewed != NULL ? viewed->span_count : m->pin_count), i;
    struct span *spans = PyMem_Calloc((size_t)n, sizeof(*spans));

    if (spans == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    m->spans = spans;
    m->span_count = n;
    spans[0] = span_of(m->block, m->block_size, -1);
    if (viewed != NULL) {
        memcpy(&spans[1], viewed->spans, (size_t)(n - 1) * sizeof(*spans));
    }
    else if (m->frames != NULL && n > 1) {
        spans[1] =
            span_of(m->frames, (size_t)(m->capacity * m->strides[0]), -1);
    }
    else {
        for (i = 1; i < n; i++) {
            const Py_buffer *pin = &m->pins[i - 1];

            spans[i] = span_of(pin->buf, (size_t)pin->len, i - 1);
        }
    }
    qsort(spans, (size_t)n, sizeof(*spans), compare_spans);
    for (i = 1; i < n; i++) {
        if (spans[i].start < spans[i - 1].end) {
            PyErr_Format(PyExc_ValueError,
                         "buffers[%zd] and buffers[%zd] overlap: each packet "
                         "needs memory of its own",
                         spans[i - 1].buffer, spans[i].buffer);
            return -1;
        }
    }
    return 0;
}

/* Whether there is memory that both write to. */
static bool
share_memory(const BatchMemory *a, const BatchMemory *b)
{
    Py_ssize_t i = 0, k = 0;

    while (i < a->span_count && k < b->span_count) {
        if (a->spans[i].end <= b->spans[k].start) {
            i++;
        }
        else if (b->spans[k].end <= a->spans[i].start) {
            k++;
        }
        else {
            return true;
        }
    }
    return false;
}

/* Sets all lengths to those of the full rows, because the caller's memory may
   hold packets already. */
static void
fill_lengths(BatchMemory *m)
{
    Py_ssize_t i;

    for (i = 0; i < m->capacity; i++) {
        atomic_init(&m->lengths[i], (uint32_t)room_of(m, i));
    }
}

/* Returns new memory with its messages prepared, or NULL with an exception
   set. */
static BatchMemory *
BatchMemory_create(PyTypeObject *type, Py_ssize_t capacity,
                   Py_ssize_t frame_size, PyObject *buffer, PyObject *buffers)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    BatchMemory *m = (BatchMemory *)alloc(type, 0);
    Py_ssize_t i;
    int result;

    if (m == NULL) {
        return NULL;
    }
    if (buffers != NULL) {
        result = use_buffers(m, buffers);
    }
    else if (buffer != NULL) {
        result = use_buffer(m, buffer, capacity, frame_size);
    }
    else {
        result = use_own_memory(m, capacity, frame_size);
    }
    if (result < 0 || note_spans(m) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    for (i = 0; i < m->capacity; i++) {
        if (buffers != NULL) {
            arm_slot(m, i, m->pins[i].buf, (size_t)m->pins[i].len);
        }
        else {
            arm_slot(m, i, m->frames + i * m->strides[0],
                     (size_t)m->frame_size);
        }
    }
    if (buffer != NULL || buffers != NULL) {
        fill_lengths(m);
    }
    return m;
}

/* The same for slices, which set_slice() sets. */
static BatchMemory *
BatchMemory_slices(PyTypeObject *type, PyObject *buffer, Py_ssize_t count)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    BatchMemory *m = (BatchMemory *)alloc(type, 0);

    if (m != NULL && (use_slices(m, buffer, count) < 0 || note_spans(m) < 0)) {
        Py_CLEAR(m);
    }
    return m;
}

/* The same for a view: memory without frames of its own. */
static BatchMemory *
BatchMemory_view(PyTypeObject *type, BatchMemory *viewed)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    BatchMemory *m = (BatchMemory *)alloc(type, 0);
    Py_ssize_t i;

    if (m == NULL) {
        return NULL;
    }
    m->viewed = Py_NewRef((PyObject *)viewed);
    m->is_slices = viewed->is_slices;
    m->capacity = viewed->capacity;
    if (allocate(m, false) < 0 || note_spans(m) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    for (i = 0; i < m->capacity; i++) {
        arm_slot(m, i, frame_of(viewed, i), room_of(viewed, i));
    }
    return m;
}

/* No type in this module has a tp_clear. Their references never change, and if
   the caller's memory were released while views of it exist, the views would
   use freed memory. A cycle can still be broken: it always contains some other
   container, which the collector can clear. */
static int
BatchMemory_traverse(PyObject *self, visitproc visit, void *arg)
{
    BatchMemory *m = (BatchMemory *)self;
    Py_ssize_t i;

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(m->viewed);
    for (i = 0; i < m->pin_count; i++) {
        Py_VISIT(m->pins[i].obj);
    }
    return 0;
}

static void
BatchMemory_dealloc(PyObject *self)
{
    BatchMemory *m = (BatchMemory *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyObject_GC_UnTrack(self);
    while (m->pin_count > 0) {
        PyBuffer_Release(&m->pins[--m->pin_count]);
    }
    Py_XDECREF(m->viewed);
    PyMem_Free(m->pins);
    PyMem_Free(m->names);
    PyMem_Free(m->spans);
    PyMem_Free(m->block);
    release(self);
    Py_DECREF(type);
}

/* The layout of an exported buffer; `shape` and `strides` are borrowed from
   the exporter. */
struct geometry {
    void *start;
    const char *format;
    Py_ssize_t itemsize;
    int ndim;
    Py_ssize_t *shape;
    Py_ssize_t *strides;
    const char *readonly; /* why it is; NULL: it is writable */
};

static const char *const read_only_column = "this column is read-only";
static const char *const read_only_slice =
    "a batch made with offsets= is read-only: copy its frames into a batch "
    "with memory of its own";

static bool
is_contiguous(const struct geometry *g)
{
    Py_ssize_t expected = g->itemsize;
    int i;

    for (i = g->ndim - 1; i >= 0; i--) {
        if (g->shape[i] > 1 && g->strides[i] != expected) {
            return false;
        }
        expected *= g->shape[i];
    }
    return true;
}

/* Fills in the view that is requested of `exporter`. 0, or -1 with BufferError
   set. */
static int
fill_view(Py_buffer *view, int flags, PyObject *exporter,
          const struct geometry *g)
{
    const int contiguous =
        (PyBUF_C_CONTIGUOUS | PyBUF_F_CONTIGUOUS | PyBUF_ANY_CONTIGUOUS)
        & ~PyBUF_STRIDES;
    bool dense = is_contiguous(g);
    int i;

    view->obj = NULL;
    if ((flags & PyBUF_WRITABLE) && g->readonly) {
        PyErr_SetString(PyExc_BufferError, g->readonly);
        return -1;
    }
    /* Two-dimensional memory is never in Fortran order. */
    if (!dense
        && ((flags & PyBUF_STRIDES) != PyBUF_STRIDES
            || (flags & contiguous))) {
        PyErr_SetString(PyExc_BufferError, "the memory is not contiguous");
        return -1;
    }
    if (g->ndim > 1
        && (flags & contiguous) == (PyBUF_F_CONTIGUOUS & ~PyBUF_STRIDES)) {
        PyErr_SetString(PyExc_BufferError,
                        "the memory is not in Fortran order");
        return -1;
    }
    view->buf = g->start;
    view->itemsize = g->itemsize;
    view->len = g->itemsize;
    for (i = 0; i < g->ndim; i++) {
        view->len *= g->shape[i];
    }
    view->readonly = g->readonly != NULL;
    view->ndim = (flags & PyBUF_ND) ? g->ndim : 1;
    view->format = (flags & PyBUF_FORMAT) ? (char *)g->format : NULL;
    view->shape = (flags & PyBUF_ND) ? g->shape : NULL;
    view->strides =
        (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? g->strides : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    view->obj = Py_NewRef(exporter);
    return 0;
}

static int
BatchMemory_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    BatchMemory *m = (BatchMemory *)self;
    struct geometry g = {m->frames, "B", 1, 2, m->shape, m->strides, NULL};

    if (m->frames == NULL) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError,
                        "a batch made with buffers= or offsets= is not one "
                        "two-dimensional buffer");
        return -1;
    }
    return fill_view(view, flags, self, &g);
}

static PyType_Slot BatchMemory_slots[] = {
    {Py_tp_doc, "The memory of a batch."},
    {Py_tp_traverse, BatchMemory_traverse},
    {Py_tp_dealloc, BatchMemory_dealloc},
    {Py_bf_getbuffer, BatchMemory_getbuffer},
    {0, NULL},
};

PyType_Spec BatchMemory_spec = {
    .name = "rawmmsg._rawmmsg.BatchMemory",
    .basicsize = sizeof(BatchMemory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = BatchMemory_slots,
};

/* ---- Window ------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    BatchMemory *memory; /* strong; this field and those below are constant */
    struct geometry geometry;
    Py_ssize_t shape;
    Py_ssize_t stride;
} Window;

/* Returns a memoryview of `count` items from `start` on, `stride` bytes apart,
   or NULL with an exception set. `readonly` is as in struct geometry. */
static PyObject *
view_of(BatchMemory *m, PyTypeObject *window_type, void *start,
        Py_ssize_t count, Py_ssize_t stride, Py_ssize_t itemsize,
        const char *format, const char *readonly)
{
    Window *w = PyObject_GC_New(Window, window_type);
    PyObject *view;

    if (w == NULL) {
        return NULL;
    }
    w->memory = (BatchMemory *)Py_NewRef((PyObject *)m);
    w->shape = count;
    w->stride = stride;
    w->geometry = (struct geometry){start,     format,     itemsize, 1,
                                    &w->shape, &w->stride, readonly};
    /* Without the caller's buffers it cannot be part of a cycle. */
    if (m->pin_count > 0) {
        PyObject_GC_Track(w);
    }
    view = PyMemoryView_FromObject((PyObject *)w);
    Py_DECREF(w);
    return view;
}

static int
Window_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Window *)self)->memory);
    return 0;
}

static void
Window_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    Py_DECREF(((Window *)self)->memory);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static int
Window_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    return fill_view(view, flags, self, &((Window *)self)->geometry);
}

static PyType_Slot Window_slots[] = {
    {Py_tp_doc, "A part of a batch's memory."},
    {Py_tp_traverse, Window_traverse},
    {Py_tp_dealloc, Window_dealloc},
    {Py_bf_getbuffer, Window_getbuffer},
    {0, NULL},
};

PyType_Spec Window_spec = {
    .name = "rawmmsg._rawmmsg.Window",
    .basicsize = sizeof(Window),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Window_slots,
};

/* ---- PacketBatch -------------------------------------------------------- */

static int
raise_in_use(void)
{
    PyErr_SetString(PyExc_BufferError, "the batch is in use by another call");
    return -1;
}

/* Whether a call is using the batch, given the value of its `busy`. After a
   fork, a mark of the parent counts only if the thread that forked has set it,
   because only that thread exists in the child. */
static bool
is_in_use(PacketBatch *b, unsigned busy)
{
    return busy == this_process() + 1
           || (busy > 0
               && atomic_load_explicit(&b->user, memory_order_relaxed)
                      == atomic_load_explicit(&forks.thread,
                                              memory_order_relaxed));
}

int
take_batch(PacketBatch *b)
{
    unsigned busy = 0;

    do {
        if (is_in_use(b, busy)) {
            return raise_in_use();
        }
    } while (!atomic_compare_exchange_weak_explicit(
        &b->busy, &busy, this_process() + 1, memory_order_acquire,
        memory_order_acquire));
    atomic_store_explicit(&b->user, PyThread_get_thread_ident(),
                          memory_order_relaxed);
    return 0;
}

/* 0, or -1 with BufferError set if nothing may write to the frames. */
int
check_writable(const PacketBatch *b)
{
    if (b->memory->is_slices) {
        PyErr_SetString(PyExc_BufferError, read_only_slice);
        return -1;
    }
    return 0;
}

/* Both in one. */
static int
take_writable(PacketBatch *b)
{
    return check_writable(b) < 0 ? -1 : take_batch(b);
}

void
release_batch(PacketBatch *b)
{
    atomic_store_explicit(&b->busy, 0, memory_order_release);
}

Py_ssize_t
count_of(PacketBatch *b)
{
    return (Py_ssize_t)atomic_load_explicit(&b->count, memory_order_acquire);
}

void
set_held(PacketBatch *b, Py_ssize_t count, unsigned collected)
{
    atomic_store_explicit(&b->collected, collected, memory_order_relaxed);
    atomic_store_explicit(&b->count, (uint_fast32_t)count,
                          memory_order_release);
}

int
raise_bad_frame(Py_ssize_t i, const char *reason)
{
    PyErr_Format(PyExc_ValueError, "packet %zd: %s", i, reason);
    return -1;
}

Py_ssize_t
checked_length(BatchMemory *m, Py_ssize_t i)
{
    uint32_t length =
        atomic_load_explicit(&m->lengths[i], memory_order_relaxed);

    if (length > room_of(m, i)) {
        PyErr_Format(PyExc_ValueError,
                     "lengths[%zd] is %lu, more than the %zu bytes of the "
                     "frame",
                     i, (unsigned long)length, room_of(m, i));
        return -1;
    }
    return (Py_ssize_t)length;
}

/* A converter for "O&": stores -1 for None, and the largest Py_ssize_t for a
   greater number. */
static int
convert_optional_size(PyObject *value, void *result)
{
    Py_ssize_t size;

    if (value == Py_None) {
        *(Py_ssize_t *)result = -1;
        return 1;
    }
    size = PyNumber_AsSsize_t(value, NULL);
    if (size == -1 && PyErr_Occurred()) {
        return 0;
    }
    if (size < 0) {
        PyErr_Format(PyExc_ValueError,
                     "capacity and frame_size must not be negative: %zd",
                     size);
        return 0;
    }
    *(Py_ssize_t *)result = size;
    return 1;
}

/* Returns a new batch, or NULL with an exception set. Steals the reference to
   the memory; if that is NULL, returns NULL. */
static PacketBatch *
make_batch(PyTypeObject *type, BatchMemory *memory)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PacketBatch *b = memory == NULL ? NULL : (PacketBatch *)alloc(type, 0);

    if (b == NULL) {
        Py_XDECREF((PyObject *)memory);
        return NULL;
    }
    b->memory = memory;
    atomic_init(&b->collected, FILLED);
    return b;
}

/* Checks which sizes and buffers the caller gives together. 0, or -1 with
   TypeError set. NULL: not given. */
static int
check_arguments(Py_ssize_t capacity, Py_ssize_t frame_size, PyObject *buffer,
                PyObject *buffers, PyObject *offsets, PyObject *lengths)
{
    bool sizes = capacity >= 0 || frame_size >= 0;

    if (buffers != NULL && (buffer != NULL || sizes)) {
        PyErr_SetString(PyExc_TypeError,
                        "buffers= determines all sizes: buffer, capacity "
                        "and frame_size cannot be given as well");
        return -1;
    }
    if ((offsets != NULL || lengths != NULL)
        && (offsets == NULL || lengths == NULL || buffer == NULL || sizes)) {
        PyErr_SetString(PyExc_TypeError,
                        "a batch of slices needs buffer=, offsets= and "
                        "lengths=, and nothing else");
        return -1;
    }
    return 0;
}

/* NULL for None, which stands for an argument that was not given. */
static PyObject *
given(PyObject *argument)
{
    return argument == Py_None ? NULL : argument;
}

static PyObject *
PacketBatch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", "frame_size", "buffer", "buffers",
                            "offsets",  "lengths",    NULL};
    module_state *state = state_of(type);
    Py_ssize_t capacity = -1, frame_size = -1;
    PyObject *buffer = Py_None, *buffers = Py_None;
    PyObject *offsets = Py_None, *lengths = Py_None;
    BatchMemory *memory;

    if (state == NULL
        || !PyArg_ParseTupleAndKeywords(
            args, kwargs, "|O&O&$OOOO:PacketBatch", names,
            convert_optional_size, &capacity, convert_optional_size,
            &frame_size, &buffer, &buffers, &offsets, &lengths)
        || check_arguments(capacity, frame_size, given(buffer), given(buffers),
                           given(offsets), given(lengths))
               < 0) {
        return NULL;
    }
    if (offsets != Py_None) {
        return (PyObject *)slice_buffer(state, buffer, offsets, lengths);
    }
    memory = BatchMemory_create(state->memory_type, capacity, frame_size,
                                given(buffer), given(buffers));
    return (PyObject *)make_batch(type, memory);
}

static int
PacketBatch_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((PacketBatch *)self)->memory);
    return 0;
}

static void
PacketBatch_dealloc(PyObject *self)
{
    PacketBatch *b = (PacketBatch *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyObject_GC_UnTrack(self);
    if (b->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_XDECREF((PyObject *)b->memory);
    release(self);
    Py_DECREF(type);
}

static PyObject *
PacketBatch_repr(PyObject *self)
{
    PacketBatch *b = (PacketBatch *)self;

    if (b->memory->frame_size == 0) {
        return PyUnicode_FromFormat("<PacketBatch %zd of %zd packets>",
                                    count_of(b), b->memory->capacity);
    }
    return PyUnicode_FromFormat(
        "<PacketBatch %zd of %zd packets of up to %zd bytes>", count_of(b),
        b->memory->capacity, b->memory->frame_size);
}

static Py_ssize_t
PacketBatch_length(PyObject *self)
{
    return count_of((PacketBatch *)self);
}

static PyObject *
PacketBatch_item(PyObject *self, Py_ssize_t i)
{
    PacketBatch *b = (PacketBatch *)self;
    module_state *state = state_of(Py_TYPE(self));
    Py_ssize_t length;

    if (state == NULL) {
        return NULL;
    }
    if (is_in_use(b, atomic_load_explicit(&b->busy, memory_order_acquire))) {
        raise_in_use();
        return NULL;
    }
    if (i < 0 || i >= count_of(b)) {
        PyErr_SetString(PyExc_IndexError, "batch index out of range");
        return NULL;
    }
    length = checked_length(b->memory, i);
    if (length < 0) {
        return NULL;
    }
    return view_of(b->memory, state->window_type, frame_of(b->memory, i),
                   length, 1, 1, "B",
                   b->memory->is_slices ? read_only_slice : NULL);
}

static PyObject *
PacketBatch_tolist(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PacketBatch *b = (PacketBatch *)self;
    Py_ssize_t n, i, length;
    PyObject *list, *packet;

    if (take_batch(b) < 0) {
        return NULL;
    }
    n = count_of(b);
    list = PyList_New(n);
    for (i = 0; list != NULL && i < n; i++) {
        length = checked_length(b->memory, i);
        packet = length < 0 ? NULL
                            : PyBytes_FromStringAndSize(frame_of(b->memory, i),
                                                        length);
        if (packet == NULL || PyList_SetItem(list, i, packet) < 0) {
            Py_CLEAR(list);
        }
    }
    release_batch(b);
    return list;
}

/* Zeroes the offload headers of frames first..end-1. */
static void
zero_headers(BatchMemory *m, Py_ssize_t first, Py_ssize_t end)
{
    memset(&m->offload_headers[first], 0,
           (size_t)(end - first) * sizeof(*m->offload_headers));
}

unsigned
collected_of(PacketBatch *b)
{
    return atomic_load_explicit(&b->collected, memory_order_relaxed);
}

bool
has_headers(PacketBatch *b)
{
    return collected_of(b) & COLLECT_OFFLOADS;
}

unsigned
filled_headers(PacketBatch *b)
{
    unsigned collected =
        atomic_load_explicit(&b->collected, memory_order_relaxed);

    if (collected & COLLECT_OFFLOADS) {
        return collected & FILLED;
    }
    zero_headers(b->memory, 0, b->memory->capacity);
    return FILLED;
}

/* Copies `data` into the next free frame. 0, or -1 with an exception set. It
   takes the batch only after it has acquired the buffer of `data`: that may
   run Python code, which may use the batch. */
static int
append_packet(PacketBatch *b, PyObject *data)
{
    BatchMemory *m = b->memory;
    Py_buffer view;
    unsigned collected;
    Py_ssize_t n;
    int result = -1;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (take_writable(b) < 0) {
        PyBuffer_Release(&view);
        return -1;
    }
    n = count_of(b);
    if (n == m->capacity) {
        PyErr_Format(PyExc_ValueError,
                     "the batch is full: it holds %zd "
                     "packets",
                     n);
    }
    else if ((size_t)view.len > room_of(m, n)) {
        PyErr_Format(PyExc_ValueError,
                     "a packet of %zd bytes does not fit into a frame of "
                     "%zu bytes",
                     view.len, room_of(m, n));
    }
    else {
        /* `data` may be a view of this frame. */
        memmove(frame_of(m, n), view.buf, (size_t)view.len);
        atomic_store_explicit(&m->lengths[n], (uint32_t)view.len,
                              memory_order_relaxed);
        collected = filled_headers(b);
        zero_headers(m, n, n + 1);
        set_held(b, n + 1, collected);
        result = 0;
    }
    release_batch(b);
    PyBuffer_Release(&view);
    return result;
}

static PyObject *
PacketBatch_append(PyObject *self, PyObject *data)
{
    if (append_packet((PacketBatch *)self, data) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
PacketBatch_extend(PyObject *self, PyObject *packets)
{
    PyObject *iterator = PyObject_GetIter(packets);
    PyObject *data;

    if (iterator == NULL) {
        return NULL;
    }
    while ((data = PyIter_Next(iterator)) != NULL) {
        int result = append_packet((PacketBatch *)self, data);

        Py_DECREF(data);
        if (result < 0) {
            break;
        }
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
PacketBatch_clear(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PacketBatch *b = (PacketBatch *)self;

    if (take_batch(b) < 0) {
        return NULL;
    }
    zero_headers(b->memory, 0, b->memory->capacity);
    set_held(b, 0, FILLED);
    release_batch(b);
    Py_RETURN_NONE;
}

static PyObject *
PacketBatch_set_count(PyObject *self, PyObject *value)
{
    PacketBatch *b = (PacketBatch *)self;
    Py_ssize_t count = PyNumber_AsSsize_t(value, NULL);

    if (count == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (count < 0 || count > b->memory->capacity) {
        PyErr_Format(PyExc_ValueError, "count must be 0 to %zd, not %zd",
                     b->memory->capacity, count);
        return NULL;
    }
    if (take_batch(b) < 0) {
        return NULL;
    }
    /* Received frames keep their headers: without them they are incomplete. */
    set_held(b, count, filled_headers(b));
    release_batch(b);
    Py_RETURN_NONE;
}

/* Returns a table of the first `count` frames for the functions of
   _rawmmsg_offload.h. */
static struct frame_table
table_of(BatchMemory *m, Py_ssize_t count)
{
    return (struct frame_table){.count = (size_t)count,
                                .parts = m->rx_parts,
                                .headers = m->offload_headers,
                                .lengths = m->lengths,
                                .flags = m->flags};
}

/* 0 if start is 0 to count, or -1 with an exception set. */
static int
check_start(Py_ssize_t start, Py_ssize_t count)
{
    if (start < 0 || start > count) {
        PyErr_Format(PyExc_ValueError, "start must be 0 to %zd, not %zd",
                     count, start);
        return -1;
    }
    return 0;
}

int
take_both(PacketBatch *from, PacketBatch *to)
{
    if (from == to) {
        PyErr_SetString(PyExc_BufferError, "the target must be another batch");
        return -1;
    }
    if (take_batch(from) < 0) {
        return -1;
    }
    if (take_batch(to) < 0) {
        release_batch(from);
        return -1;
    }
    return 0;
}

void
release_both(PacketBatch *from, PacketBatch *to)
{
    release_batch(to);
    release_batch(from);
}

/* Results would overwrite frames that have not been read yet. 0, or -1 with an
   exception set. */
static int
check_target(const PacketBatch *from, const PacketBatch *to)
{
    if (check_writable(to) < 0) {
        return -1;
    }
    if (share_memory(from->memory, to->memory)) {
        PyErr_SetString(PyExc_ValueError,
                        "the target's memory overlaps the batch's");
        return -1;
    }
    return 0;
}

static int
raise_no_headers(void)
{
    PyErr_SetString(PyExc_ValueError,
                    "the batch holds no offload headers: receive it with "
                    "vnet_hdr");
    return -1;
}

/* The table of a batch that may hold no offload headers. */
static struct frame_table
table_of_any(PacketBatch *b)
{
    struct frame_table t = table_of(b->memory, count_of(b));

    if (!has_headers(b)) {
        t.headers = NULL; /* those in memory are of an earlier receive */
    }
    return t;
}

int
begin_filling(PacketBatch *b, struct frame_table *t)
{
    if (take_writable(b) < 0) {
        return -1;
    }
    zero_headers(b->memory, 0, b->memory->capacity);
    set_held(b, 0, FILLED);
    *t = table_of(b->memory, b->memory->capacity);
    return 0;
}

void
end_filling(PacketBatch *b, Py_ssize_t count)
{
    set_held(b, count, FILLED);
    release_batch(b);
}

/* Calls a function that changes all frames, and returns its result, or NULL
   with an exception set. */
static PyObject *
change_frames(PacketBatch *b, size_t (*change)(const struct frame_table *,
                                               size_t *, const char **))
{
    struct frame_table t = table_of_any(b);
    const char *reason = NULL;
    size_t done, at;

    Py_BEGIN_ALLOW_THREADS
    done = change(&t, &at, &reason);
    Py_END_ALLOW_THREADS
    if (reason != NULL) {
        raise_bad_frame((Py_ssize_t)at, reason);
        return NULL;
    }
    return PyLong_FromSize_t(done);
}

static PyObject *
PacketBatch_complete_checksums(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PacketBatch *b = (PacketBatch *)self;
    PyObject *result = NULL;

    if (take_writable(b) < 0) {
        return NULL;
    }
    if (!has_headers(b)) {
        raise_no_headers();
    }
    else {
        result = change_frames(b, complete_frames);
    }
    release_batch(b);
    return result;
}

static PyObject *
PacketBatch_compute_checksums(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PacketBatch *b = (PacketBatch *)self;
    PyObject *result;

    if (take_writable(b) < 0) {
        return NULL;
    }
    result = change_frames(b, compute_frames);
    release_batch(b);
    return result;
}

/* Writes the status of each frame into new bytes, and returns them, or NULL
   with an exception set. The caller has taken the batch. */
static PyObject *
verify_batch(PacketBatch *b)
{
    struct frame_table t = table_of_any(b);
    const char *reason = NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)t.count);
    uint8_t *statuses;
    size_t at;

    if (bytes == NULL) {
        return NULL;
    }
    /* The flags in memory may be of an earlier receive, too. */
    if (!(atomic_load_explicit(&b->collected, memory_order_relaxed)
          & COLLECT_ALWAYS)) {
        t.flags = NULL;
    }
    statuses = (uint8_t *)PyBytes_AsString(bytes);
    Py_BEGIN_ALLOW_THREADS
    verify_frames(&t, statuses, &at, &reason);
    Py_END_ALLOW_THREADS
    if (reason != NULL) {
        raise_bad_frame((Py_ssize_t)at, reason);
        Py_CLEAR(bytes);
    }
    return bytes;
}

static PyObject *
PacketBatch_verify_checksums(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PacketBatch *b = (PacketBatch *)self;
    PyObject *bytes, *view;

    if (take_batch(b) < 0) {
        return NULL;
    }
    bytes = verify_batch(b);
    release_batch(b);
    if (bytes == NULL) {
        return NULL;
    }
    view = PyMemoryView_FromObject(bytes);
    Py_DECREF(bytes);
    return view;
}

/* Which columns segments have from their super-frame. */
static unsigned
kept_columns(PacketBatch *from)
{
    return from->memory->is_slices
               ? 0
               : collected_of(from) & (COLLECT_TIMES | COLLECT_ADDRESSES);
}

/* Fills rows first..end-1 of the columns with those of frame i of `from`. */
static void
repeat_columns(const BatchMemory *from, Py_ssize_t i, BatchMemory *to,
               Py_ssize_t first, Py_ssize_t end, unsigned kept)
{
    for (; first < end; first++) {
        if (kept & COLLECT_TIMES) {
            to->timestamps_ns[first] = from->timestamps_ns[i];
        }
        if (kept & COLLECT_ADDRESSES) {
            to->ifindexes[first] = from->ifindexes[i];
            to->packet_types[first] = from->packet_types[i];
            to->addresses[first] = from->addresses[i];
        }
    }
}

/* The same as segment_frames(), frame by frame. Runs without the GIL. */
static void
segment_with_columns(const BatchMemory *from, BatchMemory *to, unsigned kept,
                     struct segmentation *g)
{
    size_t count = g->from.count, frame, written;

    while (g->reason == NULL && g->frame < count && g->written < g->to.count) {
        frame = g->frame;
        written = g->written;
        g->from.count = frame + 1;
        segment_frames(g);
        repeat_columns(from, (Py_ssize_t)frame, to, (Py_ssize_t)written,
                       (Py_ssize_t)g->written, kept);
    }
}

/* Fills batch `to` with frames of `from`, beginning with that segment of frame
   `start`. 0, or -1 with an exception set. The caller has taken both. */
static int
segment_batch(PacketBatch *from, PacketBatch *to, Py_ssize_t start,
              Py_ssize_t segment, struct segmentation *g)
{
    Py_ssize_t count = count_of(from);
    unsigned kept;

    if (!has_headers(from)) {
        return raise_no_headers();
    }
    if (check_target(from, to) < 0 || check_start(start, count) < 0) {
        return -1;
    }
    if (segment < 0 || segment > UINT16_MAX) {
        PyErr_Format(PyExc_ValueError, "segment must be 0 to %d, not %zd",
                     UINT16_MAX, segment);
        return -1;
    }
    if (segment > 0 && start == count) {
        PyErr_Format(PyExc_ValueError,
                     "segment must be 0 if start is the number of "
                     "packets, not %zd",
                     segment);
        return -1;
    }
    *g = (struct segmentation){
        .from = table_of(from->memory, count),
        .to = table_of(to->memory, to->memory->capacity),
        .frame = (size_t)start,
        .segment = (uint32_t)segment,
    };
    zero_headers(to->memory, 0, to->memory->capacity);
    set_held(to, 0, FILLED);
    kept = kept_columns(from);
    Py_BEGIN_ALLOW_THREADS
    if (kept == 0) {
        segment_frames(g);
    }
    else {
        segment_with_columns(from->memory, to->memory, kept, g);
    }
    Py_END_ALLOW_THREADS
    set_held(to, (Py_ssize_t)g->written, FILLED | kept);
    /* As with sendmmsg(), a frame is refused only if it is the first: the
       caller gets those before it now, and the error at the next call. */
    if (g->reason != NULL && g->written == 0) {
        return raise_bad_frame(start, g->reason);
    }
    return 0;
}

static PyObject *
PacketBatch_segment_into(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "start", "segment", NULL};
    PacketBatch *from = (PacketBatch *)self, *to;
    module_state *state = state_of(Py_TYPE(self));
    Py_ssize_t start = 0, segment = 0;
    struct segmentation g;
    int result;

    if (state == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!|nn:segment_into",
                                        names, state->batch_type, &to, &start,
                                        &segment)) {
        return NULL;
    }
    if (take_both(from, to) < 0) {
        return NULL;
    }
    result = segment_batch(from, to, start, segment, &g);
    release_both(from, to);
    return result < 0
               ? NULL
               : Py_BuildValue("nI", (Py_ssize_t)g.frame, (unsigned)g.segment);
}

/* Parses stop=. 0, or -1 with an exception set. */
static int
parse_stop(PyObject *argument, Py_ssize_t start, Py_ssize_t count,
           Py_ssize_t *stop)
{
    *stop = count;
    if (argument == Py_None) {
        return 0;
    }
    *stop = PyNumber_AsSsize_t(argument, NULL);
    if (*stop == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (*stop < start || *stop > count) {
        PyErr_Format(PyExc_ValueError,
                     "stop must be %zd (start) to %zd, not %zd", start, count,
                     *stop);
        return -1;
    }
    return 0;
}

/* Fills batch `to` with frames of `from`, merged, up to `stop_at`, an int or
   None. 0, or -1 with an exception set. The caller has taken both. */
static int
merge_batch(PacketBatch *from, PacketBatch *to, PyObject *stop_at,
            struct merging *m)
{
    Py_ssize_t count = count_of(from), start = (Py_ssize_t)m->frame, stop;

    if (check_target(from, to) < 0 || check_start(start, count) < 0
        || parse_stop(stop_at, start, count, &stop) < 0) {
        return -1;
    }
    m->memory = PyMem_Malloc(merging_memory(m->flows));
    if (m->memory == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    m->from = table_of_any(from);
    m->from.count = (size_t)stop;
    m->to = table_of(to->memory, to->memory->capacity);
    zero_headers(to->memory, 0, to->memory->capacity);
    set_held(to, 0, FILLED);
    Py_BEGIN_ALLOW_THREADS
    merge_frames(m);
    Py_END_ALLOW_THREADS
    PyMem_Free(m->memory);
    set_held(to, (Py_ssize_t)m->written, FILLED);
    if (m->reason != NULL && m->written == 0) {
        return raise_bad_frame(start, m->reason);
    }
    return 0;
}

/* Converts an argument to *number if it is 1 to `most`. 0, or -1 with an
   exception set. */
static int
check_number(const char *name, Py_ssize_t value, size_t most, size_t *number)
{
    if (value < 1 || (size_t)value > most) {
        PyErr_Format(PyExc_ValueError, "%s must be 1 to %zu, not %zd", name,
                     most, value);
        return -1;
    }
    *number = (size_t)value;
    return 0;
}

/* Parses max_length=. 0, or -1 with an exception set. */
static int
parse_max_length(PyObject *argument, size_t *max_length)
{
    Py_ssize_t value = PY_SSIZE_T_MAX;

    if (argument != Py_None) {
        value = PyNumber_AsSsize_t(argument, NULL);
        if (value == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (value < 0) {
            PyErr_Format(PyExc_ValueError,
                         "max_length must be 0 or more, not %zd", value);
            return -1;
        }
    }
    *max_length = (size_t)value;
    return 0;
}

static PyObject *
PacketBatch_merge_into(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"",           "start",    "stop",
                            "flows",      "keep_ids", "segments",
                            "max_length", "udp",      NULL};
    PacketBatch *from = (PacketBatch *)self, *to;
    module_state *state = state_of(Py_TYPE(self));
    Py_ssize_t start = 0, flows = 1, segments = 64;
    PyObject *stop = Py_None, *max_length = Py_None;
    int keep_ids = 1, udp = 1, result;
    struct merging m;

    if (state == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!|nO$npnOp:merge_into",
                                        names, state->batch_type, &to, &start,
                                        &stop, &flows, &keep_ids, &segments,
                                        &max_length, &udp)) {
        return NULL;
    }
    m = (struct merging){
        .keep_ids = keep_ids, .udp = udp, .frame = (size_t)start};
    if (check_number("flows", flows, MOST_FLOWS, &m.flows) < 0
        || check_number("segments", segments, MOST_SEGMENTS, &m.segments) < 0
        || parse_max_length(max_length, &m.max_length) < 0
        || take_both(from, to) < 0) {
        return NULL;
    }
    result = merge_batch(from, to, stop, &m);
    release_both(from, to);
    return result < 0 ? NULL : PyLong_FromSize_t(m.frame);
}

static PyObject *
PacketBatch_address(PyObject *self, PyObject *argument)
{
    PacketBatch *b = (PacketBatch *)self;
    Py_ssize_t i = PyNumber_AsSsize_t(argument, PyExc_IndexError), count;
    unsigned collected;
    struct link_name *link;
    PyObject *address = NULL;

    if ((i == -1 && PyErr_Occurred()) || take_batch(b) < 0) {
        return NULL;
    }
    count = count_of(b);
    i += i < 0 ? count : 0;
    collected = atomic_load_explicit(&b->collected, memory_order_relaxed);
    if (i < 0 || i >= count) {
        PyErr_SetString(PyExc_IndexError, "batch index out of range");
    }
    else if (collected & COLLECT_NAMES) {
        address = make_address(&b->memory->names[i]);
    }
    else if ((collected & COLLECT_ADDRESSES) && !b->memory->is_slices) {
        link = &b->memory->addresses[i];
        address =
            make_link_address(link, PyLong_FromLong(link->ll.sll_ifindex));
    }
    else {
        PyErr_SetString(PyExc_ValueError,
                        "the batch holds no addresses: receive it on a socket "
                        "with addresses=True");
    }
    release_batch(b);
    return address;
}

static int
PacketBatch_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    /* The memory is the exporter, so a view does not keep the batch alive. */
    return PyObject_GetBuffer((PyObject *)((PacketBatch *)self)->memory, view,
                              flags);
}

static PyObject *
PacketBatch_get_capacity(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(((PacketBatch *)self)->memory->capacity);
}

static PyObject *
PacketBatch_get_frame_size(PyObject *self, void *Py_UNUSED(closure))
{
    Py_ssize_t size = ((PacketBatch *)self)->memory->frame_size;

    if (size == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromSsize_t(size);
}

/* A column of the batch; constant. */
struct column {
    size_t offset;  /* of its pointer in BatchMemory */
    size_t field;   /* offset of its first item from that pointer */
    unsigned needs; /* enum collected */
    Py_ssize_t stride;
    Py_ssize_t itemsize;
    const char *format;
    bool readonly;
};

/* Raises AttributeError, which names the option that collects the column.
   Always returns NULL. */
static PyObject *
raise_not_collected(unsigned needs)
{
    const char *reason =
        needs == COLLECT_VLAN || needs == COLLECT_WIRE_LENGTHS
            ? "no wire lengths and tags: RawSocket(..., vlan=True)"
        : needs == COLLECT_TIMES
            ? "no time stamps: RawSocket(..., timestamps='software')"
        : needs == COLLECT_ADDRESSES
            ? "no addresses: RawSocket(..., addresses=True)"
        : needs == COLLECT_OFFLOADS
            ? "no offload headers: RawSocket(..., vnet_hdr=True)"
        : needs == COLLECT_BUFFER_COUNTS
            ? "no buffer counts: RawSocket(..., vnet_hdr=12)"
            : "no flags: the batch does not hold what was received";

    PyErr_SetString(PyExc_AttributeError, reason);
    return NULL;
}

static PyObject *
PacketBatch_get_column(PyObject *self, void *closure)
{
    const struct column *column = closure;
    PacketBatch *b = (PacketBatch *)self;
    unsigned collected =
        atomic_load_explicit(&b->collected, memory_order_relaxed);
    module_state *state = state_of(Py_TYPE(self));
    char *start;

    if (state == NULL) {
        return NULL;
    }
    if ((collected & column->needs) != column->needs) {
        return raise_not_collected(column->needs);
    }
    memcpy(&start, (char *)b->memory + column->offset, sizeof(start));
    return view_of(b->memory, state->window_type, start + column->field,
                   b->memory->capacity, column->stride, column->itemsize,
                   column->format, column->readonly ? read_only_column : NULL);
}

#define COLUMN(name, needs, format, readonly)     \
    ((void *)(const struct column[]){             \
        {offsetof(BatchMemory, name), 0, (needs), \
         sizeof(*((BatchMemory *)NULL)->name),    \
         sizeof(*((BatchMemory *)NULL)->name), (format), (readonly)}})

#define HEADER_COLUMN(field, needs, format)               \
    ((void *)(const struct column[]){                     \
        {offsetof(BatchMemory, offload_headers),          \
         offsetof(struct offload_header, field), (needs), \
         sizeof(struct offload_header),                   \
         sizeof(((struct offload_header *)NULL)->field), (format), false}})

static PyGetSetDef PacketBatch_getset[] = {
    {"capacity", PacketBatch_get_capacity, NULL, PacketBatch_capacity_doc,
     NULL},
    {"frame_size", PacketBatch_get_frame_size, NULL,
     PacketBatch_frame_size_doc, NULL},
    {"lengths", PacketBatch_get_column, NULL, PacketBatch_lengths_doc,
     COLUMN(lengths, 0, "I", false)},
    {"wire_lengths", PacketBatch_get_column, NULL,
     PacketBatch_wire_lengths_doc,
     COLUMN(wire_lengths, COLLECT_WIRE_LENGTHS, "I", true)},
    {"timestamps_ns", PacketBatch_get_column, NULL,
     PacketBatch_timestamps_ns_doc,
     COLUMN(timestamps_ns, COLLECT_TIMES, "q", true)},
    {"ifindexes", PacketBatch_get_column, NULL, PacketBatch_ifindexes_doc,
     COLUMN(ifindexes, COLLECT_ADDRESSES, "i", true)},
    {"packet_types", PacketBatch_get_column, NULL,
     PacketBatch_packet_types_doc,
     COLUMN(packet_types, COLLECT_ADDRESSES, "B", true)},
    {"flags", PacketBatch_get_column, NULL, PacketBatch_flags_doc,
     COLUMN(flags, COLLECT_ALWAYS, "H", true)},
    {"vlan_tcis", PacketBatch_get_column, NULL, PacketBatch_vlan_tcis_doc,
     COLUMN(vlan_tcis, COLLECT_VLAN, "H", true)},
    {"vlan_tpids", PacketBatch_get_column, NULL, PacketBatch_vlan_tpids_doc,
     COLUMN(vlan_tpids, COLLECT_VLAN, "H", true)},
    {"vnet_flags", PacketBatch_get_column, NULL, PacketBatch_vnet_flags_doc,
     HEADER_COLUMN(flags, COLLECT_OFFLOADS, "B")},
    {"gso_types", PacketBatch_get_column, NULL, PacketBatch_gso_types_doc,
     HEADER_COLUMN(gso_type, COLLECT_OFFLOADS, "B")},
    {"header_lengths", PacketBatch_get_column, NULL,
     PacketBatch_header_lengths_doc,
     HEADER_COLUMN(header_length, COLLECT_OFFLOADS, "H")},
    {"gso_sizes", PacketBatch_get_column, NULL, PacketBatch_gso_sizes_doc,
     HEADER_COLUMN(gso_size, COLLECT_OFFLOADS, "H")},
    {"checksum_starts", PacketBatch_get_column, NULL,
     PacketBatch_checksum_starts_doc,
     HEADER_COLUMN(checksum_start, COLLECT_OFFLOADS, "H")},
    {"checksum_offsets", PacketBatch_get_column, NULL,
     PacketBatch_checksum_offsets_doc,
     HEADER_COLUMN(checksum_offset, COLLECT_OFFLOADS, "H")},
    {"buffer_counts", PacketBatch_get_column, NULL,
     PacketBatch_buffer_counts_doc,
     HEADER_COLUMN(buffer_count, COLLECT_BUFFER_COUNTS, "H")},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef PacketBatch_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(PacketBatch, weakrefs),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef PacketBatch_methods[] = {
    {"tolist", PacketBatch_tolist, METH_NOARGS, PacketBatch_tolist_doc},
    {"append", PacketBatch_append, METH_O, PacketBatch_append_doc},
    {"extend", PacketBatch_extend, METH_O, PacketBatch_extend_doc},
    {"clear", PacketBatch_clear, METH_NOARGS, PacketBatch_clear_doc},
    {"set_count", PacketBatch_set_count, METH_O, PacketBatch_set_count_doc},
    {"complete_checksums", PacketBatch_complete_checksums, METH_NOARGS,
     PacketBatch_complete_checksums_doc},
    {"compute_checksums", PacketBatch_compute_checksums, METH_NOARGS,
     PacketBatch_compute_checksums_doc},
    {"verify_checksums", PacketBatch_verify_checksums, METH_NOARGS,
     PacketBatch_verify_checksums_doc},
    {"address", PacketBatch_address, METH_O, PacketBatch_address_doc},
    {"segment_into", (PyCFunction)(void (*)(void))PacketBatch_segment_into,
     METH_VARARGS | METH_KEYWORDS, PacketBatch_segment_into_doc},
    {"merge_into", (PyCFunction)(void (*)(void))PacketBatch_merge_into,
     METH_VARARGS | METH_KEYWORDS, PacketBatch_merge_into_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot PacketBatch_slots[] = {
    {Py_tp_doc, (void *)PacketBatch_doc},
    {Py_tp_new, PacketBatch_new},
    {Py_tp_traverse, PacketBatch_traverse},
    {Py_tp_dealloc, PacketBatch_dealloc},
    {Py_tp_repr, PacketBatch_repr},
    {Py_tp_iter, PySeqIter_New},
    {Py_sq_length, PacketBatch_length},
    {Py_sq_item, PacketBatch_item},
    {Py_bf_getbuffer, PacketBatch_getbuffer},
    {Py_tp_methods, PacketBatch_methods},
    {Py_tp_members, PacketBatch_members},
    {Py_tp_getset, PacketBatch_getset},
    {0, NULL},
};

PyType_Spec PacketBatch_spec = {
    .name = "rawmmsg.PacketBatch",
    .basicsize = sizeof(PacketBatch),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = PacketBatch_slots,
};

/* ---- Views -------------------------------------------------------------- */

PacketBatch *
make_view(const module_state *state, PacketBatch *source)
{
    return make_batch(state->batch_type,
                      BatchMemory_view(state->memory_type, source->memory));
}

/* ---- Slices ------------------------------------------------------------- */

PacketBatch *
make_slices(const module_state *state, PyObject *buffer, Py_ssize_t count)
{
    PacketBatch *b =
        make_batch(state->batch_type,
                   BatchMemory_slices(state->memory_type, buffer, count));

    if (b != NULL) {
        set_held(b, count, FILLED);
    }
    return b;
}

int
set_slice(PacketBatch *b, Py_ssize_t i, int64_t offset, int64_t length)
{
    BatchMemory *m = b->memory;
    const Py_buffer *pin = &m->pins[0];

    if (offset < 0 || length < 0 || offset > pin->len
        || length > pin->len - offset || length > INT_MAX) {
        PyErr_Format(PyExc_ValueError,
                     "packet %zd, of %lld bytes at offset %lld, is not in the "
                     "buffer of %zd bytes",
                     i, (long long)length, (long long)offset, pin->len);
        return -1;
    }
    arm_slot(m, i, (char *)pin->buf + offset, (size_t)length);
    atomic_init(&m->lengths[i], (uint32_t)length);
    return 0;
}

/* ---- Receiving: arming messages ----------------------------------------- */

/* Makes a message begin with its offload header, or with the frame if there is
   no header. */
static void
arm_parts(struct msghdr *header, struct iovec *parts, unsigned vnet_hdr)
{
    parts[0].iov_len = vnet_hdr;
    header->msg_iov = vnet_hdr > 0 ? parts : parts + 1;
    header->msg_iovlen = vnet_hdr > 0 ? 2 : 1;
}

/* Prepares all messages to receive the names, control messages and offload
   headers that this socket needs. There is nothing to do if the last receive
   into the batch needed the same. 0, or -1 with MemoryError set. */
static int
arm_receive(PacketBatch *b, const RawSocket *s)
{
    enum {
        CONTROL = 1,
        NAME = 2,
        ARMED = 4,
        HEADER = 8, /* times the size of a header */
        SENDER = 1 << 16
    };
    BatchMemory *m = b->memory;
    bool senders = s->collects & COLLECT_NAMES;
    bool control = s->collects & (COLLECT_VLAN | COLLECT_TIMES);
    unsigned wanted = ARMED | (control ? CONTROL : 0)
                      | (s->names_needed ? NAME : 0) | (senders ? SENDER : 0)
                      | s->vnet_hdr * HEADER;
    Py_ssize_t i;

    if (b->armed == wanted) {
        return 0;
    }
    if (senders && m->names == NULL) {
        m->names = PyMem_Calloc((size_t)m->capacity, sizeof(*m->names));
        if (m->names == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    for (i = 0; i < m->capacity; i++) {
        struct msghdr *header = &m->rx[i].msg_hdr;

        arm_parts(header, &m->rx_parts[2 * i], s->vnet_hdr);
        header->msg_control = control ? m->control + i * CONTROL_SIZE : NULL;
        header->msg_controllen = control ? CONTROL_SIZE : 0;
        header->msg_name = senders           ? (void *)&m->names[i].storage
                           : s->names_needed ? (void *)&m->addresses[i]
                                             : NULL;
        header->msg_namelen = s->names_needed ? name_room(s) : 0;
    }
    b->armed = wanted;
    return 0;
}

int
begin_receive(PacketBatch *b, const RawSocket *s)
{
    if (take_writable(b) < 0) {
        return -1;
    }
    if (arm_receive(b, s) < 0) {
        release_batch(b);
        return -1;
    }
    return 0;
}

/* ---- Receiving: parsing messages ---------------------------------------- */

static void
read_auxdata(struct arrival *a, const struct cmsghdr *c)
{
    struct auxdata aux;

    memcpy(&aux, CMSG_DATA(c), sizeof(aux));
    a->wire_length = aux.tp_len;
    if (aux.tp_status & TP_STATUS_CSUMNOTREADY) {
        a->flags |= CHECKSUM_NOT_READY;
    }
    if (aux.tp_status & TP_STATUS_CSUM_VALID) {
        a->flags |= CHECKSUM_VALID;
    }
    /* Do not look at tci: a tag with id 0 and priority 0 is a tag. */
    if (aux.tp_status & TP_STATUS_VLAN_VALID) {
        a->stripped = true;
        a->tci = aux.tp_vlan_tci;
        a->tpid = (aux.tp_status & TP_STATUS_VLAN_TPID_VALID)
                      ? aux.tp_vlan_tpid
                      : ETH_P_8021Q;
    }
}

/* Closes descriptors that came with a packet. The sender of an AF_UNIX
   datagram can attach descriptors (unix(7)). The kernel has opened them in
   this process although we did not ask for any, and nobody else would close
   them. */
static void
close_sent(const struct cmsghdr *c)
{
    const unsigned char *at = CMSG_DATA(c);
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    int fd;

    for (; n > 0; n--, at += sizeof(fd)) {
        memcpy(&fd, at, sizeof(fd));
        close(fd);
    }
}

void
read_control(const RawSocket *s, struct arrival *a, struct msghdr *header)
{
    struct cmsghdr *c;
    struct timespec stamp, stamps[3];

    for (c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA
            && c->cmsg_len >= CMSG_LEN(sizeof(struct auxdata))) {
            read_auxdata(a, c);
        }
        else if (c->cmsg_level == SOL_SOCKET
                 && c->cmsg_type == SCM_TIMESTAMPING
                 && c->cmsg_len >= CMSG_LEN(sizeof(stamps))) {
            memcpy(stamps, CMSG_DATA(c), sizeof(stamps));
            stamp = stamps[s->stamp];
            a->timestamp_ns = stamp.tv_sec * NS_PER_S + stamp.tv_nsec;
        }
        else if (c->cmsg_level == SOL_SOCKET
                 && (c->cmsg_type == SCM_RIGHTS
                     || c->cmsg_type == SCM_PIDFD)) {
            close_sent(c);
        }
    }
}

/* Inserts a stripped tag behind the addresses. If there is no room for all
   bytes, the last ones are dropped. Returns false if the frame is cut before
   the place of the tag. */
static bool
restore_tag(struct arrival *a, unsigned char *frame, size_t room)
{
    unsigned char tag[TAG_SIZE] = {a->tpid >> 8, a->tpid & 0xff, a->tci >> 8,
                                   a->tci & 0xff};
    size_t length = (size_t)a->length + TAG_SIZE;

    if (a->length < TAG_OFFSET) {
        return false;
    }
    if (length > room) {
        length = room;
    }
    if (length > TAG_OFFSET + TAG_SIZE) {
        memmove(frame + TAG_OFFSET + TAG_SIZE, frame + TAG_OFFSET,
                length - TAG_OFFSET - TAG_SIZE);
        memcpy(frame + TAG_OFFSET, tag, TAG_SIZE);
    }
    else {
        memcpy(frame + TAG_OFFSET, tag, length - TAG_OFFSET);
    }
    a->length = (uint32_t)length;
    return true;
}

/* Restores a stripped tag, and fills in tci and tpid. The frame begins with an
   Ethernet header. */
static void
parse_tag(struct arrival *a, unsigned char *frame, size_t room)
{
    uint16_t tpid;

    if (a->stripped) {
        /* The kernel counted the length after it had stripped the tag. */
        a->wire_length += TAG_SIZE;
        if (restore_tag(a, frame, room)) {
            a->flags |= VLAN_RESTORED;
        }
    }
    else if (a->length >= TAG_OFFSET + TAG_SIZE) {
        tpid = load_be16(frame + TAG_OFFSET);
        if (tpid == ETH_P_8021Q || tpid == ETH_P_8021AD) {
            a->tpid = tpid;
            a->tci = load_be16(frame + TAG_OFFSET + 2);
        }
    }
}

void
parse_message(const RawSocket *s, struct mmsghdr *message, struct arrival *a)
{
    struct msghdr *header = &message->msg_hdr;
    const struct iovec *part = &header->msg_iov[header->msg_iovlen - 1];
    int link_type = s->link_type;

    memset(a, 0, sizeof(*a));
    /* msg_len includes the offload header. */
    if (message->msg_len > s->vnet_hdr) {
        a->length = message->msg_len - s->vnet_hdr;
    }
    a->wire_length = a->length;
    if (header->msg_control != NULL) {
        read_control(s, a, header);
        header->msg_controllen = CONTROL_SIZE;
        if (header->msg_flags & MSG_CTRUNC) {
            a->flags |= CONTROL_TRUNCATED;
        }
    }
    if (header->msg_name != NULL) {
        if (link_type < 0 && s->family == AF_PACKET) {
            link_type = ((struct sockaddr_ll *)header->msg_name)->sll_hatype;
        }
        /* The kernel returns the full length of the name even if it has cut
           the name. */
        a->name_length =
            (uint8_t)(header->msg_namelen < name_room(s) ? header->msg_namelen
                                                         : name_room(s));
        header->msg_namelen = name_room(s);
    }
    if ((s->collects & COLLECT_VLAN) && s->type == SOCK_RAW
        && is_ethernet(link_type)) {
        parse_tag(a, part->iov_base, part->iov_len);
    }
    /* If a filter has cut the packet, the kernel does not set MSG_TRUNC. */
    if ((header->msg_flags & MSG_TRUNC)
        || ((s->collects & COLLECT_VLAN) && a->length < a->wire_length)) {
        a->flags |= TRUNCATED;
    }
    header->msg_flags = 0;
}

/* Adjusts the offsets in the header of a frame in which a tag was restored.
   (For a tag that is still to be inserted, the kernel does the same:
   include/linux/virtio_net.h:virtio_net_hdr_from_skb().) */
static void
shift_header(struct offload_header *h)
{
    if (h->header_length > 0 && h->header_length <= UINT16_MAX - TAG_SIZE) {
        h->header_length += TAG_SIZE;
    }
    if (h->flags & VNET_NEEDS_CSUM) {
        h->checksum_start += TAG_SIZE;
    }
}

/* Fills row i of the columns from message i. */
static void
parse_slot(const RawSocket *s, BatchMemory *m, Py_ssize_t i)
{
    struct arrival a;

    parse_message(s, &m->rx[i], &a);
    atomic_store_explicit(&m->lengths[i], a.length, memory_order_relaxed);
    m->flags[i] = a.flags;
    if (s->vnet_hdr > 0 && (a.flags & VLAN_RESTORED)) {
        shift_header(&m->offload_headers[i]);
    }
    if (s->collects & COLLECT_VLAN) {
        m->wire_lengths[i] = a.wire_length;
        m->vlan_tcis[i] = a.tci;
        m->vlan_tpids[i] = a.tpid;
    }
    if (s->collects & (COLLECT_ADDRESSES | COLLECT_NAMES)) {
        if (s->collects & COLLECT_NAMES) {
            m->names[i].length = a.name_length;
        }
        else {
            m->ifindexes[i] = m->addresses[i].ll.sll_ifindex;
            m->packet_types[i] = m->addresses[i].ll.sll_pkttype;
        }
    }
    if (s->collects & COLLECT_TIMES) {
        m->timestamps_ns[i] = a.timestamp_ns;
    }
}

void
parse_messages(const RawSocket *s, BatchMemory *m, int count)
{
    int i;

    for (i = 0; i < count; i++) {
        parse_slot(s, m, i);
    }
}

/* Marks packets of other senders than the peer. Returns how many there are. */
static unsigned long long
mark_strangers(BatchMemory *m, int count, const struct name *peer)
{
    unsigned long long strangers = 0;
    int i;

    for (i = 0; i < count; i++) {
        if (!is_same_name(&m->names[i], peer)) {
            m->flags[i] |= FOREIGN;
            strangers++;
        }
    }
    return strangers;
}

unsigned long long
end_receive(PacketBatch *b, const RawSocket *s, int count,
            const struct name *peer)
{
    unsigned long long strangers = 0;

    if (count > 0) {
        if (peer != NULL) {
            strangers = mark_strangers(b->memory, count, peer);
        }
        set_held(b, count, s->collects);
    }
    release_batch(b);
    return strangers;
}

/* ---- Sending: preparing messages ---------------------------------------- */

/* The header for frames that have no offload header of their own. */
static const struct offload_header no_offload;

Py_ssize_t
begin_outgoing(struct outgoing *out, unsigned vnet_hdr,
               const module_state *state, PyObject *packets)
{
    memset(out, 0, sizeof(*out));
    out->vnet_hdr = vnet_hdr;
    if (Py_IS_TYPE(packets, state->batch_type)) {
        if (take_batch((PacketBatch *)packets) < 0) {
            return -1;
        }
        out->batch = (PacketBatch *)packets;
        return count_of(out->batch);
    }
    /* These are sequences too, but each is probably meant as one packet. */
    if (PyBytes_Check(packets) || PyByteArray_Check(packets)
        || PyUnicode_Check(packets) || !PySequence_Check(packets)) {
        PyErr_Format(PyExc_TypeError,
                     "packets must be a PacketBatch or a sequence of "
                     "buffers, not %R",
                     Py_TYPE(packets));
        return -1;
    }
    return PySequence_Size(packets);
}

static void
free_gathered(struct outgoing *out)
{
    while (out->view_count > 0) {
        PyBuffer_Release(&out->views[--out->view_count]);
    }
    PyMem_Free(out->views);
    PyMem_Free(out->parts);
    if (out->batch == NULL) {
        PyMem_Free(out->messages);
    }
    out->views = NULL;
    out->parts = NULL;
    out->messages = NULL;
}

void
end_outgoing(struct outgoing *out)
{
    free_gathered(out);
    if (out->batch != NULL) {
        release_batch(out->batch);
    }
}

/* Makes all messages begin with the batch's offload headers, with zeroes if it
   has no headers, or with the frame if the socket has no vnet_hdr. There is
   nothing to do if the last send from the batch needed the same. */
static void
arm_send(PacketBatch *b, unsigned vnet_hdr)
{
    enum {
        ARMED = 1,
        NO_OFFLOAD = 2,
        HEADER = 4 /* times the size of a header */
    };
    BatchMemory *m = b->memory;
    bool own = has_headers(b);
    unsigned wanted = ARMED | (own ? 0 : NO_OFFLOAD) | vnet_hdr * HEADER;
    Py_ssize_t i;

    if (b->sending == wanted) {
        return;
    }
    for (i = 0; i < m->capacity; i++) {
        struct iovec *parts = &m->tx_parts[2 * i];

        parts[0].iov_base = own ? &m->offload_headers[i]
                                : (struct offload_header *)&no_offload;
        arm_parts(&m->tx[i].msg_hdr, parts, vnet_hdr);
    }
    b->sending = wanted;
}

/* Returns why frame i cannot be sent without its offload header, or NULL. */
static const char *
refuse_plain(const BatchMemory *m, Py_ssize_t i)
{
    const struct offload_header *h = &m->offload_headers[i];

    if (__atomic_load_n(&h->gso_type, __ATOMIC_RELAXED) != GSO_NONE) {
        return "a super-frame: segment_into() another batch, or send it with "
               "vnet_hdr";
    }
    if (__atomic_load_n(&h->flags, __ATOMIC_RELAXED) & VNET_NEEDS_CSUM) {
        return "its checksum is missing: complete_checksums(), or send it "
               "with vnet_hdr";
    }
    return NULL;
}

/* Prepares the messages of a batch up to the first frame that cannot be sent.
   0, or -1 with an exception set: if that frame is the first of all, or if
   user code has written a length that is beyond its frame. */
static int
prepare_batch(struct outgoing *out, Py_ssize_t start, Py_ssize_t count)
{
    BatchMemory *m = out->batch->memory;
    bool headers = has_headers(out->batch);
    bool plain = headers && out->vnet_hdr == 0;
    const char *reason = NULL;
    Py_ssize_t i, length;

    arm_send(out->batch, out->vnet_hdr);
    for (i = start; i < start + count; i++) {
        length = checked_length(m, i);
        if (length < 0) {
            return -1;
        }
        m->tx_parts[2 * i + 1].iov_len = (size_t)length;
        if (plain) {
            reason = refuse_plain(m, i);
            if (reason != NULL) {
                break;
            }
        }
    }
    if (headers && !plain) {
        struct frame_table t = table_of(m, i);

        t.parts = m->tx_parts; /* they have the checked lengths */
        i = start + (Py_ssize_t)check_frames(&t, (size_t)start, &reason);
    }
    if (reason != NULL && i == start) {
        return raise_bad_frame(i, reason);
    }
    out->messages = m->tx + start;
    out->count = i - start;
    return 0;
}

/* Returns a new tuple of elements start..start+count-1 and sets *view_count to
   the number of their buffers. NULL with an exception set, also if an element
   has more than `limit` buffers. */
static PyObject *
fetch_packets(PyObject *packets, Py_ssize_t start, Py_ssize_t count,
              Py_ssize_t limit, Py_ssize_t *view_count)
{
    PyObject *fetched = PyTuple_New(count);
    Py_ssize_t i, size;

    *view_count = 0;
    for (i = 0; fetched != NULL && i < count; i++) {
        PyObject *packet = PySequence_GetItem(packets, start + i);

        if (packet == NULL) {
            Py_CLEAR(fetched);
            break;
        }
        size = PyTuple_Check(packet) ? PyTuple_Size(packet) : 1;
        if (PyTuple_SetItem(fetched, i, packet) < 0) {
            Py_CLEAR(fetched);
        }
        else if (size > limit) {
            PyErr_Format(PyExc_ValueError,
                         "packet %zd has %zd parts, more than the %zd "
                         "that the kernel gathers",
                         start + i, size, limit);
            Py_CLEAR(fetched);
        }
        *view_count += size;
    }
    return fetched;
}

static void
add_part(struct outgoing *out, void *start, size_t length)
{
    out->parts[out->part_count++] = (struct iovec){start, length};
}

/* Acquires a buffer and adds it as the next part. 0, or -1 with an exception
   set. */
static int
add_buffer(struct outgoing *out, PyObject *data)
{
    Py_buffer *view = &out->views[out->view_count];

    if (PyObject_GetBuffer(data, view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    out->view_count++;
    add_part(out, view->buf, (size_t)view->len);
    return 0;
}

/* Adds the message for a packet: a buffer, or a tuple of buffers. 0, or -1
   with an exception set. */
static int
add_packet(struct outgoing *out, PyObject *packet)
{
    struct msghdr *header = &out->messages[out->count].msg_hdr;
    Py_ssize_t first = out->part_count, i;

    if (out->vnet_hdr > 0) {
        add_part(out, (struct offload_header *)&no_offload, out->vnet_hdr);
    }
    if (!PyTuple_Check(packet)) {
        if (add_buffer(out, packet) < 0) {
            return -1;
        }
    }
    else {
        for (i = 0; i < PyTuple_Size(packet); i++) {
            if (add_buffer(out, PyTuple_GetItem(packet, i)) < 0) {
                return -1;
            }
        }
    }
    header->msg_iov = &out->parts[first];
    header->msg_iovlen = (size_t)(out->part_count - first);
    out->count++;
    return 0;
}

/* Prepares messages for elements start..start+count-1. 0, or -1 with an
   exception set. */
static int
prepare_sequence(struct outgoing *out, PyObject *packets, Py_ssize_t start,
                 Py_ssize_t count)
{
    bool header = out->vnet_hdr > 0;
    Py_ssize_t views, parts, i;
    PyObject *fetched =
        fetch_packets(packets, start, count, MAX_PARTS - header, &views);
    int result = -1;

    if (fetched == NULL) {
        return -1;
    }
    free_gathered(out);
    out->count = out->part_count = 0;
    parts = views + (header ? count : 0);
    out->messages = PyMem_Calloc((size_t)count, sizeof(*out->messages));
    out->parts = PyMem_Calloc((size_t)parts, sizeof(*out->parts));
    out->views = PyMem_Calloc((size_t)views, sizeof(*out->views));
    if (out->messages == NULL || out->parts == NULL || out->views == NULL) {
        PyErr_NoMemory();
        goto finally;
    }
    for (i = 0; i < count; i++) {
        if (add_packet(out, PyTuple_GetItem(fetched, i)) < 0) {
            note_index("packet", start + i);
            goto finally;
        }
    }
    result = 0;

finally:
    Py_DECREF(fetched);
    return result;
}

int
prepare_outgoing(struct outgoing *out, PyObject *packets, Py_ssize_t start,
                 Py_ssize_t stop)
{
    Py_ssize_t count = stop - start < MAX_SEND ? stop - start : MAX_SEND;

    return out->batch != NULL ? prepare_batch(out, start, count)
                              : prepare_sequence(out, packets, start, count);
}
