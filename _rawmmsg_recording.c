/* Recordings: the packets of one as batches, and batches into one. In Python:

       class _RecordFinder:
           def __new__(cls, capacity): ...
           def find(self, buffer, at, stop_at): ...
               # -> batch or None, at, wanted, behind, news, fault or None
           def totals(self): ...  # -> packets, bytes, wire bytes, drops, format
           def reset(self): ...

       class _RecordWriter:
           def __new__(cls, is_pcapng, snap_length): ...
           def write(self, fd, batch, start, stop, interfaces, interface,
                     times, dropped): ...
           def progress(self): ...  # -> packets, bytes, bytes behind them

   find() searches a part of a recording and returns the packets in it as a
   batch of slices, with the columns that a receive fills. The batch is None if
   there is no packet. `at` is where the next call goes on. If `wanted` is not
   0, the buffer must hold so many bytes from there on; if `at` is beyond the
   buffer, the bytes up to there are to be skipped. `behind` says how many bytes
   before `at` a block begins whose end has not been read yet. `news` has a
   tuple for each new interface (link type, snap length, name, description,
   filter) and for each block of statistics (interface, received, dropped).
   `fault` says why the recording cannot be read on at `at`. totals() counts
   since reset(); its format is None if the beginning of the recording has not
   been read yet.

   write() writes the packets start..stop-1 with as few calls of writev(2) as
   their number allows. progress() says how many packets were written since it
   was called last, their bytes, and how many bytes of the next one, which is
   not complete if write() has raised an exception. */

#include "_rawmmsg.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "_rawmmsg_pcap.h"

/* Marks an object as used by this call, until `*busy` is cleared. 0, or -1 with
   RuntimeError set. */
static int
take_recording(atomic_bool *busy)
{
    bool was = false;

    if (!atomic_compare_exchange_strong(busy, &was, true)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the recording is in use by another call");
        return -1;
    }
    return 0;
}

/* ---- _RecordFinder ------------------------------------------------------ */

/* Of the packets found. */
struct totals {
    uint64_t packets, bytes, wire_bytes;
};

/* Only the call that has set `busy` uses the other fields. */
typedef struct {
    PyObject_HEAD
    atomic_bool busy;
    struct finder finder;
    struct record *records;              /* owned: finder.room */
    struct record_interface *interfaces; /* owned */
    size_t interface_room;
    struct totals totals;
} RecordFinder;

/* A str of an option's value, which may be anything; "" if it is not there. A
   filter begins with a byte for its kind: 0, an expression. */
static PyObject *
make_text(const struct record_text *text, bool is_filter)
{
    const char *bytes = (const char *)text->bytes;
    size_t length = text->length;

    if (is_filter && length > 0) {
        length = bytes[0] == 0 ? length - 1 : 0;
        bytes++;
    }
    return PyUnicode_DecodeUTF8(bytes, (Py_ssize_t)length, "replace");
}

/* Appends an item to a list, and releases it. 0, or -1 with an exception
   set. */
static int
append_item(PyObject *list, PyObject *item)
{
    int result = item == NULL ? -1 : PyList_Append(list, item);

    Py_XDECREF(item);
    return result;
}

/* Adds the new interface. 0, or -1 with an exception set. */
static int
add_interface(RecordFinder *r, PyObject *news)
{
    const struct record_description *d = &r->finder.description;
    size_t number = r->finder.interface_count - 1;
    struct record_interface *grown;
    size_t room = r->interface_room;

    if (number >= room) {
        room = room > 0 ? 2 * room : 8;
        grown = PyMem_Realloc(r->interfaces, room * sizeof(*grown));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        r->interfaces = grown;
        r->interface_room = room;
    }
    r->interfaces[number] = d->interface;
    r->finder.interfaces = r->interfaces;
    return append_item(news, Py_BuildValue("IINNN", (unsigned)d->link_type,
                                           (unsigned)d->interface.snap_length,
                                           make_text(&d->name, false),
                                           make_text(&d->description, false),
                                           make_text(&d->filter, true)));
}

/* An int, or None. */
static PyObject *
make_count(bool known, uint64_t count)
{
    if (!known) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(count);
}

