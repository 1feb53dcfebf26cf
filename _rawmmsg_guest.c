/* _GuestRings: moves frames between the rings of a guest and a RawSocket, or a
   PacketBatch. _rawmmsg_virtqueue.h says how the rings work.

       rings = _GuestRings(batch=64, filter=None)

   It implements the protocol class rawmmsg.vhost.rings.Rings: a vhost-user
   session says where the guest's memory and its two rings are. Then:

       the guest to a packet socket    send():       sendmmsg(2) from the
                                                     guest's buffers
       a packet socket to the guest    receive():    recvmmsg(2) into them
       the guest to any other port     recvmmsg_into(): copied to a batch
       any other port to the guest     sendmmsg():      copied from a batch

   One call at a time uses the object (`busy`). Frames that the guest sends and
   that wait for a socket are in its own memory. Frames for the guest that wait
   for its buffers are in ours: those of `reception`, and segments in
   `cutter`. */

#include "_rawmmsg.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/aio_abi.h>
#include <linux/if_ether.h>

#include "_rawmmsg_docstrings.h"
#include "_rawmmsg_virtqueue.h"

/* The rings by their numbers in the protocol. */
enum {
    TO_GUEST,
    FROM_GUEST,
    RINGS
};

#define MOST_MESSAGES 1024

/* ---- Notifications ------------------------------------------------------ */

/* Makes eventfds readable without waiting.

   The front end shares the flags of its eventfd with us: it can clear
   O_NONBLOCK at any time, and fill the counter. Then write(2) waits for as
   long as the front end likes. A completed asynchronous operation adds to an
   eventfd, too, and never waits (fs/eventfd.c:eventfd_signal()). So we read
   from /dev/null, which completes at once. */
struct notifier {
    aio_context_t context; /* owned; 0: the kernel has no io_submit(2) for
                              us */
    int null;              /* owned; -1: none */
    unsigned unread;       /* completions that were not read yet */
};

#define MOST_UNREAD 64

/* Contexts that nobody uses, to be used again, because io_destroy(2) waits for
   tens of milliseconds until no thread looks the context up any more
   (fs/aio.c:kill_ioctx()). 0: none. They are static, because the kernel gives
   contexts to processes, not to interpreters; any thread takes one. */
static _Atomic aio_context_t spare_contexts[4];

/* Reads the completions, so that the kernel has room for more. Returns whether
   it knows the context: in a forked child, it knows none of the parent's. */
static bool
read_completions(aio_context_t context)
{
    struct io_event events[MOST_UNREAD];

    return syscall(SYS_io_getevents, context, 0, MOST_UNREAD, events, NULL)
           >= 0;
}

/* Returns a context without completions, or 0. */
static aio_context_t
take_context(void)
{
    aio_context_t context = 0;
    size_t i;

    for (i = 0; i < Py_ARRAY_LENGTH(spare_contexts); i++) {
        context = atomic_exchange(&spare_contexts[i], 0);
        if (context != 0 && read_completions(context)) {
            return context;
        }
    }
    context = 0;
    return syscall(SYS_io_setup, MOST_UNREAD, &context) < 0 ? 0 : context;
}

/* Keeps a context for take_context(), or deletes it. */
static void
give_context(aio_context_t context)
{
    aio_context_t none;
    size_t i;

    for (i = 0; i < Py_ARRAY_LENGTH(spare_contexts); i++) {
        none = 0;
        if (atomic_compare_exchange_strong(&spare_contexts[i], &none,
                                           context)) {
            return;
        }
    }
    syscall(SYS_io_destroy, context);
}

static void
open_notifier(struct notifier *n)
{
    n->unread = 0;
    n->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    n->context = n->null < 0 ? 0 : take_context();
}

static void
close_notifier(struct notifier *n)
{
    if (n->context != 0) {
        give_context(n->context);
    }
    if (n->null >= 0) {
        close(n->null);
    }
}

/* Makes the eventfd readable. Without io_submit(2) (a kernel without it, or
   fs.aio-max-nr is reached), looks first whether write(2) would wait. */
static void
notify(struct notifier *n, int eventfd)
{
    struct pollfd room = {.fd = eventfd, .events = POLLOUT};
    const uint64_t one = 1;
    char nothing;
    struct iocb block = {
        .aio_lio_opcode = IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)n->null,
        .aio_buf = (uintptr_t)&nothing,
        .aio_nbytes = sizeof(nothing),
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = (uint32_t)eventfd,
    };
    struct iocb *blocks[] = {&block};

    if (n->context != 0) {
        if (n->unread == MOST_UNREAD) {
            read_completions(n->context);
            n->unread = 0;
        }
        n->unread++;
        if (syscall(SYS_io_submit, n->context, 1, blocks) == 1) {
            return;
        }
    }
    /* If the counter is full, the front end has been notified. It can still
       make us wait if it fills the counter and changes the flag in between. */
    fcntl(eventfd, F_SETFL, O_NONBLOCK);
    if (poll(&room, 1, 0) == 1 && (room.revents & POLLOUT)
        && write(eventfd, &one, sizeof(one)) < 0) {
        return; /* the front end has just filled it */
    }
}

/* ---- Cutting ------------------------------------------------------------ */

/* Segments of a super-frame that are made at a time. */
#define MOST_ROWS 64

/* Cuts a frame that the guest does not take as it is. Segments for which the
   guest has no buffers stay here. */
struct cutter {
    bool active; /* a frame is being cut, or its segments are held */
    size_t next; /* the row to give to the guest next */
    struct segmentation state;

    /* The frame. */
    struct iovec source_parts[2];
    struct offload_header header;
    _Atomic uint32_t length;
    uint16_t flags;
    unsigned char *copy; /* owned; for a frame of a batch */

    /* Its segments. */
    struct iovec row_parts[2 * MOST_ROWS];
    struct offload_header row_headers[MOST_ROWS];
    _Atomic uint32_t row_lengths[MOST_ROWS];
    uint16_t row_flags[MOST_ROWS];
    unsigned char *rows; /* owned */
};

