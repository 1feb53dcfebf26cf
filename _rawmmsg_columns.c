/* Columns of integers that the caller gives, one for each packet, and batches
   of slices made of them:

       PacketBatch(buffer=data, offsets=offsets, lengths=lengths)

   A column is a buffer of integers of any size (an array, a NumPy array, a
   column of a batch), or a sequence of ints. */

#include "_rawmmsg.h"

#include <string.h>

/* Whether the items of a view are integers in the byte order of this machine.
   Sets *is_signed. */
static bool
holds_integers(const Py_buffer *view, bool *is_signed)
{
    const char *format = view->format == NULL ? "B" : view->format;
    const uint16_t one = 1;
    char order = *(const char *)&one ? '<' : '>';

    if (*format == '@' || *format == '=' || *format == order) {
        format++;
    }
    *is_signed = strchr("bhilqn", *format) != NULL;
    return *format != '\0' && format[1] == '\0'
           && strchr("bBhHiIlLqQnN", *format) != NULL
           && (view->itemsize == 1 || view->itemsize == 2
               || view->itemsize == 4 || view->itemsize == 8);
}

/* Acquires a buffer. 0, or -1 with an exception set. */
static int
begin_buffer(struct numbers *n, PyObject *argument)
{
    if (PyObject_GetBuffer(argument, &n->view, PyBUF_CONTIG_RO | PyBUF_FORMAT)
        < 0) {
        return -1;
    }
    if (n->view.ndim != 1 || !holds_integers(&n->view, &n->is_signed)) {
        PyErr_Format(PyExc_TypeError,
                     "%s must be a one-dimensional column of integers",
                     n->name);
        PyBuffer_Release(&n->view);
        return -1;
    }
    n->count = n->view.len / n->view.itemsize;
    return 0;
}

/* Converts an int. 0, or -1 with an exception set. */
static int
convert(const struct numbers *n, PyObject *item, int64_t *number)
{
    long long value = PyLong_AsLongLong(item);

    if (value == -1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Format(PyExc_ValueError, "%s: %R is too large", n->name,
                         item);
        }
        return -1;
    }
    *number = value;
    return 0;
}

int
begin_numbers(struct numbers *n, const char *name, PyObject *argument)
{
    *n = (struct numbers){.name = name};
    if (PyLong_Check(argument)) {
        return convert(n, argument, &n->value);
    }
    n->each = true;
    if (PyObject_CheckBuffer(argument)) {
        return begin_buffer(n, argument);
    }
    n->items = PySequence_Tuple(argument);
    if (n->items == NULL) {
        return -1;
    }
    n->count = PyTuple_Size(n->items);
    return 0;
}

void
end_numbers(struct numbers *n)
{
    if (n->each && n->items == NULL) {
        PyBuffer_Release(&n->view);
    }
    Py_CLEAR(n->items);
}

/* Reads number i of a buffer. Returns false if it is too large. */
static bool
load_number(const struct numbers *n, Py_ssize_t i, int64_t *number)
{
    const char *at = (const char *)n->view.buf + i * n->view.itemsize;
    union {
        uint8_t u8;
        int8_t s8;
        uint16_t u16;
        int16_t s16;
        uint32_t u32;
        int32_t s32;
        uint64_t u64;
        int64_t s64;
    } item;

    memcpy(&item, at, (size_t)n->view.itemsize);
    switch (n->view.itemsize) {
    case 1:
        *number = n->is_signed ? item.s8 : item.u8;
        break;
    case 2:
        *number = n->is_signed ? item.s16 : item.u16;
        break;
    case 4:
        *number = n->is_signed ? item.s32 : (int64_t)item.u32;
        break;
    default:
        *number = item.s64;
        return n->is_signed || item.u64 <= INT64_MAX;
    }
    return true;
}

int
read_number(const struct numbers *n, Py_ssize_t i, int64_t *number)
{
    if (!n->each) {
        *number = n->value;
        return 0;
    }
    if (n->items != NULL) {
        return convert(n, PyTuple_GetItem(n->items, i), number);
    }
    if (!load_number(n, i, number)) {
        PyErr_Format(PyExc_ValueError, "%s[%zd] is too large", n->name, i);
        return -1;
    }
    return 0;
}

/* ---- Slices ------------------------------------------------------------- */

/* Sets all slices of a new batch. 0, or -1 with an exception set. */
static int
set_slices(PacketBatch *b, const struct numbers *offsets,
           const struct numbers *lengths)
{
    int64_t offset, length;
    Py_ssize_t i;

    for (i = 0; i < offsets->count; i++) {
        if (read_number(offsets, i, &offset) < 0
            || read_number(lengths, i, &length) < 0
            || set_slice(b, i, offset, length) < 0) {
            return -1;
        }
    }
    return 0;
}

PacketBatch *
slice_buffer(const module_state *state, PyObject *buffer, PyObject *offsets,
             PyObject *lengths)
{
    struct numbers starts, sizes;
    PacketBatch *b = NULL;

    if (begin_numbers(&starts, "offsets", offsets) < 0) {
        return NULL;
    }
    if (begin_numbers(&sizes, "lengths", lengths) < 0) {
        end_numbers(&starts);
        return NULL;
    }
    if (!starts.each || (sizes.each && sizes.count != starts.count)) {
        PyErr_Format(PyExc_ValueError,
                     "offsets and lengths must have one item for each packet, "
                     "not %zd and %zd",
                     starts.count, sizes.count);
    }
    else {
        b = make_slices(state, buffer, starts.count);
    }
    if (b != NULL && set_slices(b, &starts, &sizes) < 0) {
        Py_CLEAR(b);
    }
    end_numbers(&sizes);
    end_numbers(&starts);
    return b;
}