static int
add_statistics(const RecordFinder *r, PyObject *news)
{
    const struct record_statistics *s = &r->finder.statistics;

    return append_item(news,
                       Py_BuildValue("INN", (unsigned)s->interface,
                                     make_count(s->has_received, s->received),
                                     make_count(s->has_dropped, s->dropped)));
}

/* Interfaces and statistics of one search. A hostile file has nothing else, and
   each occupies more memory than its block. */
#define MOST_NEWS 1024

/* Searches up to the end of the buffer, `stop_at`, the last record that there
   is room for, or the last of MOST_NEWS. Returns the last result, or -1 with an
   exception set. */
static int
search(RecordFinder *r, PyObject *news)
{
    enum find_result result;

    r->finder.count = 0;
    while (PyList_Size(news) < MOST_NEWS) {
        Py_BEGIN_ALLOW_THREADS
        result = find_records(&r->finder);
        Py_END_ALLOW_THREADS
        if (result == FIND_INTERFACE) {
            if (add_interface(r, news) < 0) {
                return -1;
            }
        }
        else if (result == FIND_STATISTICS) {
            if (add_statistics(r, news) < 0) {
                return -1;
            }
        }
        else {
            return (int)result;
        }
    }
    return FIND_FULL;
}

/* Fills row i of a batch. 0, or -1 with an exception set. */
static int
set_record(RecordFinder *r, PacketBatch *b, Py_ssize_t i)
{
    const struct record *record = &r->records[i];
    BatchMemory *m = b->memory;

    if (set_slice(b, i, (int64_t)record->start, record->length) < 0) {
        return -1;
    }
    m->wire_lengths[i] = record->wire_length;
    m->timestamps_ns[i] = record->time_ns;
    m->ifindexes[i] = record->interface;
    m->packet_types[i] = record->packet_type;
    m->flags[i] = record->length < record->wire_length ? TRUNCATED : 0;
    r->totals.packets++;
    r->totals.bytes += record->length;
    r->totals.wire_bytes += record->wire_length;
    return 0;
}

/* Returns a new batch of the records found, None if there are none, or NULL
   with an exception set. */
static PyObject *
make_records(RecordFinder *r, const module_state *state, PyObject *buffer)
{
    Py_ssize_t count = (Py_ssize_t)r->finder.count, i;
    PacketBatch *b;

    if (count == 0) {
        Py_RETURN_NONE;
    }
    b = make_slices(state, buffer, count);
    for (i = 0; b != NULL && i < count; i++) {
        if (set_record(r, b, i) < 0) {
            Py_CLEAR(b);
        }
    }
    if (b != NULL) {
        set_held(b, count,
                 FILLED | COLLECT_ALWAYS | COLLECT_WIRE_LENGTHS | COLLECT_TIMES
                     | COLLECT_ADDRESSES);
    }
    return (PyObject *)b;
}

/* The result of find(), or NULL with an exception set. */
static PyObject *
find_batch(RecordFinder *r, const module_state *state, PyObject *buffer)
{
    struct finder *f = &r->finder;
    PyObject *news = PyList_New(0), *batch = NULL;
    int result = news == NULL ? -1 : search(r, news);

    if (result >= 0) {
        batch = make_records(r, state, buffer);
    }
    if (batch == NULL) {
        Py_XDECREF(news);
        return NULL;
    }
    return Py_BuildValue("NnnnNz", batch, (Py_ssize_t)f->at,
                         result == FIND_MORE ? (Py_ssize_t)f->wanted : 0,
                         (Py_ssize_t)f->behind, news,
                         result == FIND_FAULT ? f->reason : NULL);
}

/* The same. After an exception, the next call finds the same again. */
static PyObject *
find_or_restore(RecordFinder *r, const module_state *state, PyObject *buffer)
{
    struct finder finder = r->finder;
    struct totals totals = r->totals;
    PyObject *result = find_batch(r, state, buffer);

    if (result == NULL) {
        r->finder = finder;
        r->finder.interfaces = r->interfaces;
        r->totals = totals;
    }
    return result;
}