/* 0, or -1 with MemoryError set. */
static int
open_cutter(struct cutter *c)
{
    size_t i;

    c->copy = PyMem_Malloc(MOST_FRAME);
    c->rows = PyMem_Malloc((size_t)MOST_ROWS * MOST_FRAME);
    if (c->copy == NULL || c->rows == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (i = 0; i < MOST_ROWS; i++) {
        c->row_parts[2 * i + 1] =
            (struct iovec){c->rows + i * MOST_FRAME, MOST_FRAME};
    }
    return 0;
}

static void
close_cutter(struct cutter *c)
{
    PyMem_Free(c->copy);
    PyMem_Free(c->rows);
}

static void
begin_cutting(struct cutter *c, const struct offload_header *header,
              unsigned char *frame, size_t length)
{
    c->active = true;
    c->next = 0;
    c->header = *header;
    c->source_parts[1] = (struct iovec){frame, length};
    c->length = (uint32_t)length;
    c->flags = 0;
    c->state = (struct segmentation){
        .from = {.count = 1,
                 .parts = c->source_parts,
                 .headers = &c->header,
                 .lengths = &c->length,
                 .flags = &c->flags},
        .to = {.count = MOST_ROWS,
               .parts = c->row_parts,
               .headers = c->row_headers,
               .lengths = c->row_lengths,
               .flags = c->row_flags},
    };
}

/* Makes the next segments. Returns whether there are any. */
static bool
cut_more(struct cutter *c)
{
    c->next = 0;
    c->state.written = 0;
    memset(c->row_headers, 0, sizeof(c->row_headers));
    segment_frames(&c->state);
    return c->state.written > 0;
}

/* ---- _GuestRings -------------------------------------------------------- */

/* What the front end has said about a ring. */
struct ring {
    struct virtqueue queue;
    struct queue_setup setup;
    bool runs;
    bool enabled;
    int call;            /* an eventfd, borrowed from the session; -1: none */
    uint16_t kick_index; /* of the available ring, at the last kick */
};

typedef struct {
    PyObject_HEAD
    atomic_uint busy; /* 0, or 1 + this_process() while a call uses it; only
                         that call changes the fields below */

    PyObject *filter; /* strong; the bytes of `program`, or NULL */
    const struct sock_filter *program;
    uint64_t features;
    struct guest_memory memory;
    Py_buffer views[MOST_REGIONS]; /* owned; the first memory.count */
    struct ring rings[RINGS];
    struct transmission transmission;
    struct reception reception;
    struct cutter cutter;
    struct notifier notifier;
    char *control;  /* owned; CONTROL_SIZE bytes for each received message */
    bool *unwanted; /* owned; for discard_frames() */
    bool is_full;   /* the guest has too few buffers */

    /* Counters: statistics(). */
    unsigned long long finished; /* frames that were passed on */
    unsigned long long received_bytes;
    unsigned long long taken_bytes;
    unsigned long long disabled;
    unsigned long long batches;
    unsigned long long missed;
    unsigned long long bad;
    unsigned long long cut;
} GuestRings;

/* Marks the object as used by this call, until release_rings(). 0, or -1 with
   RuntimeError set. */
static int
take_rings(GuestRings *g)
{
    unsigned busy = atomic_load_explicit(&g->busy, memory_order_relaxed);

    /* A mark of the process that has forked this one does not count. */
    if (busy == this_process() + 1
        || !atomic_compare_exchange_strong_explicit(
            &g->busy, &busy, this_process() + 1, memory_order_acquire,
            memory_order_relaxed)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the rings are in use by another call");
        return -1;
    }
    return 0;
}

static void
release_rings(GuestRings *g)
{
    atomic_store_explicit(&g->busy, 0, memory_order_release);
}

/* Converts the index of a ring. -1 with an exception set. */
static int
parse_ring(PyObject *value)
{
    Py_ssize_t index = PyNumber_AsSsize_t(value, PyExc_OverflowError);

    if (index == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (index < 0 || index >= RINGS) {
        PyErr_Format(PyExc_ValueError, "a ring must be 0 or 1, not %zd",
                     index);
        return -1;
    }
    return (int)index;
}

static bool
is_ready(const struct ring *ring)
{
    return ring->runs && ring->enabled && ring->queue.broken == NULL;
}

/* Notifies the guest of buffers that were used. */
static void
call_guest(GuestRings *g, int index)
{
    struct ring *ring = &g->rings[index];

    if (wants_call(&ring->queue) && ring->call >= 0) {
        notify(&g->notifier, ring->call);
    }
}

/* Drops what is held for the guest. */
static void
drop_held(GuestRings *g)
{
    g->missed += drop_frames(&g->reception);
    g->missed += g->cutter.active;
    g->cutter.active = false;
    g->is_full = false;
}

/* ---- _GuestRings: constructor and destructor ---------------------------- */

/* 0, or -1 with an exception set. */
static int
set_filter(GuestRings *g, PyObject *filter)
{
    size_t count, reach;

    if (filter == Py_None) {
        return 0;
    }
    g->program = check_program(filter, &count);
    if (g->program == NULL) {
        return -1;
    }
    g->filter = Py_NewRef(filter);
    reach = filter_reach(g->program, count);
    g->transmission.copied = reach < MOST_FRAME ? reach : MOST_FRAME;
    return 0;
}

/* 0, or -1 with an exception set. */
static int
allocate_rings(GuestRings *g, size_t capacity)
{
    g->transmission.queue = &g->rings[FROM_GUEST].queue;
    g->transmission.capacity = capacity;
    g->reception.queue = &g->rings[TO_GUEST].queue;
    g->reception.capacity = capacity;
    g->control = PyMem_Calloc(capacity, CONTROL_SIZE);
    g->unwanted = PyMem_Calloc(capacity, sizeof(*g->unwanted));
    if (g->control == NULL || g->unwanted == NULL
        || !open_transmission(&g->transmission)
        || !open_reception(&g->reception)) {
        PyErr_NoMemory();
        return -1;
    }
    return open_cutter(&g->cutter);
}

static PyObject *
GuestRings_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"batch", "filter", NULL};
    PyObject *filter = Py_None;
    Py_ssize_t capacity = 64;
    GuestRings *g;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|nO:_GuestRings", names,
                                     &capacity, &filter)) {
        return NULL;
    }
    if (capacity < 1 || capacity > MOST_MESSAGES) {
        return PyErr_Format(PyExc_ValueError, "batch must be 1 to %d, not %zd",
                            MOST_MESSAGES, capacity);
    }
    /* All memory is zeroed. */
    g = (GuestRings *)PyType_GenericAlloc(type, 0);
    if (g == NULL) {
        return NULL;
    }
    g->rings[TO_GUEST].call = g->rings[FROM_GUEST].call = -1;
    open_notifier(&g->notifier);
    if (set_filter(g, filter) < 0 || allocate_rings(g, (size_t)capacity) < 0) {
        Py_CLEAR(g);
    }
    return (PyObject *)g;
}

