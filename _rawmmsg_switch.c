/* _FrameSorter: the frames of a batch for each port of a switch. In Python:

       class _FrameSorter:
           def __new__(cls, batch): ...
           def sort(self, skip=()): ...     # -> list of keys
           def counts(self): ...            # -> list, one count for each key
           def show(self, choices): ...     # -> PacketBatch

       def _copy_frames(batch, start, stop, target): ...  # -> the next index
       def _set_addresses(batch, destination, source): ...

   A key is what decides where a frame goes: 14 bytes. sort() finds the distinct
   keys, so that Python decides once for each key. show() then returns a view
   that holds the frames for one port, in their order. No frame is copied: the
   messages of the view point at the frames of the batch. To put a VLAN tag in,
   or to take one out, show() moves the two addresses in front of it, and nothing
   else. */

#include "_rawmmsg.h"

#include <string.h>

#include <linux/if_ether.h>

/* ---- Keys --------------------------------------------------------------- */

/* Python reads it as struct "=6s6sH". */
struct key {
    unsigned char addresses[2 * ETH_ALEN];
    uint16_t tag; /* the id of the 802.1Q tag, in host order, or NO_TAG */
};

_Static_assert(sizeof(struct key) == 14, "no padding");

#define NO_TAG 0xffff
#define TAG_ID 0x0fff

/* Frames of a batch, and so its keys. sendmmsg(2) takes no more. */
#define MOST_FRAMES 1024

/* What sort() keeps of a frame. show() writes the beginning of the frame from
   it, whichever form the frame had for another port. */
struct sorted {
    unsigned char addresses[2 * ETH_ALEN];
    uint16_t tci; /* of its tag, in host order */
    bool is_tagged;
    bool is_malformed; /* no Ethernet header, or only a part of its tag */
    uint16_t number;   /* of its key, or SKIPPED */
    uint32_t length;
};

#define SKIPPED 0xffff

/* The choices for show(), one for each key. Any other is the id of the tag that
   the frames get. The priority of a tag that they had stays. */
enum {
    WITHOUT_TAG = 0,
    UNCHANGED = 0xfffe,
    LEFT_OUT = 0xffff
};

/* Only the call that has taken the batch and the view uses all that is not
   constant. */
typedef struct {
    PyObject_HEAD
    PacketBatch *batch; /* strong; constant */
    PacketBatch *view;  /* strong; constant */

    struct sorted *frames; /* owned: one for each row of the batch */
    Py_ssize_t count;      /* of frames sorted */
    bool is_changed;       /* show() has moved addresses since sort() */

    struct key *keys; /* owned: as many as frames */
    size_t key_count;
    uint16_t *slots;   /* owned: a hash table; 1 + the number of a key, or 0 */
    size_t slot_count; /* a power of two, at least twice the frames */
} FrameSorter;

/* The addresses of one network card are often close to each other, so all bits
   count (a step of FNV-1a for each word). Sorting stays fast enough if a
   sender makes all keys collide: a batch has at most MOST_FRAMES of them. */
static size_t
hash_key(const struct key *key)
{
    uint64_t hash = 0xcbf29ce484222325, word = 0;

    memcpy(&word, key, sizeof(word));
    hash = (hash ^ word) * 0x100000001b3;
    hash ^= hash >> 32;
    word = 0;
    memcpy(&word, (const char *)key + sizeof(word),
           sizeof(*key) - sizeof(word));
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return (size_t)(hash >> 40);
}

/* Returns the number of a key, which may be new. */
static uint16_t
number_of(FrameSorter *s, const struct key *key)
{
    size_t slot = hash_key(key) & (s->slot_count - 1);

    while (s->slots[slot] > 0) {
        if (memcmp(&s->keys[s->slots[slot] - 1], key, sizeof(*key)) == 0) {
            return s->slots[slot] - 1;
        }
        slot = (slot + 1) & (s->slot_count - 1);
    }
    s->keys[s->key_count] = *key;
    s->slots[slot] = (uint16_t)++s->key_count;
    return (uint16_t)(s->key_count - 1);
}

/* ---- Sorting ------------------------------------------------------------ */