static PyObject *
RecordFinder_find(PyObject *self, PyObject *args)
{
    RecordFinder *r = (RecordFinder *)self;
    module_state *state = state_of(Py_TYPE(self));
    PyObject *buffer, *result = NULL;
    Py_ssize_t at, stop_at;
    Py_buffer view;

    if (state == NULL
        || !PyArg_ParseTuple(args, "Onn:find", &buffer, &at, &stop_at)
        || PyObject_GetBuffer(buffer, &view, PyBUF_C_CONTIGUOUS) < 0) {
        return NULL;
    }
    if (at < 0 || at > view.len || stop_at < at) {
        PyErr_Format(PyExc_ValueError, "at must be 0 to %zd, not %zd",
                     view.len, at);
    }
    else if (take_recording(&r->busy) == 0) {
        r->finder.bytes = view.buf;
        r->finder.size = (size_t)view.len;
        r->finder.at = (size_t)at;
        r->finder.stop_at = (size_t)stop_at;
        result = find_or_restore(r, state, buffer);
        atomic_store(&r->busy, false);
    }
    PyBuffer_Release(&view);
    return result;
}

static const char *const formats[] = {
    [FORMAT_UNKNOWN] = NULL,
    [FORMAT_PCAP] = "pcap",
    [FORMAT_PCAPNG] = "pcapng",
};

static PyObject *
RecordFinder_totals(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RecordFinder *r = (RecordFinder *)self;
    PyObject *result;

    if (take_recording(&r->busy) < 0) {
        return NULL;
    }
    result = Py_BuildValue("KKKKz", (unsigned long long)r->totals.packets,
                           (unsigned long long)r->totals.bytes,
                           (unsigned long long)r->totals.wire_bytes,
                           (unsigned long long)r->finder.drops,
                           formats[r->finder.format]);
    atomic_store(&r->busy, false);
    return result;
}

/* Begins with an empty recording. */
static void
reset_finder(RecordFinder *r)
{
    r->finder = (struct finder){.records = r->records,
                                .room = r->finder.room,
                                .interfaces = r->interfaces};
    r->totals = (struct totals){0};
}

static PyObject *
RecordFinder_reset(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RecordFinder *r = (RecordFinder *)self;

    if (take_recording(&r->busy) < 0) {
        return NULL;
    }
    reset_finder(r);
    atomic_store(&r->busy, false);
    Py_RETURN_NONE;
}

static PyObject *
RecordFinder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", NULL};
    Py_ssize_t capacity;
    RecordFinder *r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n:_RecordFinder", names,
                                     &capacity)) {
        return NULL;
    }
    if (capacity < 1 || capacity > MOST_RECORDS) {
        return PyErr_Format(PyExc_ValueError,
                            "capacity must be 1 to %d, not %zd", MOST_RECORDS,
                            capacity);
    }
    r = (RecordFinder *)PyType_GenericAlloc(type, 0);
    if (r == NULL) {
        return NULL;
    }
    r->records = PyMem_Calloc((size_t)capacity, sizeof(*r->records));
    if (r->records == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(r);
    }
    else {
        r->finder.room = (size_t)capacity;
        reset_finder(r);
    }
    return (PyObject *)r;
}

