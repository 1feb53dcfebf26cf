/* What a switch looks at in the frames of a batch, for rawmmsg.bridge. */

#include "_rawmmsg.h"

#include <string.h>

#include <linux/if_ether.h>

/* ---- Keys --------------------------------------------------------------- */

/* What decides where a frame goes: the two addresses, and the id of its
   802.1Q tag. */
struct key {
    unsigned char addresses[2 * ETH_ALEN];
    uint16_t tag; /* in host order; NO_TAG: the frame is untagged */
};

_Static_assert(sizeof(struct key) == 14, "no padding");

#define NO_TAG 0xffff
#define TAG_ID 0x0fff

/* Slots of the hash table: more than twice as many as there are keys. */
#define MOST_KEYS 1024
#define SLOTS 4096

/* The distinct keys of a batch. A local of the call. */
struct keys {
    struct key found[MOST_KEYS];
    size_t count;
    uint16_t slots[SLOTS]; /* 1 + the number of a key, or 0 */
};

static void
read_key(const unsigned char *frame, size_t length, struct key *key)
{
    uint16_t type = load_be16(frame + 2 * ETH_ALEN);

    memcpy(key->addresses, frame, sizeof(key->addresses));
    key->tag = type == ETH_P_8021Q && length >= ETH_HLEN + TAG_SIZE
                   ? load_be16(frame + ETH_HLEN) & TAG_ID
                   : NO_TAG;
}

/* The addresses of one network card are often close to each other, so all bits
   count (a step of FNV-1a for each word). */
static size_t
slot_of(const struct key *key)
{
    uint64_t hash = 0xcbf29ce484222325, word = 0;

    memcpy(&word, key, sizeof(word));
    hash = (hash ^ word) * 0x100000001b3;
    hash ^= hash >> 32;
    word = 0;
    memcpy(&word, (const char *)key + sizeof(word),
           sizeof(*key) - sizeof(word));
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return (size_t)(hash >> 40) % SLOTS;
}

/* Returns the number of a key, which may be new. */
static uint16_t
number_of(struct keys *k, const struct key *key)
{
    size_t slot = slot_of(key);

    while (k->slots[slot] > 0) {
        if (memcmp(&k->found[k->slots[slot] - 1], key, sizeof(*key)) == 0) {
            return k->slots[slot] - 1;
        }
        slot = (slot + 1) % SLOTS;
    }
    k->found[k->count] = *key;
    k->slots[slot] = (uint16_t)++k->count;
    return (uint16_t)(k->count - 1);
}

/* Numbers the frames of a table by their keys. Runs without the GIL. */
static void
number_frames(struct keys *k, const struct frame_table *t, uint16_t *numbers)
{
    struct key key, last = {.tag = 0};
    uint16_t number = 0;
    size_t length, i;

    k->count = 0;
    memset(k->slots, 0, sizeof(k->slots));
    for (i = 0; i < t->count; i++) {
        const struct iovec *part = &t->parts[2 * i + 1];

        length = atomic_load_explicit(&t->lengths[i], memory_order_relaxed);
        length = length < part->iov_len ? length : part->iov_len;
        memset(&key, 0, sizeof(key));
        if (length >= ETH_HLEN) {
            read_key(part->iov_base, length, &key);
        }
        if (k->count == 0 || memcmp(&key, &last, sizeof(key)) != 0) {
            number = number_of(k, &key);
            last = key;
        }
        numbers[i] = number;
    }
}

/* ---- Functions of the module -------------------------------------------- */

static module_state *
state_and_batch(PyObject *module, PyObject *batch)
{
    module_state *state = PyModule_GetState(module);

    if (!Py_IS_TYPE(batch, state->batch_type)) {
        PyErr_Format(PyExc_TypeError, "a PacketBatch is needed, not %R",
                     Py_TYPE(batch));
        return NULL;
    }
    return state;
}

PyObject *
rawmmsg_make_view(PyObject *module, PyObject *batch)
{
    module_state *state = state_and_batch(module, batch);

    return state == NULL ? NULL
                         : (PyObject *)make_view(state, (PacketBatch *)batch);
}

/* Acquires a buffer of at least `count` uint16_t. 0, or -1 with an exception
   set. */
static int
get_numbers(PyObject *object, Py_ssize_t count, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, flags | PyBUF_C_CONTIGUOUS) < 0) {
        return -1;
    }
    if ((size_t)view->len / sizeof(uint16_t) < (size_t)count
        || (uintptr_t)view->buf % sizeof(uint16_t) != 0) {
        PyErr_Format(PyExc_ValueError,
                     "a buffer of %zd numbers of 16 bits is needed", count);
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

PyObject *
rawmmsg_show_frames(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t count;
    Py_buffer picks;
    int result;

    if (nargs != 4) {
        return PyErr_Format(PyExc_TypeError,
                            "_show_frames() takes 4 arguments, not %zd",
                            nargs);
    }
    if (state_and_batch(module, args[0]) == NULL
        || state_and_batch(module, args[1]) == NULL) {
        return NULL;
    }
    count = PyNumber_AsSsize_t(args[3], PyExc_OverflowError);
    if (count == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (count < 0) {
        return PyErr_Format(PyExc_ValueError, "count must not be negative");
    }
    if (get_numbers(args[2], count, PyBUF_SIMPLE, &picks) < 0) {
        return NULL;
    }
    result = show_frames((PacketBatch *)args[0], (PacketBatch *)args[1],
                         picks.buf, count);
    PyBuffer_Release(&picks);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* Returns a new list of the keys as bytes. */
static PyObject *
list_keys(const struct keys *k)
{
    PyObject *list = PyList_New((Py_ssize_t)k->count), *key;
    size_t i;

    for (i = 0; list != NULL && i < k->count; i++) {
        key = PyBytes_FromStringAndSize((const char *)&k->found[i],
                                        sizeof(k->found[i]));
        if (key == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SetItem(list, (Py_ssize_t)i, key);
    }
    return list;
}

PyObject *
rawmmsg_number_frames(PyObject *module, PyObject *const *args,
                      Py_ssize_t nargs)
{
    struct frame_table table;
    PyObject *list = NULL;
    Py_buffer numbers;
    struct keys *k;

    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError,
                            "_number_frames() takes 2 arguments, not %zd",
                            nargs);
    }
    if (state_and_batch(module, args[0]) == NULL
        || begin_reading((PacketBatch *)args[0], &table) < 0) {
        return NULL;
    }
    if (table.count > MOST_KEYS) {
        PyErr_Format(PyExc_ValueError, "a batch of more than %d packets",
                     MOST_KEYS);
    }
    else if (get_numbers(args[1], (Py_ssize_t)table.count, PyBUF_WRITABLE,
                         &numbers)
             == 0) {
        k = PyMem_Malloc(sizeof(*k));
        if (k == NULL) {
            PyErr_NoMemory();
        }
        else {
            number_frames(k, &table, numbers.buf);
            list = list_keys(k);
            PyMem_Free(k);
        }
        PyBuffer_Release(&numbers);
    }
    release_batch((PacketBatch *)args[0]);
    return list;
}