/* Reads the beginning of frame i once. User code may change it meanwhile. */
static void
read_frame(const BatchMemory *m, Py_ssize_t i, struct sorted *frame)
{
    const struct iovec *part = &m->rx_parts[2 * i + 1];
    const unsigned char *start = part->iov_base;
    uint32_t length =
        atomic_load_explicit(&m->lengths[i], memory_order_relaxed);

    memset(frame, 0, sizeof(*frame));
    frame->length = length;
    if (length < ETH_HLEN || length > part->iov_len) {
        frame->is_malformed = true;
        return;
    }
    frame->is_tagged = load_be16(start + TAG_OFFSET) == ETH_P_8021Q;
    if (frame->is_tagged && length < ETH_HLEN + TAG_SIZE) {
        frame->is_malformed = true;
        return;
    }
    memcpy(frame->addresses, start, sizeof(frame->addresses));
    if (frame->is_tagged) {
        frame->tci = load_be16(start + TAG_OFFSET + 2);
    }
}

/* A malformed frame has two addresses of zeroes. */
static void
make_key(const struct sorted *frame, struct key *key)
{
    memcpy(key->addresses, frame->addresses, sizeof(key->addresses));
    key->tag = frame->is_tagged && !frame->is_malformed ? frame->tci & TAG_ID
                                                        : NO_TAG;
}

static void
sort_frames(FrameSorter *s)
{
    struct key key, last;
    uint16_t number = 0;
    Py_ssize_t i;

    for (i = 0; i < s->count; i++) {
        if (s->frames[i].number == SKIPPED) {
            continue;
        }
        read_frame(s->batch->memory, i, &s->frames[i]);
        make_key(&s->frames[i], &key);
        if (s->key_count == 0 || memcmp(&key, &last, sizeof(key)) != 0) {
            number = number_of(s, &key);
            last = key;
        }
        s->frames[i].number = number;
    }
}