static void
RecordFinder_dealloc(PyObject *self)
{
    RecordFinder *r = (RecordFinder *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyMem_Free(r->records);
    PyMem_Free(r->interfaces);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef RecordFinder_methods[] = {
    {"find", RecordFinder_find, METH_VARARGS, NULL},
    {"totals", RecordFinder_totals, METH_NOARGS, NULL},
    {"reset", RecordFinder_reset, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot RecordFinder_slots[] = {
    {Py_tp_doc, "Finds the packets of a recording."},
    {Py_tp_new, RecordFinder_new},
    {Py_tp_dealloc, RecordFinder_dealloc},
    {Py_tp_methods, RecordFinder_methods},
    {0, NULL},
};

PyType_Spec RecordFinder_spec = {
    .name = "rawmmsg._rawmmsg._RecordFinder",
    .basicsize = sizeof(RecordFinder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = RecordFinder_slots,
};

/* ---- _RecordWriter ------------------------------------------------------ */

/* IOV_MAX: the parts that writev(2) takes. */
#define MOST_PARTS 1024

/* Packets of one writev(2). */
#define MOST_GATHERED 1024

/* A shorter packet is copied beside its header: a part of its own costs the
   kernel more. */
#define MOST_COPIED 256

#define GATHER_MEMORY \
    (MOST_GATHERED * (RECORD_HEAD + RECORD_TAIL + MOST_COPIED))

/* Only the call that has set `busy` uses the other fields, except the constant
   ones. */
typedef struct {
    PyObject_HEAD
    atomic_bool busy;
    enum record_format format; /* constant */
    uint32_t snap_length;      /* constant */

    /* What one writev(2) writes. */
    unsigned char *memory; /* owned: GATHER_MEMORY bytes */
    size_t used;           /* of `memory` */
    struct iovec parts[MOST_PARTS];
    size_t part_count;
    size_t ends[MOST_GATHERED]; /* where in it packet i ends */
    size_t packet_count;
    size_t size;

    /* progress() */
    uint64_t packets;
    uint64_t bytes;
    uint64_t excess;
} RecordWriter;

/* What one call of write() writes. A local of it. */
struct writing {
    PacketBatch *batch; /* borrowed; taken for this call */
    Py_ssize_t at, stop;
    unsigned collected;
    int64_t interface_count;
    uint64_t dropped; /* before the next packet */
    struct numbers interfaces;
    struct numbers times;
    bool own_times; /* those of the batch */
};

/* Adds bytes that are at the end of `memory` already. */
static void
add_memory(RecordWriter *w, size_t size)
{
    struct iovec *last =
        w->part_count > 0 ? &w->parts[w->part_count - 1] : NULL;
    unsigned char *start = w->memory + w->used;

    if (last != NULL
        && (unsigned char *)last->iov_base + last->iov_len == start) {
        last->iov_len += size;
    }
    else if (size > 0) {
        w->parts[w->part_count++] = (struct iovec){start, size};
    }
    w->used += size;
    w->size += size;
}

static void
add_packet(RecordWriter *w, const struct record_header *h, void *frame)
{
    add_memory(w, write_record_head(w->format, h, w->memory + w->used));
    if (h->length <= MOST_COPIED) {
        memcpy(w->memory + w->used, frame, h->length);
        add_memory(w, h->length);
    }
    else {
        w->parts[w->part_count++] = (struct iovec){frame, h->length};
        w->size += h->length;
    }
    add_memory(w, write_record_tail(w->format, h, w->memory + w->used));
    w->ends[w->packet_count++] = w->size;
}

static int
raise_bad_packet(Py_ssize_t i, const char *what, int64_t number)
{
    PyErr_Format(PyExc_ValueError, "packet %zd: %s %lld", i, what,
                 (long long)number);
    return -1;
}

/* Describes packet i. 0, or -1 with an exception set. */
static int
describe(const RecordWriter *w, struct writing *g, Py_ssize_t i,
         struct record_header *h)
{
    const BatchMemory *m = g->batch->memory;
    Py_ssize_t length = checked_length(g->batch->memory, i);
    int64_t interface, time;

    if (length < 0 || read_number(&g->interfaces, i, &interface) < 0) {
        return -1;
    }
    if (interface < 0 || interface >= g->interface_count) {
        return raise_bad_packet(i, "the recording has no interface",
                                interface);
    }
    if (g->own_times) {
        time = m->timestamps_ns[i];
    }
    else if (read_number(&g->times, i, &time) < 0) {
        return -1;
    }
    if (time < 0) {
        return raise_bad_packet(i, "a time must not be negative:", time);
    }
    if (w->format == FORMAT_PCAP && time / NS_PER_S > UINT32_MAX) {
        return raise_bad_packet(i, "a pcap file has no room for the time",
                                time);
    }
    *h = (struct record_header){
        .time_ns = time,
        .length = (uint32_t)length,
        .wire_length = (uint32_t)length,
        .interface = (uint32_t)interface,
        .dropped = g->dropped,
    };
    if ((g->collected & COLLECT_WIRE_LENGTHS)
        && m->wire_lengths[i] > h->wire_length) {
        h->wire_length = m->wire_lengths[i];
    }
    if (g->collected & COLLECT_ADDRESSES) {
        h->flags = direction_of(m->packet_types[i]);
    }
    if (h->length > w->snap_length) {
        h->length = w->snap_length;
    }
    g->dropped = 0;
    return 0;
}

/* Gathers packets for one writev(2). 0, or -1 with an exception set. */
static int
gather(RecordWriter *w, struct writing *g)
{
    struct record_header h;
    const struct iovec *frame;

    w->used = w->part_count = w->packet_count = w->size = 0;
    for (; g->at < g->stop && w->packet_count < MOST_GATHERED
           && w->part_count + 3 <= MOST_PARTS;
         g->at++) {
        frame = &g->batch->memory->rx_parts[2 * g->at + 1];
        if (describe(w, g, g->at, &h) < 0) {
            return -1;
        }
        add_packet(w, &h, frame->iov_base);
    }
    return 0;
}

/* Waits until a descriptor that does not block is writable. 0, or -1 with errno
   set. */
static int
wait_writable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    return poll(&p, 1, -1) < 0 ? -1 : 0;
}

/* Writes once, or waits. Returns how many bytes were written, or -1 with errno
   set. */
static ssize_t
write_once(int fd, const struct iovec *parts, size_t count)
{
    ssize_t done;

    Py_BEGIN_ALLOW_THREADS
    done = writev(fd, parts, (int)count);
    if (done < 0 && errno == EAGAIN) {
        done = wait_writable(fd);
    }
    else if (done == 0) {
        errno = EIO;
        done = -1;
    }
    Py_END_ALLOW_THREADS
    return done;
}

/* Drops the first `done` bytes of parts. Returns the first part that is
   left. */
static struct iovec *
advance(struct iovec *parts, size_t done)
{
    while (done > 0 && done >= parts->iov_len) {
        done -= parts->iov_len;
        parts++;
    }
    if (done > 0) {
        parts->iov_base = (char *)parts->iov_base + done;
        parts->iov_len -= done;
    }
    return parts;
}

/* Notes what is in the file after `done` bytes of what was gathered. */
static void
note_progress(RecordWriter *w, size_t done)
{
    size_t whole = 0;

    while (whole < w->packet_count && w->ends[whole] <= done) {
        whole++;
    }
    w->packets += whole;
    w->bytes += whole > 0 ? w->ends[whole - 1] : 0;
    w->excess = done - (whole > 0 ? w->ends[whole - 1] : 0);
}

/* Writes what was gathered. 0, or -1 with an exception set. */
static int
write_gathered(RecordWriter *w, int fd)
{
    struct iovec *parts = w->parts, *end = w->parts + w->part_count;
    size_t done = 0;
    ssize_t n = 0;
    int result = 0;

    while (done < w->size && result == 0) {
        n = write_once(fd, parts, (size_t)(end - parts));
        if (n >= 0) {
            done += (size_t)n;
            parts = advance(parts, (size_t)n);
        }
        else if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            result = -1;
        }
        if (result == 0 && done < w->size) {
            result = PyErr_CheckSignals();
        }
    }
    note_progress(w, done);
    return result;
}

/* Writes all packets. 0, or -1 with an exception set. */
static int
write_packets(RecordWriter *w, int fd, struct writing *g)
{
    while (g->at < g->stop) {
        if (gather(w, g) < 0 || write_gathered(w, fd) < 0) {
            return -1;
        }
    }
    return 0;
}

/* 0, or -1 with ValueError set if a column is too short. */
static int
check_column(const struct numbers *n, Py_ssize_t stop)
{
    if (n->each && n->count < stop) {
        PyErr_Format(PyExc_ValueError, "%s has %zd items for %zd packets",
                     n->name, n->count, stop);
        return -1;
    }
    return 0;
}

/* Writes a batch that is taken. 0, or -1 with an exception set. */
static int
write_batch(RecordWriter *w, int fd, struct writing *g)
{
    Py_ssize_t count = count_of(g->batch);

    g->stop = g->stop < 0 ? count : g->stop;
    if (g->at < 0 || g->at > g->stop || g->stop > count) {
        PyErr_Format(PyExc_ValueError,
                     "start and stop must be in order, and 0 to %zd, not %zd "
                     "and %zd",
                     count, g->at, g->stop);
        return -1;
    }
    g->collected = collected_of(g->batch);
    if (g->own_times && !(g->collected & COLLECT_TIMES)) {
        PyErr_SetString(PyExc_ValueError,
                        "the batch has no time stamps: receive it with "
                        "RawSocket(..., timestamps='software'), or give "
                        "times=");
        return -1;
    }
    if (check_column(&g->interfaces, g->stop) < 0
        || check_column(&g->times, g->stop) < 0) {
        return -1;
    }
    return write_packets(w, fd, g);
}

/* The same, with the arguments of write(). */
static int
begin_write(RecordWriter *w, int fd, struct writing *g, PyObject *interface,
            PyObject *times)
{
    int result = -1;

    g->own_times = times == Py_None;
    if (begin_numbers(&g->interfaces, "interface", interface) < 0) {
        return -1;
    }
    if (!g->own_times && begin_numbers(&g->times, "times", times) < 0) {
        end_numbers(&g->interfaces);
        return -1;
    }
    if (take_recording(&w->busy) == 0) {
        if (take_batch(g->batch) == 0) {
            result = write_batch(w, fd, g);
            release_batch(g->batch);
        }
        atomic_store(&w->busy, false);
    }
    end_numbers(&g->times);
    end_numbers(&g->interfaces);
    return result;
}

static PyObject *
RecordWriter_write(PyObject *self, PyObject *args)
{
    RecordWriter *w = (RecordWriter *)self;
    module_state *state = state_of(Py_TYPE(self));
    PyObject *batch, *interface, *times;
    Py_ssize_t interface_count;
    unsigned long long dropped;
    struct writing g = {0};
    int fd;

    if (state == NULL
        || !PyArg_ParseTuple(args, "iO!nnnOOK:write", &fd, state->batch_type,
                             &batch, &g.at, &g.stop, &interface_count,
                             &interface, &times, &dropped)) {
        return NULL;
    }
    g.batch = (PacketBatch *)batch;
    g.interface_count = interface_count;
    g.dropped = dropped;
    if (begin_write(w, fd, &g, interface, times) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
RecordWriter_progress(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RecordWriter *w = (RecordWriter *)self;
    PyObject *result;

    if (take_recording(&w->busy) < 0) {
        return NULL;
    }
    result = Py_BuildValue("KKK", (unsigned long long)w->packets,
                           (unsigned long long)w->bytes,
                           (unsigned long long)w->excess);
    w->packets = w->bytes = w->excess = 0;
    atomic_store(&w->busy, false);
    return result;
}

static PyObject *
RecordWriter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"is_pcapng", "snap_length", NULL};
    unsigned snap_length;
    int is_pcapng;
    RecordWriter *w;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "pI:_RecordWriter", names,
                                     &is_pcapng, &snap_length)) {
        return NULL;
    }
    w = (RecordWriter *)PyType_GenericAlloc(type, 0);
    if (w == NULL) {
        return NULL;
    }
    w->format = is_pcapng ? FORMAT_PCAPNG : FORMAT_PCAP;
    w->snap_length = snap_length;
    w->memory = PyMem_Malloc(GATHER_MEMORY);
    if (w->memory == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(w);
    }
    return (PyObject *)w;
}

static void
RecordWriter_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyMem_Free(((RecordWriter *)self)->memory);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef RecordWriter_methods[] = {
    {"write", RecordWriter_write, METH_VARARGS, NULL},
    {"progress", RecordWriter_progress, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot RecordWriter_slots[] = {
    {Py_tp_doc, "Writes batches into a recording."},
    {Py_tp_new, RecordWriter_new},
    {Py_tp_dealloc, RecordWriter_dealloc},
    {Py_tp_methods, RecordWriter_methods},
    {0, NULL},
};

PyType_Spec RecordWriter_spec = {
    .name = "rawmmsg._rawmmsg._RecordWriter",
    .basicsize = sizeof(RecordWriter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = RecordWriter_slots,
};