static void
release_views(Py_buffer *views, size_t count)
{
    size_t i;

    for (i = 0; i < count; i++) {
        PyBuffer_Release(&views[i]);
    }
}

static int
GuestRings_traverse(PyObject *self, visitproc visit, void *arg)
{
    GuestRings *g = (GuestRings *)self;
    size_t i;

    Py_VISIT(Py_TYPE(self));
    for (i = 0; i < g->memory.count; i++) {
        Py_VISIT(g->views[i].obj);
    }
    return 0;
}

static void
GuestRings_dealloc(PyObject *self)
{
    GuestRings *g = (GuestRings *)self;
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    release_views(g->views, g->memory.count);
    close_transmission(&g->transmission);
    close_reception(&g->reception);
    close_cutter(&g->cutter);
    close_notifier(&g->notifier);
    PyMem_Free(g->control);
    PyMem_Free(g->unwanted);
    Py_XDECREF(g->filter);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* ---- _GuestRings: what the session says --------------------------------- */

/* Converts an attribute that is an int. 0, or -1 with an exception set. */
static int
get_number(PyObject *object, const char *name, uint64_t *number)
{
    PyObject *value = get_attribute(object, name);

    if (value == NULL) {
        return -1;
    }
    *number = PyLong_AsUnsignedLongLong(value);
    Py_DECREF(value);
    return *number == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* Converts a MappedRegion. 0 with `view` acquired, or -1 with an exception
   set. */
static int
get_region(PyObject *mapped, struct guest_region *r, Py_buffer *view)
{
    PyObject *region = get_attribute(mapped, "region"), *memory;
    int result;

    if (region == NULL) {
        return -1;
    }
    result = get_number(region, "guest_address", &r->guest_address);
    if (result == 0) {
        result = get_number(region, "user_address", &r->user_address);
    }
    Py_DECREF(region);
    memory = result < 0 ? NULL : get_attribute(mapped, "memory");
    if (memory == NULL) {
        return -1;
    }
    result = PyObject_GetBuffer(memory, view, PyBUF_WRITABLE);
    Py_DECREF(memory);
    if (result < 0) {
        return -1;
    }
    r->memory = view->buf;
    r->size = (uint64_t)view->len;
    return 0;
}

/* Converts a sequence of MappedRegion. Acquires a view for each: their number
   is memory->count, even if it fails. 0, or -1 with an exception set. */
static int
get_memory(PyObject *regions, struct guest_memory *memory, Py_buffer *views)
{
    Py_ssize_t count = PySequence_Size(regions), i;
    const char *reason = NULL;
    PyObject *mapped;
    int result;

    memory->count = 0;
    if (count < 0) {
        return -1;
    }
    if (count > MOST_REGIONS) {
        PyErr_Format(PyExc_ValueError, "%zd memory regions, more than %d",
                     count, MOST_REGIONS);
        return -1;
    }
    for (i = 0; i < count; i++) {
        mapped = PySequence_GetItem(regions, i);
        if (mapped == NULL) {
            return -1;
        }
        result = get_region(mapped, &memory->regions[i], &views[i]);
        Py_DECREF(mapped);
        if (result < 0) {
            return -1;
        }
        memory->count++;
        reason = check_region(&memory->regions[i], 0, memory->regions[i].size);
        if (reason != NULL) {
            break;
        }
    }
    if (reason == NULL && count > 0) {
        reason = check_memory(memory);
    }
    if (reason != NULL) {
        PyErr_SetString(PyExc_ValueError, reason);
        return -1;
    }
    return 0;
}

/* Makes both rings go on with g->memory. Returns why they cannot, or NULL. */
static const char *
move_rings(GuestRings *g)
{
    const char *reason = NULL;
    int i;

    for (i = 0; i < RINGS && reason == NULL; i++) {
        if (g->rings[i].runs && g->memory.count == 0) {
            reason = "a ring is running without memory";
        }
        else if (g->rings[i].runs) {
            reason = move_queue(&g->rings[i].queue, &g->memory);
        }
    }
    return reason;
}

/* Exchanges the memory table for `memory` and `views`, which are the old table
   afterwards. Returns why it cannot, and exchanges nothing then; or NULL. */
static const char *
exchange_memory(GuestRings *g, struct guest_memory *memory, Py_buffer *views)
{
    struct guest_memory old = g->memory;
    Py_buffer old_views[MOST_REGIONS];
    const char *reason;

    if (g->rings[FROM_GUEST].runs) {
        return_frames(&g->transmission);
    }
    if (g->rings[TO_GUEST].runs) {
        hold_frames(&g->reception);
    }
    g->memory = *memory;
    reason = move_rings(g);
    if (reason != NULL) {
        g->memory = old;
        move_rings(g); /* they were there before */
        return reason;
    }
    memcpy(old_views, g->views, sizeof(old_views));
    memcpy(g->views, views, sizeof(g->views));
    memcpy(views, old_views, sizeof(old_views));
    *memory = old;
    return NULL;
}

static PyObject *
GuestRings_set_memory(PyObject *self, PyObject *regions)
{
    GuestRings *g = (GuestRings *)self;
    struct guest_memory memory;
    Py_buffer views[MOST_REGIONS];
    const char *reason;

    /* Attributes and buffers may run Python code. So it takes the rings only
       then. */
    if (get_memory(regions, &memory, views) < 0 || take_rings(g) < 0) {
        release_views(views, memory.count);
        return NULL;
    }
    reason = exchange_memory(g, &memory, views);
    release_rings(g);
    release_views(views, memory.count);
    if (reason != NULL) {
        PyErr_SetString(PyExc_ValueError, reason);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
GuestRings_set_features(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    uint64_t features = PyLong_AsUnsignedLongLong(argument);

    if ((features == UINT64_MAX && PyErr_Occurred()) || take_rings(g) < 0) {
        return NULL;
    }
    g->features = features; /* start() reads them */
    release_rings(g);
    Py_RETURN_NONE;
}

/* Parses an index and a number of 32 bits, and takes the rings. Returns the
   ring, or NULL with an exception set. */
static struct ring *
take_ring(GuestRings *g, PyObject *const *args, Py_ssize_t nargs,
          const char *method, unsigned long *number)
{
    int index;

    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "%s() takes 2 arguments, not %zd",
                     method, nargs);
        return NULL;
    }
    index = parse_ring(args[0]);
    if (index < 0) {
        return NULL;
    }
    *number = PyLong_AsUnsignedLong(args[1]);
    if (*number == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (*number > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s(): %lu has more than 32 bits",
                     method, *number);
        return NULL;
    }
    return take_rings(g) < 0 ? NULL : &g->rings[index];
}

static PyObject *
GuestRings_set_size(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    unsigned long size;
    struct ring *ring =
        take_ring((GuestRings *)self, args, nargs, "set_size", &size);

    if (ring == NULL) {
        return NULL;
    }
    ring->setup.size = (uint32_t)size;
    release_rings((GuestRings *)self);
    Py_RETURN_NONE;
}

static PyObject *
GuestRings_set_base(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    unsigned long base;
    struct ring *ring =
        take_ring((GuestRings *)self, args, nargs, "set_base", &base);

    if (ring == NULL) {
        return NULL;
    }
    ring->setup.base = (uint32_t)base;
    release_rings((GuestRings *)self);
    Py_RETURN_NONE;
}

static PyObject *
GuestRings_set_addresses(PyObject *self, PyObject *const *args,
                         Py_ssize_t nargs)
{
    GuestRings *g = (GuestRings *)self;
    uint64_t descriptors, available, used;
    struct queue_setup *setup;
    int index;

    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError,
                            "set_addresses() takes 2 arguments, not %zd",
                            nargs);
    }
    index = parse_ring(args[0]);
    if (index < 0 || get_number(args[1], "descriptors", &descriptors) < 0
        || get_number(args[1], "available", &available) < 0
        || get_number(args[1], "used", &used) < 0 || take_rings(g) < 0) {
        return NULL;
    }
    setup = &g->rings[index].setup;
    setup->descriptors = descriptors;
    setup->available = available;
    setup->used = used;
    release_rings(g);
    Py_RETURN_NONE;
}