/* Marks the frames that no port gets. 0, or -1 with an exception set. */
static int
mark_skipped(FrameSorter *s, PyObject *skip)
{
    Py_ssize_t size = PySequence_Size(skip), k, i;
    PyObject *item;

    for (k = 0; k < size; k++) {
        item = PySequence_GetItem(skip, k);
        if (item == NULL) {
            return -1;
        }
        i = PyNumber_AsSsize_t(item, PyExc_IndexError);
        Py_DECREF(item);
        if (i == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (i < 0 || i >= s->count) {
            PyErr_Format(PyExc_IndexError, "the batch holds no packet %zd", i);
            return -1;
        }
        s->frames[i].number = SKIPPED;
    }
    return size < 0 ? -1 : 0;
}

/* Returns a new list of the keys as bytes. */
static PyObject *
list_keys(const FrameSorter *s)
{
    PyObject *list = PyList_New((Py_ssize_t)s->key_count), *key;
    size_t i;

    for (i = 0; list != NULL && i < s->key_count; i++) {
        key = PyBytes_FromStringAndSize((const char *)&s->keys[i],
                                        sizeof(s->keys[i]));
        if (key == NULL || PyList_SetItem(list, (Py_ssize_t)i, key) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static PyObject *
FrameSorter_sort(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    FrameSorter *s = (FrameSorter *)self;
    PyObject *list = NULL;
    Py_ssize_t i;

    if (nargs > 1) {
        return PyErr_Format(PyExc_TypeError,
                            "sort() takes at most 1 argument, not %zd", nargs);
    }
    if (take_both(s->batch, s->view) < 0) {
        return NULL;
    }
    s->count = count_of(s->batch);
    s->key_count = 0;
    s->is_changed = false;
    memset(s->slots, 0, s->slot_count * sizeof(*s->slots));
    for (i = 0; i < s->count; i++) {
        s->frames[i].number = 0;
    }
    if (nargs == 0 || mark_skipped(s, args[0]) == 0) {
        sort_frames(s);
        list = list_keys(s);
    }
    if (list == NULL) {
        s->count = 0;
        s->key_count = 0;
    }
    release_both(s->batch, s->view);
    return list;
}

static PyObject *
FrameSorter_counts(PyObject *self, PyObject *Py_UNUSED(unused))
{
    FrameSorter *s = (FrameSorter *)self;
    uint16_t counts[MOST_FRAMES] = {0};
    PyObject *list, *count;
    Py_ssize_t i;

    if (take_both(s->batch, s->view) < 0) {
        return NULL;
    }
    for (i = 0; i < s->count; i++) {
        if (s->frames[i].number != SKIPPED) {
            counts[s->frames[i].number]++;
        }
    }
    list = PyList_New((Py_ssize_t)s->key_count);
    for (i = 0; list != NULL && i < (Py_ssize_t)s->key_count; i++) {
        count = PyLong_FromLong(counts[i]);
        if (count == NULL || PyList_SetItem(list, i, count) < 0) {
            Py_CLEAR(list);
        }
    }
    release_both(s->batch, s->view);
    return list;
}

/* ---- Showing ------------------------------------------------------------ */

/* Writes the addresses and the tag of a frame in its form for one port. */
static void
write_beginning(const struct sorted *frame, uint16_t choice,
                unsigned char *start)
{
    uint16_t tci = frame->tci;

    memcpy(start, frame->addresses, sizeof(frame->addresses));
    if (choice == WITHOUT_TAG || (choice == UNCHANGED && !frame->is_tagged)) {
        return;
    }
    if (choice != UNCHANGED) {
        tci = (uint16_t)((tci & ~TAG_ID) | choice);
    }
    start[TAG_OFFSET] = ETH_P_8021Q >> 8;
    start[TAG_OFFSET + 1] = ETH_P_8021Q & 0xff;
    start[TAG_OFFSET + 2] = (unsigned char)(tci >> 8);
    start[TAG_OFFSET + 3] = tci & 0xff;
}

/* Adjusts the offsets in an offload header to a beginning that has become
   longer, or shorter if `growth` is negative. A sender that wrote offsets
   before the payload gets what it asked for: a frame that is refused, or has a
   wrong checksum. */
static void
move_offsets(struct offload_header *h, int growth)
{
    if (h->header_length > 0) {
        h->header_length = (uint16_t)(h->header_length + growth);
    }
    if (h->flags & VNET_NEEDS_CSUM) {
        h->checksum_start = (uint16_t)(h->checksum_start + growth);
    }
}

/* Makes row i of the view frame k in the form that was chosen. */
static void
show_frame(FrameSorter *s, Py_ssize_t i, Py_ssize_t k, uint16_t choice)
{
    BatchMemory *from = s->batch->memory, *to = s->view->memory;
    const struct sorted *frame = &s->frames[k];
    struct iovec part = from->rx_parts[2 * k + 1];
    int growth = 0;

    if (choice != UNCHANGED) {
        growth = TAG_SIZE * ((choice != WITHOUT_TAG) - frame->is_tagged);
        part.iov_base = (char *)part.iov_base - growth;
        part.iov_len = (size_t)((ssize_t)part.iov_len + growth);
    }
    if (choice != UNCHANGED || s->is_changed) {
        write_beginning(frame, choice, part.iov_base);
    }
    to->rx_parts[2 * i + 1] = part;
    to->tx_parts[2 * i + 1] = part;
    to->offload_headers[i] = from->offload_headers[k];
    if (growth != 0) {
        move_offsets(&to->offload_headers[i], growth);
    }
    to->flags[i] = from->flags[k];
    atomic_store_explicit(&to->lengths[i], frame->length + (uint32_t)growth,
                          memory_order_relaxed);
}

/* Returns how many frames the view shows, or -1 with an exception set. */
static Py_ssize_t
show_chosen(FrameSorter *s, const uint16_t *choices)
{
    bool changes = false;
    Py_ssize_t shown = 0, k;
    size_t i;

    for (i = 0; i < s->key_count; i++) {
        if (choices[i] > TAG_ID && choices[i] < UNCHANGED) {
            PyErr_Format(PyExc_ValueError, "%d is not the id of a VLAN",
                         (int)choices[i]);
            return -1;
        }
        changes |= choices[i] <= TAG_ID;
        if (choices[i] <= TAG_ID && s->batch->memory->headroom < TAG_SIZE) {
            PyErr_SetString(PyExc_ValueError,
                            "the batch has no room for a tag: it must have "
                            "memory of its own");
            return -1;
        }
    }
    for (k = 0; k < s->count; k++) {
        const struct sorted *frame = &s->frames[k];

        if (frame->number != SKIPPED && !frame->is_malformed
            && choices[frame->number] != LEFT_OUT) {
            show_frame(s, shown++, k, choices[frame->number]);
        }
    }
    s->is_changed |= changes;
    return shown;
}

static PyObject *
FrameSorter_show(PyObject *self, PyObject *choices)
{
    FrameSorter *s = (FrameSorter *)self;
    Py_ssize_t shown = -1;
    Py_buffer buffer;

    if (PyObject_GetBuffer(choices, &buffer, PyBUF_C_CONTIGUOUS) < 0) {
        return NULL;
    }
    if (take_both(s->batch, s->view) < 0) {
        PyBuffer_Release(&buffer);
        return NULL;
    }
    if ((size_t)buffer.len / sizeof(uint16_t) < s->key_count
        || (uintptr_t)buffer.buf % sizeof(uint16_t) != 0) {
        PyErr_Format(PyExc_ValueError,
                     "show() needs a choice of 16 bits for each of %zu keys",
                     s->key_count);
    }
    else {
        shown = show_chosen(s, buffer.buf);
    }
    set_held(s->view, shown < 0 ? 0 : shown,
             has_headers(s->batch) ? FILLED : COLLECT_ALWAYS);
    release_both(s->batch, s->view);
    PyBuffer_Release(&buffer);
    return shown < 0 ? NULL : Py_NewRef((PyObject *)s->view);
}

/* ---- _FrameSorter: life ------------------------------------------------- */

/* Allocates what depends on the capacity. 0, or -1 with an exception set. */
static int
allocate_sorter(FrameSorter *s, size_t capacity)
{
    s->slot_count = 16;
    while (s->slot_count < 2 * capacity) {
        s->slot_count *= 2;
    }
    s->frames = PyMem_Calloc(capacity, sizeof(*s->frames));
    s->keys = PyMem_Calloc(capacity, sizeof(*s->keys));
    s->slots = PyMem_Calloc(s->slot_count, sizeof(*s->slots));
    if (s->frames == NULL || s->keys == NULL || s->slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *
FrameSorter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"batch", NULL};
    module_state *state = state_of(type);
    PyObject *batch;
    FrameSorter *s;
    Py_ssize_t capacity;

    if (state == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!:_FrameSorter", names,
                                        state->batch_type, &batch)) {
        return NULL;
    }
    capacity = ((PacketBatch *)batch)->memory->capacity;
    if (capacity > MOST_FRAMES) {
        return PyErr_Format(PyExc_ValueError,
                            "the batch has %zd rows, more than %d", capacity,
                            MOST_FRAMES);
    }
    s = (FrameSorter *)PyType_GenericAlloc(type, 0);
    if (s == NULL) {
        return NULL;
    }
    s->batch = (PacketBatch *)Py_NewRef(batch);
    s->view = make_view(state, s->batch);
    if (s->view == NULL || allocate_sorter(s, (size_t)capacity) < 0) {
        Py_CLEAR(s);
    }
    return (PyObject *)s;
}

static int
FrameSorter_traverse(PyObject *self, visitproc visit, void *arg)
{
    FrameSorter *s = (FrameSorter *)self;

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(s->batch);
    Py_VISIT(s->view);
    return 0;
}

static void
FrameSorter_dealloc(PyObject *self)
{
    FrameSorter *s = (FrameSorter *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)s->batch);
    Py_XDECREF((PyObject *)s->view);
    PyMem_Free(s->frames);
    PyMem_Free(s->keys);
    PyMem_Free(s->slots);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef FrameSorter_methods[] = {
    {"sort", (PyCFunction)(void (*)(void))FrameSorter_sort, METH_FASTCALL,
     NULL},
    {"counts", FrameSorter_counts, METH_NOARGS, NULL},
    {"show", FrameSorter_show, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot FrameSorter_slots[] = {
    {Py_tp_doc, "The frames of a batch for each port of a switch."},
    {Py_tp_new, FrameSorter_new},
    {Py_tp_traverse, FrameSorter_traverse},
    {Py_tp_dealloc, FrameSorter_dealloc},
    {Py_tp_methods, FrameSorter_methods},
    {0, NULL},
};

PyType_Spec FrameSorter_spec = {
    .name = "rawmmsg._rawmmsg._FrameSorter",
    .basicsize = sizeof(FrameSorter),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = FrameSorter_slots,
};

/* ---- Copies ------------------------------------------------------------- */

/* Copies frames start..stop-1, with their offload headers, behind those that
   `to` holds. Stops at its end, and at a frame that is longer than its row.
   Returns the index of the next frame. The caller has taken both. */
static Py_ssize_t
copy_frames(PacketBatch *from, Py_ssize_t start, Py_ssize_t stop,
            PacketBatch *to)
{
    BatchMemory *source = from->memory, *target = to->memory;
    Py_ssize_t held = count_of(to);
    unsigned collected = filled_headers(to);

    for (; start < stop && held < target->capacity; start++, held++) {
        const struct iovec *part = &source->rx_parts[2 * start + 1];
        const struct iovec *row = &target->rx_parts[2 * held + 1];
        uint32_t length = atomic_load_explicit(&source->lengths[start],
                                               memory_order_relaxed);

        if (length > part->iov_len || length > row->iov_len) {
            break;
        }
        memmove(row->iov_base, part->iov_base, length);
        atomic_store_explicit(&target->lengths[held], length,
                              memory_order_relaxed);
        target->flags[held] = source->flags[start];
        if (has_headers(from)) {
            target->offload_headers[held] = source->offload_headers[start];
        }
        else {
            memset(&target->offload_headers[held], 0,
                   sizeof(*target->offload_headers));
        }
    }
    set_held(to, held, collected);
    return start;
}

PyObject *
rawmmsg_copy_frames(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    module_state *state = PyModule_GetState(module);
    Py_ssize_t start, stop, count, next = -1;
    PacketBatch *from, *to;

    if (nargs != 4 || !Py_IS_TYPE(args[0], state->batch_type)
        || !Py_IS_TYPE(args[3], state->batch_type)) {
        return PyErr_Format(PyExc_TypeError,
                            "_copy_frames() needs a PacketBatch, a start, a "
                            "stop and another PacketBatch");
    }
    start = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
    if (start == -1 && PyErr_Occurred()) {
        return NULL;
    }
    stop = PyNumber_AsSsize_t(args[2], PyExc_OverflowError);
    if (stop == -1 && PyErr_Occurred()) {
        return NULL;
    }
    from = (PacketBatch *)args[0];
    to = (PacketBatch *)args[3];
    if (check_writable(to) < 0 || take_both(from, to) < 0) {
        return NULL;
    }
    count = count_of(from);
    if (start < 0 || start > stop || stop > count) {
        PyErr_Format(PyExc_ValueError,
                     "start and stop must be in order, and 0 to %zd, not %zd "
                     "and %zd",
                     count, start, stop);
    }
    else {
        next = copy_frames(from, start, stop, to);
    }
    release_both(from, to);
    return next < 0 ? NULL : PyLong_FromSsize_t(next);
}

/* ---- Addresses ---------------------------------------------------------- */

/* Writes the addresses that are not NULL. A row without room for an Ethernet
   header stays as it is. The caller has taken the batch. */
static void
set_addresses(PacketBatch *b, const void *destination, const void *source)
{
    BatchMemory *m = b->memory;
    Py_ssize_t count = count_of(b), i;

    for (i = 0; i < count; i++) {
        const struct iovec *part = &m->rx_parts[2 * i + 1];
        char *start = part->iov_base;

        if (part->iov_len < ETH_HLEN) {
            continue;
        }
        if (destination != NULL) {
            memcpy(start, destination, ETH_ALEN);
        }
        if (source != NULL) {
            memcpy(start + ETH_ALEN, source, ETH_ALEN);
        }
    }
}

/* 0, or -1 with ValueError set if this is neither an address nor None. */
static int
check_address(const Py_buffer *address)
{
    if (address->buf != NULL && address->len != ETH_ALEN) {
        PyErr_Format(PyExc_ValueError,
                     "an address must have %d bytes, not %zd", ETH_ALEN,
                     address->len);
        return -1;
    }
    return 0;
}

PyObject *
rawmmsg_set_addresses(PyObject *module, PyObject *args)
{
    module_state *state = PyModule_GetState(module);
    Py_buffer destination = {0}, source = {0};
    PyObject *batch, *result = NULL;

    if (!PyArg_ParseTuple(args, "O!z*z*:_set_addresses", state->batch_type,
                          &batch, &destination, &source)) {
        return NULL;
    }
    if (check_address(&destination) == 0 && check_address(&source) == 0
        && check_writable((PacketBatch *)batch) == 0
        && take_batch((PacketBatch *)batch) == 0) {
        set_addresses((PacketBatch *)batch, destination.buf, source.buf);
        release_batch((PacketBatch *)batch);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&destination);
    PyBuffer_Release(&source);
    return result;
}