static PyObject *
GuestRings_set_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    GuestRings *g = (GuestRings *)self;
    int index, descriptor = -1;

    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError,
                            "set_call() takes 2 arguments, not %zd", nargs);
    }
    index = parse_ring(args[0]);
    if (index < 0) {
        return NULL;
    }
    if (args[1] != Py_None) {
        descriptor = PyObject_AsFileDescriptor(args[1]);
        if (descriptor < 0) {
            return NULL;
        }
    }
    if (take_rings(g) < 0) {
        return NULL;
    }
    g->rings[index].call = descriptor;
    release_rings(g);
    Py_RETURN_NONE;
}

static PyObject *
GuestRings_set_enabled(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    GuestRings *g = (GuestRings *)self;
    int index, enabled;

    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError,
                            "set_enabled() takes 2 arguments, not %zd", nargs);
    }
    index = parse_ring(args[0]);
    enabled = index < 0 ? -1 : PyObject_IsTrue(args[1]);
    if (enabled < 0 || take_rings(g) < 0) {
        return NULL;
    }
    g->rings[index].enabled = enabled;
    if (index == TO_GUEST && !enabled) {
        drop_held(g);
    }
    release_rings(g);
    Py_RETURN_NONE;
}

static PyObject *
GuestRings_start(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    int index = parse_ring(argument);
    const char *reason;
    struct ring *ring;

    if (index < 0 || take_rings(g) < 0) {
        return NULL;
    }
    ring = &g->rings[index];
    if (ring->runs) {
        reason = "the ring is running";
    }
    else {
        ring->setup.features = g->features;
        reason = start_queue(&ring->queue, &g->memory, &ring->setup);
    }
    if (reason == NULL) {
        ring->runs = true;
        ring->kick_index = ring->queue.seen_available;
    }
    release_rings(g);
    if (reason != NULL) {
        PyErr_SetString(PyExc_ValueError, reason);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
GuestRings_stop(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    int index = parse_ring(argument);
    struct ring *ring;
    uint32_t base;

    if (index < 0 || take_rings(g) < 0) {
        return NULL;
    }
    ring = &g->rings[index];
    if (ring->runs) {
        if (index == TO_GUEST) {
            drop_held(g);
        }
        else {
            return_frames(&g->transmission);
        }
        call_guest(g, index);
        ring->setup.base = queue_base(&ring->queue);
        ring->runs = false;
    }
    base = ring->setup.base;
    release_rings(g);
    return PyLong_FromUnsignedLong(base);
}

static PyObject *
GuestRings_kicked(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    int index = parse_ring(argument);
    bool more = false;
    struct ring *ring;

    if (index < 0 || take_rings(g) < 0) {
        return NULL;
    }
    ring = &g->rings[index];
    if (ring->runs) {
        has_entries(&ring->queue);
        more = ring->queue.seen_available != ring->kick_index;
        ring->kick_index = ring->queue.seen_available;
    }
    release_rings(g);
    return PyBool_FromLong(more);
}

/* ---- _GuestRings: state ------------------------------------------------- */

static PyObject *
GuestRings_is_ready(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    int index = parse_ring(argument);
    bool ready;

    if (index < 0 || take_rings(g) < 0) {
        return NULL;
    }
    ready = is_ready(&g->rings[index]);
    release_rings(g);
    return PyBool_FromLong(ready);
}

static PyObject *
GuestRings_broken(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    int index = parse_ring(argument);
    const char *reason = NULL;

    if (index < 0 || take_rings(g) < 0) {
        return NULL;
    }
    if (g->rings[index].runs) {
        reason = g->rings[index].queue.broken;
    }
    release_rings(g);
    return reason == NULL ? Py_NewRef(Py_None) : PyUnicode_FromString(reason);
}

static PyObject *
GuestRings_ask_for_kick(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    int index = parse_ring(argument);
    bool more;

    if (index < 0 || take_rings(g) < 0) {
        return NULL;
    }
    more = g->rings[index].runs
           && ask_for_kick(&g->rings[index].queue,
                           index == TO_GUEST && g->is_full);
    release_rings(g);
    return PyBool_FromLong(more);
}

static PyObject *
GuestRings_get_pending(PyObject *self, void *Py_UNUSED(closure))
{
    GuestRings *g = (GuestRings *)self;
    size_t pending;

    if (take_rings(g) < 0) {
        return NULL;
    }
    pending = g->transmission.count - g->transmission.next;
    release_rings(g);
    return PyLong_FromSize_t(pending);
}

static PyObject *
GuestRings_get_is_full(PyObject *self, void *Py_UNUSED(closure))
{
    GuestRings *g = (GuestRings *)self;
    bool full;

    if (take_rings(g) < 0) {
        return NULL;
    }
    full = g->is_full;
    release_rings(g);
    return PyBool_FromLong(full);
}

static PyObject *
GuestRings_statistics(PyObject *self, PyObject *Py_UNUSED(unused))
{
    GuestRings *g = (GuestRings *)self;
    const struct transmission *t = &g->transmission;
    const struct reception *r = &g->reception;
    PyObject *dict, *value;
    size_t i;

    if (take_rings(g) < 0) {
        return NULL;
    }
    const struct {
        const char *name;
        unsigned long long count;
    } counters[] = {
        {"received", g->finished + g->disabled + t->malformed + t->too_long
                         + t->refused_sends},
        {"received_bytes", g->received_bytes},
        {"batches", g->batches},
        {"malformed", t->malformed},
        {"too_long", t->too_long},
        {"rejected", t->discarded - g->disabled},
        {"disabled", g->disabled},
        {"taken_bytes", g->taken_bytes},
        {"sent", r->placed},
        {"no_room", r->dropped},
        {"missed", g->missed},
        {"bad", g->bad},
        {"spilled", r->spilled},
        {"moved", r->moved},
        {"cut", g->cut},
    };
    release_rings(g);
    dict = PyDict_New();
    for (i = 0; dict != NULL && i < Py_ARRAY_LENGTH(counters); i++) {
        value = PyLong_FromUnsignedLongLong(counters[i].count);
        if (value == NULL
            || PyDict_SetItemString(dict, counters[i].name, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    return dict;
}

/* ---- _GuestRings: from the guest ---------------------------------------- */

/* Discards the frames that the filter rejects, or all if the ring is
   disabled. */
static void
filter_frames(GuestRings *g, bool enabled)
{
    struct transmission *t = &g->transmission;
    struct filter_packet p = {.network_offset = ETH_HLEN};
    bool any = false;
    size_t i;

    if (enabled && g->program == NULL) {
        return;
    }
    for (i = 0; i < t->count; i++) {
        p.bytes = t->copies + i * t->copied;
        p.wire_length = t->lengths[i];
        p.length = t->lengths[i] < t->copied ? t->lengths[i] : t->copied;
        g->unwanted[i] = !enabled || run_filter(g->program, &p) == 0;
        any |= g->unwanted[i];
    }
    if (any) {
        g->disabled += enabled ? 0 : t->count;
        discard_frames(t, g->unwanted);
    }
}

/* Takes frames from the guest, unless some are pending. Returns whether there
   are any to send. */
static bool
take_frames(GuestRings *g, size_t socket_header)
{
    struct ring *ring = &g->rings[FROM_GUEST];
    struct transmission *t = &g->transmission;

    if (t->next < t->count) {
        return true;
    }
    if (!ring->runs) {
        return false;
    }
    t->socket_header = socket_header;
    if (read_frames(t) > 0) {
        refuse_kicks(&ring->queue);
        g->batches++;
        filter_frames(g, ring->enabled);
    }
    return t->next < t->count;
}

/* Whether frames can go between the guest and this socket without a copy. 0,
   or -1 with an exception set. */
static int
check_socket(PyObject *self, PyObject *argument, const char *method)
{
    module_state *state = state_of(Py_TYPE(self));
    RawSocket *s = (RawSocket *)argument;

    if (state == NULL) {
        return -1;
    }
    if (!Py_IS_TYPE(argument, state->socket_type)) {
        PyErr_Format(PyExc_TypeError, "%s() needs a RawSocket, not %R", method,
                     Py_TYPE(argument));
        return -1;
    }
    if (s->family != AF_PACKET || s->vnet_hdr == 0) {
        PyErr_Format(PyExc_ValueError,
                     "%s() needs a packet socket with vnet_hdr", method);
        return -1;
    }
    return 0;
}

/* Gives the buffers of the next n pending frames back. They were passed on, or,
   if `refused`, the one frame is dropped. */
static void
finish_pending(GuestRings *g, size_t n, bool refused)
{
    struct transmission *t = &g->transmission;
    size_t i;

    for (i = t->next; i < t->next + n; i++) {
        g->received_bytes += t->lengths[i];
    }
    if (refused) {
        refuse_frame(t);
    }
    else {
        g->finished += n;
        finish_frames(t, n);
    }
}

static PyObject *
GuestRings_send(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    struct transmission *t = &g->transmission;
    RawSocket *s = (RawSocket *)argument;
    int done = 0;

    if (check_socket(self, argument, "send") < 0 || take_rings(g) < 0) {
        return NULL;
    }
    if (t->next < t->count && t->socket_header != s->vnet_hdr) {
        return_frames(t);
    }
    if (take_frames(g, s->vnet_hdr)) {
        done = send_messages(s, t->messages + t->next,
                             (unsigned)(t->count - t->next));
        if (done > 0) {
            finish_pending(g, (size_t)done, false);
        }
    }
    if (g->rings[FROM_GUEST].runs) {
        call_guest(g, FROM_GUEST);
    }
    release_rings(g);
    return done < 0 ? NULL : PyLong_FromLong(done);
}

static PyObject *
GuestRings_refuse(PyObject *self, PyObject *Py_UNUSED(unused))
{
    GuestRings *g = (GuestRings *)self;
    struct transmission *t = &g->transmission;

    if (take_rings(g) < 0) {
        return NULL;
    }
    if (t->next < t->count) {
        finish_pending(g, 1, true);
        call_guest(g, FROM_GUEST);
    }
    release_rings(g);
    Py_RETURN_NONE;
}

/* Copies the parts of a message behind the offload header to a row. */
static void
gather(const struct msghdr *message, unsigned char *to)
{
    size_t i;

    for (i = 0; i < message->msg_iovlen; i++) {
        memcpy(to, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
        to += message->msg_iov[i].iov_len;
    }
}

/* Copies pending frames to the rows of a table. Returns how many. Runs without
   the GIL. */
static size_t
copy_out(GuestRings *g, const struct frame_table *table)
{
    struct transmission *t = &g->transmission;
    size_t n = t->count - t->next, i;

    n = n < table->count ? n : table->count;
    for (i = 0; i < n; i++) {
        const struct msghdr *message = &t->messages[t->next + i].msg_hdr;
        const struct offload_header *h = message->msg_iov[0].iov_base;
        struct msghdr frame = {.msg_iov = message->msg_iov + 1,
                               .msg_iovlen = message->msg_iovlen - 1};

        gather(&frame, table->parts[2 * i + 1].iov_base);
        table->headers[i] = *h;
        atomic_store_explicit(&table->lengths[i], t->lengths[t->next + i],
                              memory_order_relaxed);
        table->flags[i] = 0;
    }
    finish_pending(g, n, false);
    return n;
}

/* Whether each row has room for the longest frame. 0, or -1 with ValueError
   set. */
static int
check_rows(const struct frame_table *table)
{
    size_t i;

    for (i = 0; i < table->count; i++) {
        if (table->parts[2 * i + 1].iov_len < MOST_FRAME) {
            PyErr_Format(PyExc_ValueError,
                         "the frames of the batch must have %d bytes "
                         "(rawmmsg.SUPER_FRAME)",
                         MOST_FRAME);
            return -1;
        }
    }
    return 0;
}

static PyObject *
GuestRings_recvmmsg_into(PyObject *self, PyObject *argument)
{
    module_state *state = state_of(Py_TYPE(self));
    PacketBatch *b = (PacketBatch *)argument;
    GuestRings *g = (GuestRings *)self;
    struct frame_table table;
    size_t n = 0;
    int result;

    if (state == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(argument, state->batch_type)) {
        return PyErr_Format(PyExc_TypeError,
                            "recvmmsg_into() needs a PacketBatch, not %R",
                            Py_TYPE(argument));
    }
    if (take_rings(g) < 0) {
        return NULL;
    }
    if (begin_filling(b, &table) < 0) {
        release_rings(g);
        return NULL;
    }
    result = check_rows(&table);
    if (result == 0) {
        Py_BEGIN_ALLOW_THREADS
        if (take_frames(g, VNET_HEADER)) {
            n = copy_out(g, &table);
        }
        if (g->rings[FROM_GUEST].runs) {
            call_guest(g, FROM_GUEST);
        }
        Py_END_ALLOW_THREADS
    }
    end_filling(b, (Py_ssize_t)n);
    release_rings(g);
    if (result == 0 && n == 0) {
        raise_os_error(EAGAIN, "recvmmsg", NULL);
    }
    return n == 0 ? NULL : PyLong_FromSize_t(n);
}

/* ---- _GuestRings: to the guest ------------------------------------------ */

/* Gives the segments of the frame that is being cut to the guest. */
static enum placed
place_segments(GuestRings *g)
{
    struct cutter *c = &g->cutter;
    enum placed placed = PLACE_DONE;

    while (c->active && placed == PLACE_DONE) {
        if (c->next < c->state.written) {
            placed = put_frame(&g->reception, &c->row_headers[c->next],
                               c->row_parts[2 * c->next + 1].iov_base,
                               c->row_lengths[c->next]);
            c->next += placed == PLACE_DONE;
            g->cut += placed == PLACE_DONE;
        }
        else if (!cut_more(c)) {
            c->active = false;
            if (c->state.reason != NULL) {
                g->bad++;
            }
            else {
                g->cut--;
            }
        }
    }
    return placed;
}

/* Gives the received frames to the guest, and the segments of those that it
   does not take as they are. Runs without the GIL. */
static enum placed
place_all(GuestRings *g)
{
    struct reception *r = &g->reception;
    unsigned char *frame;
    enum placed placed;
    size_t length;

    for (;;) {
        placed = place_segments(g);
        if (placed != PLACE_DONE) {
            return placed;
        }
        placed = place_frames(r);
        if (placed != PLACE_CUT) {
            return placed;
        }
        frame = saved_frame(r, &length);
        begin_cutting(&g->cutter, &r->headers[r->next], frame, length);
        placed = place_segments(g);
        skip_frame(r);
        if (placed != PLACE_DONE) {
            return placed;
        }
    }
}

/* The same. If the guest has too few buffers, asks for a kick and tries once
   more: it may have added some meanwhile. */
static enum placed
place_or_ask(GuestRings *g)
{
    struct virtqueue *q = &g->rings[TO_GUEST].queue;
    enum placed placed = place_all(g);

    if (placed == PLACE_FULL && ask_for_kick(q, true)) {
        placed = place_all(g);
        if (placed == PLACE_FULL) {
            ask_for_kick(q, true);
        }
    }
    g->is_full = placed == PLACE_FULL;
    return placed;
}

/* Receives frames and drops them, because there is no guest for them. The
   kernel copies one byte of each. Returns how many, or -1 with an exception
   set. */
static int
receive_nothing(GuestRings *g, RawSocket *s)
{
    struct reception *r = &g->reception;
    struct offload_header header;
    char byte;
    struct iovec parts[] = {{&header, s->vnet_hdr}, {&byte, sizeof(byte)}};
    size_t i;
    int done, k;

    drop_held(g);
    for (i = 0; i < r->capacity; i++) {
        r->messages[i].msg_hdr = (struct msghdr){
            .msg_iov = parts, .msg_iovlen = Py_ARRAY_LENGTH(parts)};
    }
    /* With MSG_TRUNC, the lengths are those of the whole frames. */
    done = receive_messages(s, r->messages, (unsigned)r->capacity, MSG_TRUNC);
    for (k = 0; k < done; k++) {
        g->missed++;
        g->taken_bytes += r->messages[k].msg_len - s->vnet_hdr;
    }
    return done;
}

/* Prepares messages. If the guest has no buffers, asks for a kick and looks
   again. Returns how many there are. */
static size_t
arm_messages(GuestRings *g, const RawSocket *s)
{
    struct virtqueue *q = &g->rings[TO_GUEST].queue;
    struct reception *r = &g->reception;
    size_t n, i;

    r->socket_header = s->vnet_hdr;
    n = arm_frames(r);
    if (n == 0 && ask_for_kick(q, false)) {
        n = arm_frames(r);
    }
    for (i = 0; i < n; i++) {
        r->messages[i].msg_hdr.msg_control = g->control + i * CONTROL_SIZE;
        r->messages[i].msg_hdr.msg_controllen = CONTROL_SIZE;
        r->messages[i].msg_hdr.msg_flags = 0;
    }
    g->is_full = n == 0 && q->broken == NULL;
    return n;
}

/* Says what the kernel has written into the first n messages. */
static void
add_messages(GuestRings *g, const RawSocket *s, size_t n)
{
    struct reception *r = &g->reception;
    size_t i;

    for (i = 0; i < n; i++) {
        struct mmsghdr *message = &r->messages[i];
        struct arrival a = {0};

        read_control(s, &a, &message->msg_hdr);
        /* A frame of which the end is missing is dropped. */
        r->frames[i].length = message->msg_len <= s->vnet_hdr
                                      || message->msg_hdr.msg_flags & MSG_TRUNC
                                  ? 0
                                  : message->msg_len - s->vnet_hdr;
        g->taken_bytes += r->frames[i].length;
        r->frames[i].tag = a.stripped ? (uint32_t)a.tpid << 16 | a.tci : 0;
    }
    add_frames(r, n);
}

/* Receives into the guest's buffers. Returns how many frames, or -1 with an
   exception set. */
static int
receive_frames(GuestRings *g, RawSocket *s)
{
    struct ring *ring = &g->rings[TO_GUEST];
    struct reception *r = &g->reception;
    enum placed placed = PLACE_DONE;
    size_t n;
    int done;

    if (g->cutter.active || r->next < r->count) {
        placed = place_or_ask(g);
    }
    n = placed == PLACE_DONE ? arm_messages(g, s) : 0;
    if (n == 0) {
        return 0;
    }
    refuse_kicks(&ring->queue);
    done = receive_messages(s, r->messages, (unsigned)n, 0);
    if (done < 0) {
        add_frames(r, 0);
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    add_messages(g, s, (size_t)done);
    place_or_ask(g);
    Py_END_ALLOW_THREADS
    return done;
}

static PyObject *
GuestRings_receive(PyObject *self, PyObject *argument)
{
    GuestRings *g = (GuestRings *)self;
    RawSocket *s = (RawSocket *)argument;
    int done;

    if (check_socket(self, argument, "receive") < 0 || take_rings(g) < 0) {
        return NULL;
    }
    if (is_ready(&g->rings[TO_GUEST])) {
        done = receive_frames(g, s);
        call_guest(g, TO_GUEST);
    }
    else {
        done = receive_nothing(g, s);
    }
    release_rings(g);
    return done < 0 ? NULL : PyLong_FromLong(done);
}

/* Gives a frame of a batch to the guest. Returns what became of it; *taken
   says whether the batch does not have to keep it. */
static enum placed
put_message(GuestRings *g, const struct msghdr *message, bool *taken)
{
    const struct iovec *frame = &message->msg_iov[1];
    struct offload_header header = {0};
    enum placed placed;

    /* User code may write to the header. */
    memcpy(&header, message->msg_iov[0].iov_base, VNET_HEADER);
    if (may_receive(g->reception.queue, &header)) {
        placed =
            put_frame(&g->reception, &header, frame->iov_base, frame->iov_len);
        *taken = placed == PLACE_DONE;
        return placed;
    }
    *taken = true;
    if (frame->iov_len > MOST_FRAME) {
        g->bad++;
        return PLACE_DONE;
    }
    /* Segments may have to wait until the batch holds other frames. */
    memcpy(g->cutter.copy, frame->iov_base, frame->iov_len);
    begin_cutting(&g->cutter, &header, g->cutter.copy, frame->iov_len);
    return place_segments(g);
}

/* Gives frames of a batch to the guest, in order, behind those that are held.
   Adds to *done how many were taken. */
static enum placed
try_messages(GuestRings *g, const struct outgoing *out, size_t *done)
{
    enum placed placed = place_all(g);
    bool taken;

    while (*done < (size_t)out->count && placed == PLACE_DONE) {
        placed = put_message(g, &out->messages[*done].msg_hdr, &taken);
        *done += taken;
    }
    return placed;
}

/* The same, once more if the guest has added buffers meanwhile. Returns how
   many frames were taken. Runs without the GIL. */
static size_t
put_messages(GuestRings *g, const struct outgoing *out)
{
    struct virtqueue *q = &g->rings[TO_GUEST].queue;
    size_t count = (size_t)out->count, done = 0;
    enum placed placed = try_messages(g, out, &done);

    if (placed == PLACE_FULL && ask_for_kick(q, true)) {
        placed = try_messages(g, out, &done);
        if (placed == PLACE_FULL) {
            ask_for_kick(q, true);
        }
    }
    g->is_full = placed == PLACE_FULL;
    hold_frames(&g->reception); /* publishes what was used */
    if (placed == PLACE_BROKEN) {
        drop_held(g);
        g->missed += count - done;
        return count;
    }
    return done;
}

/* Gives frames of a batch to the guest. Returns how many were taken, or -1
   with an exception set. */
static Py_ssize_t
put_batch(GuestRings *g, const struct outgoing *out)
{
    Py_ssize_t done;

    if (!is_ready(&g->rings[TO_GUEST])) {
        drop_held(g);
        g->missed += (size_t)out->count;
        return out->count;
    }
    Py_BEGIN_ALLOW_THREADS
    done = (Py_ssize_t)put_messages(g, out);
    call_guest(g, TO_GUEST);
    Py_END_ALLOW_THREADS
    if (done == 0 && out->count > 0) {
        return raise_os_error(EAGAIN, "sendmmsg", NULL);
    }
    return done;
}

static PyObject *
GuestRings_sendmmsg(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    module_state *state = state_of(Py_TYPE(self));
    GuestRings *g = (GuestRings *)self;
    Py_ssize_t start = 0, count, done = -1;
    struct outgoing out;

    if (state == NULL) {
        return NULL;
    }
    if (nargs < 1 || nargs > 2 || !Py_IS_TYPE(args[0], state->batch_type)) {
        return PyErr_Format(PyExc_TypeError,
                            "sendmmsg() needs a PacketBatch, and may have a "
                            "start");
    }
    if (nargs == 2) {
        start = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
        if (start == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    count = begin_outgoing(&out, VNET_HEADER, state, args[0]);
    if (count < 0) {
        return NULL;
    }
    if (start < 0 || start > count) {
        PyErr_Format(PyExc_ValueError, "start must be 0 to %zd, not %zd",
                     count, start);
    }
    else if (prepare_outgoing(&out, args[0], start, count) == 0
             && take_rings(g) == 0) {
        done = put_batch(g, &out);
        release_rings(g);
    }
    end_outgoing(&out);
    return done < 0 ? NULL : PyLong_FromSsize_t(done);
}

/* ---- _GuestRings: slots ------------------------------------------------- */

#define FASTCALL(function) (PyCFunction)(void (*)(void)) function

static PyMethodDef GuestRings_methods[] = {
    {"set_features", GuestRings_set_features, METH_O, NULL},
    {"set_memory", GuestRings_set_memory, METH_O, NULL},
    {"set_size", FASTCALL(GuestRings_set_size), METH_FASTCALL, NULL},
    {"set_addresses", FASTCALL(GuestRings_set_addresses), METH_FASTCALL, NULL},
    {"set_base", FASTCALL(GuestRings_set_base), METH_FASTCALL, NULL},
    {"start", GuestRings_start, METH_O, NULL},
    {"set_call", FASTCALL(GuestRings_set_call), METH_FASTCALL, NULL},
    {"set_enabled", FASTCALL(GuestRings_set_enabled), METH_FASTCALL, NULL},
    {"kicked", GuestRings_kicked, METH_O, NULL},
    {"stop", GuestRings_stop, METH_O, NULL},
    {"is_ready", GuestRings_is_ready, METH_O, NULL},
    {"broken", GuestRings_broken, METH_O, NULL},
    {"ask_for_kick", GuestRings_ask_for_kick, METH_O, NULL},
    {"send", GuestRings_send, METH_O, NULL},
    {"refuse", GuestRings_refuse, METH_NOARGS, NULL},
    {"receive", GuestRings_receive, METH_O, NULL},
    {"recvmmsg_into", GuestRings_recvmmsg_into, METH_O, NULL},
    {"sendmmsg", FASTCALL(GuestRings_sendmmsg), METH_FASTCALL, NULL},
    {"statistics", GuestRings_statistics, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef GuestRings_getset[] = {
    {"pending", GuestRings_get_pending, NULL, NULL, NULL},
    {"is_full", GuestRings_get_is_full, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot GuestRings_slots[] = {
    {Py_tp_doc, "The rings of a guest's network card; rawmmsg.vhost sets them "
                "up."},
    {Py_tp_new, GuestRings_new},
    {Py_tp_traverse, GuestRings_traverse},
    {Py_tp_dealloc, GuestRings_dealloc},
    {Py_tp_methods, GuestRings_methods},
    {Py_tp_getset, GuestRings_getset},
    {0, NULL},
};

PyType_Spec GuestRings_spec = {
    .name = "rawmmsg._rawmmsg._GuestRings",
    .basicsize = sizeof(GuestRings),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = GuestRings_slots,
};
