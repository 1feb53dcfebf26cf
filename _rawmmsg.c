/* rawmmsg._rawmmsg: batched packet I/O on AF_PACKET sockets.

   In Python pseudo-code:

       class PacketBatch:               # in _rawmmsg_batch.c
           "Memory for the packets of one system call."

       class RawSocket:
           "A descriptor, what it collects with each packet, and who uses it."

       class Statistics:                # a struct sequence
           "The counts of a RawSocket."

       def _check_filter(program): ...  # for rawmmsg.bpf
       def _run_filter(program, packet, ...): ...
       def _drop_capabilities(): ...    # for rawmmsg record
*/

#include "_rawmmsg.h"
#include "_rawmmsg_docstrings.h"
#include "_rawmmsg_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <string.h>

#include <arpa/inet.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_LOCK_FILTER
#define SO_LOCK_FILTER 44
#endif
#ifndef SO_ATTACH_BPF
#define SO_ATTACH_BPF 50
#endif
#ifndef PACKET_VNET_HDR
#define PACKET_VNET_HDR 15
#endif
#ifndef PACKET_FANOUT
#define PACKET_FANOUT 18
#endif
#ifndef PACKET_QDISC_BYPASS
#define PACKET_QDISC_BYPASS 20
#endif
#ifndef PACKET_FANOUT_DATA
#define PACKET_FANOUT_DATA 22
#endif
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#ifndef PACKET_VNET_HDR_SZ
#define PACKET_VNET_HDR_SZ 24
#endif

/* AddressSanitizer checks what the functions of libc write but not what
   syscall(2) writes, so under it we call libc. (Not under ThreadSanitizer: it
   would take a receive for a write to msg_iov itself.) */
#if defined(__SANITIZE_ADDRESS__)
#define LIBC_CALLS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LIBC_CALLS 1
#endif
#endif

/* ---- What differs between Pythons --------------------------------------- */

#if PY_VERSION_HEX < 0x030c0000
static PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static void
PyErr_SetRaisedException(PyObject *exception)
{
    PyErr_Restore(Py_XNewRef((PyObject *)Py_TYPE(exception)), exception,
                  PyException_GetTraceback(exception));
}
#endif

/* The Limited API does not have it. */
#ifndef PYTHREAD_INVALID_THREAD_ID
#define PYTHREAD_INVALID_THREAD_ID ((unsigned long)-1)
#endif

/* ---- Constants ---------------------------------------------------------- */

#define DEFAULT_RCVBUF (8 << 20)

/* More packets than any queue holds. After so many, drain() gives up: the
   socket has been shut down for reading, and then every read succeeds. */
#define MAX_QUEUED (1 << 20)

/* BPF_MAXINSNS of the kernel. A larger count might not fit into
   sock_fprog.len, which has 16 bits. */
#define MAX_INSTRUCTIONS 4096

/* PACKET_FANOUT_FLAG_IGNORE_OUTGOING, a flag in the upper half of the value of
   PACKET_FANOUT. */
#define FANOUT_IGNORE_OUTGOING 0x4000

/* The longest wait without a check whether the interface still exists. */
#define LINK_CHECK_NS NS_PER_S
/* The pauses of sendmmsg_all() after ENOBUFS, and how long it tries without
   any progress. */
#define FIRST_PAUSE_NS INT64_C(50000)
#define LAST_PAUSE_NS INT64_C(10000000)
#define FULL_LIMIT_NS NS_PER_S

/* ---- Forks -------------------------------------------------------------- */

struct forks forks;

/* Runs in a forked child, before anything else does. */
static void
count_fork(void)
{
    atomic_store_explicit(&forks.thread, PyThread_get_thread_ident(),
                          memory_order_relaxed);
    atomic_fetch_add_explicit(&forks.count, 1, memory_order_relaxed);
}

/* Registers count_fork() once. 0, or -1 with MemoryError set. */
static int
begin_counting_forks(void)
{
    if (!atomic_exchange(&forks.counted, true)
        && pthread_atfork(NULL, NULL, count_fork) != 0) {
        atomic_store(&forks.counted, false);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* ---- RawSocket: state --------------------------------------------------- */

/* RawSocket.state. From the lowest bit on: the number of calls in progress;
   whether a thread is moving the socket into this process; whether close() or
   detach() has been called; and the process for which the rest is valid. */
#define SOCKET_CLOSED (UINT64_C(1) << 31)
#define SOCKET_MOVING (UINT64_C(1) << 30)
#define SOCKET_CALLS (SOCKET_MOVING - 1)
#define SOCKET_PROCESS 32

/* Returns "CALL: REASON" as a new str, or NULL with an exception set. */
static PyObject *
describe(const char *call, const char *reason)
{
    return PyUnicode_FromFormat("%s: %s", call, reason);
}

/* Returns an OSError, or the subclass that belongs to `error`, with `text` and
   with the interface as its filename. Steals the reference to `text`. NULL
   with an exception set, also if `text` is NULL. */
static PyObject *
make_os_error(int error, PyObject *text, PyObject *interface)
{
    PyObject *exception;

    if (text == NULL) {
        return NULL;
    }
    if (interface == NULL || interface == Py_None) {
        exception = PyObject_CallFunction(PyExc_OSError, "iO", error, text);
    }
    else {
        exception = PyObject_CallFunction(PyExc_OSError, "iOO", error, text,
                                          interface);
    }
    Py_DECREF(text);
    return exception;
}

PyObject *
get_attribute(PyObject *object, const char *name)
{
    PyObject *interned = PyUnicode_InternFromString(name), *found = NULL;

    if (interned != NULL) {
        found = PyObject_GetAttr(object, interned);
        Py_DECREF(interned);
    }
    return found;
}

/* Adds a note to an exception. 0, or -1 with another exception set. */
static int
add_note(PyObject *exception, const char *note)
{
    PyObject *method = get_attribute(exception, "add_note"), *result = NULL;

    if (method != NULL) {
        result = PyObject_CallFunction(method, "s", note);
        Py_DECREF(method);
    }
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Raises the result of make_os_error(). Always returns -1. */
static int
raise_made(PyObject *exception)
{
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return -1;
}

int
raise_os_error(int error, const char *call, PyObject *interface)
{
    return raise_made(
        make_os_error(error, describe(call, strerror(error)), interface));
}

/* Raises the OSError for ioctl(SIOCGIFINDEX). Always returns -1. */
static int
raise_no_interface(int error, PyObject *interface)
{
    const char *call = "ioctl(SIOCGIFINDEX)";

    if (error != ENODEV) {
        return raise_os_error(error, call, interface);
    }
    return raise_made(make_os_error(
        error,
        PyUnicode_FromFormat("%s: %s (remedy: see ip link; rawmmsg doctor "
                             "IFACE also looks in other namespaces)",
                             call, strerror(error)),
        interface));
}

static bool
is_closed(RawSocket *s)
{
    return atomic_load_explicit(&s->state, memory_order_acquire)
           & SOCKET_CLOSED;
}

/* Returns the present name of the interface, which may have been renamed, as a
   new reference; None for all interfaces. If the interface has been deleted or
   the socket is closed, returns the last known name. NULL with an exception
   set. The caller has entered a call, or knows that the socket is closed. */
static PyObject *
interface_name(RawSocket *s)
{
    struct ifreq request = {.ifr_ifindex = s->ifindex};

    if (s->ifindex > 0 && !is_closed(s)
        && ioctl(s->fd, SIOCGIFNAME, &request) == 0) {
        return PyUnicode_DecodeFSDefault(request.ifr_name);
    }
    return Py_NewRef(s->interface != NULL ? s->interface : Py_None);
}

/* Raises an OSError with `text` and the name of the interface. Steals the
   reference to `text`. Always returns -1. The caller has entered a call, or
   knows that the socket is closed. */
static int
raise_text(RawSocket *s, int error, PyObject *text)
{
    PyObject *interface = text == NULL ? NULL : interface_name(s);

    if (interface == NULL) {
        Py_XDECREF(text);
        return -1;
    }
    raise_made(make_os_error(error, text, interface));
    Py_DECREF(interface);
    return -1;
}

/* The same, with the name of the system call and the text for `error`. */
static int
raise_error(RawSocket *s, int error, const char *call)
{
    return raise_text(s, error, describe(call, strerror(error)));
}

static int
raise_closed(RawSocket *s, const char *call)
{
    return raise_text(s, EBADF, describe(call, "the socket was closed"));
}

/* Raises ENETDOWN. `or_else` names a second remedy. Always returns -1. */
static int
raise_down(RawSocket *s, const char *call, const char *or_else)
{
    PyObject *interface;

    if (s->ifindex == 0) {
        return raise_error(s, ENETDOWN, call);
    }
    interface = interface_name(s);
    if (interface != NULL) {
        raise_text(s, ENETDOWN,
                   PyUnicode_FromFormat("%s: %s (remedy: ip link set %S up%s)",
                                        call, strerror(ENETDOWN), interface,
                                        or_else));
        Py_DECREF(interface);
    }
    return -1;
}

/* Adds the drops that the kernel has counted since the last time. Reading the
   count resets it (packet(7)). 0, or -1 with errno set. */
static int
collect_drops(RawSocket *s)
{
    struct tpacket_stats statistics;
    socklen_t length = sizeof(statistics);

    if (s->family != AF_PACKET) {
        return 0;
    }
    if (getsockopt(s->fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &length)
        < 0) {
        return -1;
    }
    atomic_fetch_add_explicit(&s->packets_dropped, statistics.tp_drops,
                              memory_order_relaxed);
    return 0;
}

/* Reads the kernel's counts for the last time and closes the descriptors. A
   forked child does not read the counts, because they would be missing in its
   parent. close(2) of a packet socket may wait (net/packet/af_packet.c:
   packet_release() calls synchronize_net()), so it runs without the GIL. */
static void
close_descriptors(RawSocket *s)
{
    Py_BEGIN_ALLOW_THREADS
    if (s->made_in == this_process()) {
        (void)collect_drops(s);
    }
    close(s->fd);
    if (s->wake_fd >= 0) {
        close(s->wake_fd);
    }
    Py_END_ALLOW_THREADS
}

/* Prepares the socket for its first call in a new process.

   A forked child has copies of the object and of the descriptors. Two things
   are wrong with them. The calls that `state` counts, and a change of the
   filter or of the peer that is marked as in progress, may be those of threads
   that the child does not have. And the eventfd is shared with the parent: if
   the child wrote to it, every later call in the parent would end. So the
   child counts from 0, resets the marks, and makes an eventfd of its own. If
   the thread that forked was in a call, that call counts itself again when it
   continues: check_signals(). */
static void
move_to_this_process(RawSocket *s, uint64_t state)
{
    uint64_t moved =
        (uint64_t)this_process() << SOCKET_PROCESS | (state & SOCKET_CLOSED);

    if (!atomic_compare_exchange_strong(&s->state, &state,
                                        moved | SOCKET_MOVING)) {
        return; /* another thread does it */
    }
    if (!(state & SOCKET_CLOSED)) {
        close(s->wake_fd);
        s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    else if (state & SOCKET_CALLS) {
        /* The call that would have closed them is in the parent. */
        close_descriptors(s);
    }
    atomic_store_explicit(&s->filter_busy, false, memory_order_relaxed);
    atomic_store_explicit(&s->peer_busy, false, memory_order_relaxed);
    atomic_store_explicit(&s->state, moved, memory_order_release);
}

/* Returns the state of the socket in this process. */
static uint64_t
state_here(RawSocket *s)
{
    uint64_t state;

    for (;;) {
        state = atomic_load_explicit(&s->state, memory_order_acquire);
        if (state >> SOCKET_PROCESS != this_process()) {
            move_to_this_process(s, state);
        }
        else if (state & SOCKET_MOVING) {
            sched_yield(); /* for as long as eventfd(2) takes */
        }
        else {
            return state;
        }
    }
}

/* Begins a call, during which the descriptors stay open, until leave_call(),
   and sets *process for that. Returns false if the socket is closed. */
static bool
try_enter(RawSocket *s, unsigned *process)
{
    uint64_t state = state_here(s);

    *process = this_process();
    do {
        if (state & SOCKET_CLOSED) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(
        &s->state, &state, state + 1, memory_order_acq_rel,
        memory_order_relaxed));
    return true;
}

/* As try_enter(), but returns 0, or -1 with EBADF raised. */
static int
enter_call(RawSocket *s, unsigned *process, const char *call)
{
    if (try_enter(s, process)) {
        return 0;
    }
    return raise_closed(s, call);
}

/* Ends a call. The last one closes the descriptors if the socket has been
   closed. A call that began in another process is not counted in this one. */
static void
leave_call(RawSocket *s, unsigned process)
{
    uint64_t before;

    if (process != this_process()) {
        return;
    }
    before = atomic_fetch_sub_explicit(&s->state, 1, memory_order_acq_rel);
    if ((before & (SOCKET_CLOSED | SOCKET_CALLS)) == (SOCKET_CLOSED | 1)) {
        close_descriptors(s);
    }
}

/* Closes the socket, while other threads may be in calls on it.

   A close(2) here and now would be wrong. The kernel does not wake a thread
   that waits for a descriptor which another thread closes (close(2)), so that
   thread would wait for ever. And the number of the descriptor would be free:
   if a third thread opens a file or socket, it may get the same number, and
   the call would then read and write that one.

   So close() does not close the descriptors while calls are in progress. It
   marks the socket as closed, so that no call begins any more. Then it makes
   the eventfd readable, which every waiting call polls beside the socket. Each
   call sees the mark, raises EBADF and leaves, and the last one closes both
   descriptors. Meanwhile close() counts as a call itself: otherwise the last
   of the others might close the eventfd before we have written to it.

   What remains: the descriptors stay open until the last call has left, a
   moment after close() has returned. A forked child that could not make an
   eventfd wakes its calls only within LINK_CHECK_NS, see wait_ready(). */
static void
close_socket(RawSocket *s)
{
    static const uint64_t one = 1;
    uint64_t state = state_here(s);
    uint64_t next;

    do {
        if (state & SOCKET_CLOSED) {
            return;
        }
        /* Count as a call if there are others. */
        next = (state + ((state & SOCKET_CALLS) > 0)) | SOCKET_CLOSED;
    } while (!atomic_compare_exchange_weak_explicit(
        &s->state, &state, next, memory_order_acq_rel, memory_order_relaxed));

    if ((state & SOCKET_CALLS) == 0) {
        close_descriptors(s);
        return;
    }
    /* Fails only if the descriptor is -1, because the counter is far from its
       limit. */
    while (write(s->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    leave_call(s, this_process());
}

/* ---- RawSocket: the interface ------------------------------------------- */

/* Returns the index of the interface that the socket is bound to: -1 if the
   interface has been deleted (net/packet/af_packet.c:packet_notifier()). */
static int
bound_ifindex(int fd)
{
    struct sockaddr_ll address = {0};
    socklen_t length = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) {
        return 0;
    }
    return address.sll_ifindex;
}

static bool
interface_is_gone(RawSocket *s)
{
    return s->ifindex > 0 && bound_ifindex(s->fd) == -1;
}

/* Makes an ioctl(2) about the interface with this index. 0, or -1 with errno
   set. */
static int
interface_ioctl(int fd, int ifindex, unsigned long request,
                struct ifreq *answer)
{
    memset(answer, 0, sizeof(*answer));
    answer->ifr_ifindex = ifindex;
    if (ioctl(fd, SIOCGIFNAME, answer) < 0) {
        return -1;
    }
    return ioctl(fd, request, answer);
}

static bool
link_is_up(RawSocket *s)
{
    struct ifreq answer;

    return interface_ioctl(s->fd, s->ifindex, SIOCGIFFLAGS, &answer) == 0
           && (answer.ifr_flags & IFF_UP);
}

/* ---- RawSocket: system calls and waiting -------------------------------- */

/* The system calls themselves, because musl's sendmmsg() calls sendmsg() in a
   loop. All headers are zeroed, so the padding that 64-bit musl has in struct
   msghdr is zero, too, as the kernel requires. */
static int
call_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    flags |= MSG_DONTWAIT;
#ifdef LIBC_CALLS
    return recvmmsg(fd, messages, count, (unsigned)flags, NULL);
#else
    return (int)syscall(SYS_recvmmsg, fd, messages, count, flags, NULL);
#endif
}

static int
call_sendmmsg(int fd, struct mmsghdr *messages, unsigned count)
{
#ifdef LIBC_CALLS
    return sendmmsg(fd, messages, count, MSG_DONTWAIT);
#else
    return (int)syscall(SYS_sendmmsg, fd, messages, count, MSG_DONTWAIT);
#endif
}

/* One call's messages, and how it waits. A local of the call. */
struct transfer {
    struct mmsghdr *messages; /* borrowed */
    unsigned count;
    int flags;           /* of recvmmsg(2), besides MSG_DONTWAIT */
    BatchMemory *memory; /* borrowed; NULL if it does not receive a batch */
    struct arrival *arrival; /* borrowed; for one received packet, or NULL. If
                                both are NULL, the caller parses. */
    bool sending;
    bool numbered;    /* sending one of several packets */
    bool retry_full;  /* try again after ENOBUFS: sendmmsg_all() */
    Py_ssize_t index; /* of the packet in messages[0] when sending */

    unsigned *process;     /* borrowed; set by try_enter() */
    int64_t timeout_ns;    /* RawSocket.timeout_ns when the call began */
    int64_t deadline_ns;   /* 0: it has not waited yet */
    int64_t full_since_ns; /* 0: no ENOBUFS since the last progress */
    int64_t pause_ns;      /* the pause after the next ENOBUFS */
    unsigned full_count;   /* ENOBUFS since the last progress */
    unsigned false_alarms; /* how often in a row poll(2) has reported a packet,
                              or room for one, in vain */
    int doubted;           /* an error that may be the receiver's, or 0 */
};

static const char *
name_of_call(const struct transfer *t)
{
    return t->sending ? "sendmmsg" : "recvmmsg";
}

/* Makes the system call, and parses what was received. Returns the result of
   the system call, with its errno. Runs without the GIL. */
static int
transfer_once(RawSocket *s, struct transfer *t)
{
    int done;

    if (t->sending) {
        return call_sendmmsg(s->fd, t->messages, t->count);
    }
    done = call_recvmmsg(s->fd, t->messages, t->count, t->flags);
    if (done > 0 && t->memory != NULL) {
        parse_messages(s, t->memory, done);
    }
    else if (done > 0 && t->arrival != NULL) {
        parse_message(s, t->messages, t->arrival);
    }
    return done;
}

static int64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* Runs signal handlers. 0, or -1 with an exception set. A handler may fork;
   then the call continues in the child, too, where it is not counted yet. */
static int
check_signals(RawSocket *s, const struct transfer *t)
{
    if (PyErr_CheckSignals() < 0) {
        return -1;
    }
    return *t->process == this_process()
               ? 0
               : enter_call(s, t->process, name_of_call(t));
}

/* Waits for `events` on the socket, or for close(), at most `limit_ns`,
   without limit if that is negative. If `events` is 0, waits for close()
   alone. Returns how many of the two have come, 0 at the limit or after a
   signal, or -1 with an exception set. */
static int
poll_socket(RawSocket *s, const struct transfer *t, short events,
            int64_t limit_ns)
{
    struct pollfd fds[2] = {
        {.fd = events != 0 ? s->fd : -1, .events = events},
        {.fd = s->wake_fd, .events = POLLIN},
    };
    struct timespec limit = {.tv_sec = limit_ns / NS_PER_S,
                             .tv_nsec = limit_ns % NS_PER_S};
    int ready, error;

    Py_BEGIN_ALLOW_THREADS
    ready = ppoll(fds, 2, limit_ns < 0 ? NULL : &limit, NULL);
    error = errno;
    Py_END_ALLOW_THREADS
    if (ready < 0 && error != EINTR) {
        return raise_error(s, error, "ppoll");
    }
    /* In any case: a signal may also have come just before ppoll(2). */
    if (check_signals(s, t) < 0) {
        return -1;
    }
    return ready < 0 ? 0 : ready;
}

/* Room for any size_t with commas. */
#define GROUPED 32

/* Writes a number with commas: "1,514". */
static void
group_digits(char text[GROUPED], size_t number)
{
    char digits[GROUPED];
    int count = PyOS_snprintf(digits, sizeof(digits), "%zu", number), i;

    for (i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0) {
            *text++ = ',';
        }
        *text++ = digits[i];
    }
    *text = '\0';
}

/* The length of the packet that the kernel has refused. */
static size_t
refused_length(const RawSocket *s, const struct transfer *t)
{
    const struct msghdr *header = &t->messages[0].msg_hdr;
    size_t length = 0, i;

    for (i = s->vnet_hdr > 0; i < header->msg_iovlen; i++) {
        length += header->msg_iov[i].iov_len;
    }
    return length;
}

/* Whether the packet that the kernel has refused is a super-frame of UDP. */
static bool
is_udp_super_frame(const RawSocket *s, const struct transfer *t)
{
    const struct iovec *first = t->messages[0].msg_hdr.msg_iov;
    struct offload_header h = {0};

    if (s->vnet_hdr > 0) {
        memcpy(&h, first->iov_base, VNET_HEADER);
    }
    return h.gso_type == GSO_UDP_L4;
}

/* Returns a new str that says why the kernel has refused a packet of this
   length (net/packet/af_packet.c:packet_snd(), include/linux/netdevice.h:
   dev_validate_header()). NULL without an exception if neither its length nor
   its kind is the reason, or NULL with an exception set. */
static PyObject *
explain_refusal(RawSocket *s, const struct transfer *t, int error,
                size_t length)
{
    size_t link_header = s->type == SOCK_RAW ? ETH_HLEN : 0, most;
    PyObject *interface, *text;
    struct ifreq answer;
    char grouped[GROUPED];

    if (s->ifindex == 0 || !is_ethernet(s->link_type)) {
        return NULL;
    }
    if (error == EINVAL && length < link_header) {
        return PyUnicode_FromFormat("shorter than the link header (%d)",
                                    ETH_HLEN);
    }
    if (error == EINVAL && is_udp_super_frame(s, t)) {
        return PyUnicode_FromString("a super-frame of UDP, which needs Linux "
                                    "6.2 and may have 64 segments (128 since "
                                    "Linux 6.9)");
    }
    if (error != EMSGSIZE
        || interface_ioctl(s->fd, s->ifindex, SIOCGIFMTU, &answer) < 0) {
        return NULL;
    }
    most = (size_t)answer.ifr_mtu + link_header;
    interface = length > most ? interface_name(s) : NULL;
    if (interface == NULL) {
        return NULL;
    }
    group_digits(grouped, most);
    text = PyUnicode_FromFormat("the MTU of %S allows %s", interface, grouped);
    Py_DECREF(interface);
    return text;
}

/* Raises an error that says why the kernel has refused the first packet of the
   call. Always returns -1. */
static int
raise_refused(RawSocket *s, const struct transfer *t, int error)
{
    size_t length = refused_length(s, t);
    PyObject *reason = explain_refusal(s, t, error, length);
    char packet[40] = "the packet", bytes[GROUPED];

    if (reason == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (t->numbered) {
        PyOS_snprintf(packet, sizeof(packet), "packet %zd", t->index);
    }
    group_digits(bytes, length);
    if (reason == NULL) {
        return raise_text(s, error,
                          PyUnicode_FromFormat("%s (%s byte%s): %s", packet,
                                               bytes, length == 1 ? "" : "s",
                                               strerror(error)));
    }
    raise_text(s, error,
               PyUnicode_FromFormat("%s: %s byte%s, %S", packet, bytes,
                                    length == 1 ? "" : "s", reason));
    Py_DECREF(reason);
    return -1;
}

/* Returns how many ns the call may still wait, INT64_MAX without a timeout. If
   it must not wait any longer, or not at all, raises the error for that and
   returns -1. */
static int64_t
patience_left(RawSocket *s, struct transfer *t, int64_t now, int error)
{
    if (t->timeout_ns < 0) {
        return INT64_MAX;
    }
    if (t->timeout_ns == 0 && error == EAGAIN) {
        /* This is not a failure, and it is raised often. Finding the name of
           the interface would cost a system call. */
        return raise_os_error(error, name_of_call(t), NULL);
    }
    if (t->timeout_ns == 0) {
        return raise_refused(s, t, error);
    }
    if (t->deadline_ns == 0) {
        t->deadline_ns = now + t->timeout_ns;
    }
    if (t->deadline_ns <= now) {
        PyErr_SetString(PyExc_TimeoutError, "timed out");
        return -1;
    }
    return t->deadline_ns - now;
}

/* Raises the error for a deleted interface. Always returns -1. */
static int
raise_gone(RawSocket *s, struct transfer *t)
{
    atomic_store_explicit(&s->link_doubted, true, memory_order_relaxed);
    return raise_error(s, ENODEV, name_of_call(t));
}

/* Waits until another try may succeed. 0, or -1 with an exception set.

   When the interface is deleted, poll(2) may not return, and a forked child
   may not have an eventfd. So in these two cases we do not wait longer than
   LINK_CHECK_NS at a time.

   A socket can be ready for ever although there is no packet: if nobody reads
   its error queue, or after it has been shut down for reading. This loop would
   then use all of a CPU. So the second time in a row that the socket was ready
   in vain, we pause. The first time may be by chance, because another thread
   has taken the packet. */
static int
wait_ready(RawSocket *s, struct transfer *t)
{
    int64_t left = patience_left(s, t, now_ns(), EAGAIN);
    short events = t->sending ? POLLOUT : POLLIN;
    int64_t limit = INT64_MAX;
    int ready;

    if (left < 0) {
        return -1;
    }
    if (s->ifindex > 0 || s->wake_fd < 0) {
        limit = LINK_CHECK_NS;
    }
    if (t->false_alarms > 1) {
        t->false_alarms = 0;
        events = 0;
        limit = LAST_PAUSE_NS;
    }
    limit = limit < left ? limit : left;
    ready = poll_socket(s, t, events, limit == INT64_MAX ? -1 : limit);
    if (ready == 0 && interface_is_gone(s)) {
        return raise_gone(s, t);
    }
    t->false_alarms += ready > 0;
    return ready < 0 ? -1 : 0;
}

/* Raises the error for ENOBUFS that has lasted too long. Always returns -1.
   The kernel returns ENOBUFS if a queue is full, and also if something drops
   this frame on its way out (net/core/dev.c:dev_queue_xmit()). We cannot know
   which, and only the caller can decide to skip the frame. */
static int
raise_full(RawSocket *s, const struct transfer *t)
{
    char reason[240];

    PyOS_snprintf(reason, sizeof(reason),
                  "packet %zd, tried %u times: the queue is full, or "
                  "something drops this packet on its way out (the MTU of the "
                  "far end, a filter)",
                  t->index, t->full_count);
    if (t->timeout_ns > 0) {
        PyErr_Format(PyExc_TimeoutError, "timed out: %s", reason);
        return -1;
    }
    return raise_error(s, ENOBUFS, reason);
}

/* Pauses after ENOBUFS: the queue of the interface is full, and the kernel
   does not report when it no longer is. 0 to try again, or -1 with an
   exception set. */
static int
back_off(RawSocket *s, struct transfer *t)
{
    int64_t now = now_ns();
    int64_t pause = t->pause_ns;
    int64_t left;

    t->full_count++;
    if (t->full_since_ns == 0) {
        t->full_since_ns = now;
    }
    if (t->timeout_ns < 0 ? now - t->full_since_ns >= FULL_LIMIT_NS
                          : t->deadline_ns > 0 && t->deadline_ns <= now) {
        return raise_full(s, t);
    }
    left = patience_left(s, t, now, ENOBUFS);
    if (left < 0) {
        return -1;
    }
    t->pause_ns = pause * 2 < LAST_PAUSE_NS ? pause * 2 : LAST_PAUSE_NS;
    atomic_fetch_add_explicit(&s->send_retries, 1, memory_order_relaxed);
    return poll_socket(s, t, 0, pause < left ? pause : left) < 0 ? -1 : 0;
}

/* Whether the kernel has refused a packet because it has no address
   (net/packet/af_packet.c:packet_snd(), net/ethernet/eth.c:eth_header()). */
static bool
lacks_address(const RawSocket *s, const struct transfer *t, int error)
{
    return s->family == AF_PACKET && t->messages[0].msg_hdr.msg_namelen == 0
           && ((error == ENXIO && s->ifindex == 0)
               || (error == EINVAL && s->type == SOCK_DGRAM
                   && is_ethernet(s->link_type)));
}

/* Raises the error of a system call. After ENETDOWN or ENXIO, checks whether
   the interface has been deleted. Always returns -1. */
static int
raise_transfer_error(RawSocket *s, struct transfer *t, int error)
{
    if (error == ENETDOWN && s->ifindex > 0) {
        atomic_store_explicit(&s->link_doubted, true, memory_order_relaxed);
    }
    if ((error == ENETDOWN || error == ENXIO) && interface_is_gone(s)) {
        return raise_gone(s, t);
    }
    if (error == ENETDOWN) {
        return raise_down(s, name_of_call(t), "");
    }
    if (t->sending && lacks_address(s, t, error)) {
        return raise_text(
            s, error,
            PyUnicode_FromFormat("%s: a socket %s needs an address for each "
                                 "packet",
                                 name_of_call(t),
                                 s->ifindex == 0 ? "on all interfaces"
                                                 : "of type SOCK_DGRAM"));
    }
    if (t->sending && error != ENXIO && error != ENODEV) {
        return raise_refused(s, t, error);
    }
    return raise_error(s, error, name_of_call(t));
}

/* After EAGAIN: waits and returns 0, or raises and returns -1. */
static int
handle_again(RawSocket *s, struct transfer *t)
{
    if (atomic_load_explicit(&s->link_doubted, memory_order_relaxed)
        && interface_is_gone(s)) {
        return raise_gone(s, t);
    }
    return wait_ready(s, t);
}

/* Counts what one system call has transferred. */
static void
count_transfer(RawSocket *s, const struct transfer *t, int done)
{
    atomic_fetch_add_explicit(t->sending ? &s->packets_sent
                                         : &s->packets_received,
                              (unsigned long long)done, memory_order_relaxed);
    atomic_fetch_add_explicit(t->sending ? &s->batches_sent
                                         : &s->batches_received,
                              1, memory_order_relaxed);
    /* A received packet does not prove that the link is up: it may have been
       queued before. */
    if (atomic_load_explicit(&s->link_doubted, memory_order_relaxed)
        && link_is_up(s)) {
        atomic_store_explicit(&s->link_doubted, false, memory_order_relaxed);
    }
}

/* Keeps an error for the next receive. */
static void
keep_error(RawSocket *s, int error)
{
    if (s->receives) {
        atomic_store_explicit(&s->error_kept, error, memory_order_relaxed);
    }
}

/* Returns and removes the error that was kept for the receiver, or 0. */
static int
take_kept_error(RawSocket *s)
{
    return atomic_load_explicit(&s->error_kept, memory_order_relaxed) == 0
               ? 0
               : atomic_exchange_explicit(&s->error_kept, 0,
                                          memory_order_relaxed);
}

/* Decides whose error a sender has got. Returns whether to try again.

   A socket has one pending error (sk_err), and the next system call on it, of
   whatever kind, returns that error. A sender gets it before the kernel even
   looks at the packet (net/core/sock.c:sock_alloc_send_pskb()). It may be
   about the link, or about a packet that recvmmsg(2) found behind others. If
   the sender raised it, the caller would blame, and perhaps drop, a packet
   without a fault, and the receiver would never learn of the error.

   So a sender tries a second time. An error that the second try does not
   repeat was not about this packet: it is kept for the next receive.

   What remains: if the same thing has happened twice, such as the link going
   down, the second try repeats the error, and the sender raises it. */
static bool
doubt_error(RawSocket *s, struct transfer *t, int error)
{
    int doubted = t->doubted;

    if (!t->sending || error == doubted) {
        return false;
    }
    if (doubted != 0) {
        keep_error(s, doubted);
    }
    t->doubted = error;
    return error != 0;
}

/* After a system call that transferred nothing: waits until another try may
   succeed and returns 0, or raises and returns -1. */
static int
handle_failure(RawSocket *s, struct transfer *t, int error)
{
    bool own = error != EAGAIN && error != EINTR && error != ENOBUFS;

    if (doubt_error(s, t, own ? error : 0)) {
        return 0;
    }
    if (error == EAGAIN) {
        return handle_again(s, t);
    }
    if (error == EINTR) {
        return check_signals(s, t);
    }
    if (error == ENOBUFS && t->retry_full) {
        return back_off(s, t);
    }
    return raise_transfer_error(s, t, error);
}

/* Receives or sends. Tries at once, and waits only if that transferred
   nothing. Returns the number of messages transferred, at least 1, or -1 with
   an exception set. The caller has entered the call. */
static int
run_transfer(RawSocket *s, struct transfer *t)
{
    int done, error;

    for (;;) {
        if (is_closed(s)) {
            return raise_closed(s, name_of_call(t));
        }
        error = t->sending ? 0 : take_kept_error(s);
        if (error != 0) {
            return raise_transfer_error(s, t, error);
        }
        Py_BEGIN_ALLOW_THREADS
        done = transfer_once(s, t);
        error = errno;
        Py_END_ALLOW_THREADS
        if (done > 0) {
            doubt_error(s, t, 0);
            count_transfer(s, t, done);
            return done;
        }
        if (handle_failure(s, t, done == 0 ? EAGAIN : error) < 0) {
            return -1;
        }
    }
}

static struct transfer
begin_transfer(RawSocket *s, bool sending, unsigned *process)
{
    struct transfer t = {
        .sending = sending, .process = process, .pause_ns = FIRST_PAUSE_NS};

    t.timeout_ns = atomic_load_explicit(&s->timeout_ns, memory_order_relaxed);
    return t;
}

/* Converts an int. 0, or -1 with TypeError or OverflowError set. */
static int
parse_index(PyObject *value, Py_ssize_t *number)
{
    *number = PyNumber_AsSsize_t(value, PyExc_OverflowError);
    return *number == -1 && PyErr_Occurred() ? -1 : 0;
}

/* ---- RawSocket: addresses ----------------------------------------------- */

/* Checks that addresses of the socket's family are supported. 0, or -1 with
   ValueError set. */
static int
refuse_family(RawSocket *s)
{
    if (s->family == AF_PACKET || s->family == AF_UNIX || s->family == AF_INET
        || s->family == AF_INET6) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError,
                 "addresses are supported on AF_PACKET, AF_UNIX, AF_INET and "
                 "AF_INET6 sockets, not on family %d",
                 s->family);
    return -1;
}

/* Checks that this socket can be given an address to send to. 0, or -1 with
   ValueError set. On AF_PACKET the interface in an address overrides bind(2)
   (net/packet/af_packet.c:packet_snd()). So a bound socket takes an address
   only if it is of type SOCK_DGRAM, for the protocol and the receiver. */
static int
refuse_addresses(RawSocket *s)
{
    if (refuse_family(s) < 0) {
        return -1;
    }
    if (s->ifindex > 0 && s->type != SOCK_DGRAM) {
        PyErr_SetString(PyExc_ValueError,
                        "the socket is bound to an interface: send without "
                        "an address, or use RawSocket(None)");
        return -1;
    }
    return 0;
}

static int
check_interface(RawSocket *s, int ifindex)
{
    if (s->ifindex > 0 && ifindex != s->ifindex) {
        PyErr_Format(PyExc_ValueError,
                     "the socket is bound to interface %d and does not send "
                     "on %d: use RawSocket(None, type=SOCK_DGRAM)",
                     s->ifindex, ifindex);
        return -1;
    }
    return 0;
}

/* Converts a number of an address. 0, or -1 with TypeError or ValueError
   set. */
static int
parse_number(PyObject *value, const char *what, long long limit,
             long long *number)
{
    int overflow;

    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "the %s must be an int, not %R", what,
                     Py_TYPE(value));
        return -1;
    }
    *number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (*number == -1 && overflow == 0 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow != 0 || *number < 0 || *number > limit) {
        PyErr_Format(PyExc_ValueError, "the %s must be 0 to %lld, not %R",
                     what, limit, value);
        return -1;
    }
    return 0;
}

/* Checks that an address is a tuple of `least` to `most` items. 0, or -1 with
   TypeError set. */
static int
check_tuple(PyObject *address, Py_ssize_t least, Py_ssize_t most,
            const char *form)
{
    if (PyTuple_Check(address) && PyTuple_Size(address) >= least
        && PyTuple_Size(address) <= most) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "the address must be %s, not %R", form,
                 address);
    return -1;
}

/* Copies the name of an interface. 0, or -1 with an exception set if the str
   cannot be such a name. */
static int
copy_name(PyObject *interface, char name[IFNAMSIZ])
{
    PyObject *bytes;
    Py_ssize_t length;

    if (!PyUnicode_FSConverter(interface, &bytes)) {
        return -1;
    }
    length = PyBytes_Size(bytes);
    /* The kernel ignores a colon and what follows it (an alias). */
    if (length < 1 || length >= IFNAMSIZ
        || strchr(PyBytes_AsString(bytes), ':') != NULL) {
        PyErr_Format(PyExc_ValueError,
                     "the interface must be a name of 1 to %d bytes "
                     "without a colon, not %R",
                     IFNAMSIZ - 1, interface);
        Py_DECREF(bytes);
        return -1;
    }
    memcpy(name, PyBytes_AsString(bytes), (size_t)length + 1);
    Py_DECREF(bytes);
    return 0;
}

/* Finds the index of an interface that is given by name or by index. 0, or -1
   with an exception set. Looks a name up in the network namespace of the
   socket. */
static int
parse_interface(RawSocket *s, PyObject *interface, int *ifindex)
{
    struct ifreq request = {0};
    long long number;

    if (PyIndex_Check(interface)) {
        if (parse_number(interface, "interface's index", INT_MAX, &number)
            < 0) {
            return -1;
        }
        if (number == 0) {
            PyErr_SetString(PyExc_ValueError,
                            "0 is not the index of an interface");
            return -1;
        }
        *ifindex = (int)number;
        return 0;
    }
    if (!PyUnicode_Check(interface)) {
        PyErr_Format(PyExc_TypeError,
                     "the interface must be a name or an index, not %R",
                     Py_TYPE(interface));
        return -1;
    }
    if (copy_name(interface, request.ifr_name) < 0) {
        return -1;
    }
    if (ioctl(s->fd, SIOCGIFINDEX, &request) < 0) {
        return raise_no_interface(errno, interface);
    }
    *ifindex = request.ifr_ifindex;
    return 0;
}

static int
parse_hardware(PyObject *value, struct link_name *n)
{
    Py_buffer view;
    int result = -1;

    if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (view.len > MAX_HARDWARE) {
        PyErr_Format(PyExc_ValueError,
                     "the hardware address must have at most %d bytes, not "
                     "%zd",
                     MAX_HARDWARE, view.len);
    }
    else {
        n->ll.sll_halen = (unsigned char)view.len;
        memcpy(hardware_of(n), view.buf, (size_t)view.len);
        result = 0;
    }
    PyBuffer_Release(&view);
    return result;
}

/* The length of a name for the kernel: it must include the hardware
   address. */
static socklen_t
link_name_length(const struct link_name *n)
{
    size_t length = offsetof(struct sockaddr_ll, sll_addr) + n->ll.sll_halen;

    return (socklen_t)(length > sizeof(n->ll) ? length : sizeof(n->ll));
}

static int
parse_link_address(RawSocket *s, PyObject *address, struct link_name *n)
{
    long long protocol, packet_type = 0, link_type = 0;
    Py_ssize_t size;

    if (check_tuple(address, 2, 5,
                    "(interface, protocol[, packet type[, link type[, "
                    "hardware address]]])")
        < 0) {
        return -1;
    }
    size = PyTuple_Size(address);
    if (parse_number(PyTuple_GetItem(address, 1), "protocol", 0xffff,
                     &protocol)
            < 0
        || (size > 2
            && parse_number(PyTuple_GetItem(address, 2), "packet type", 0xff,
                            &packet_type)
                   < 0)
        || (size > 3
            && parse_number(PyTuple_GetItem(address, 3), "link type", 0xffff,
                            &link_type)
                   < 0)
        || (size > 4 && parse_hardware(PyTuple_GetItem(address, 4), n) < 0)
        || parse_interface(s, PyTuple_GetItem(address, 0), &n->ll.sll_ifindex)
               < 0) {
        return -1;
    }
    n->ll.sll_family = AF_PACKET;
    n->ll.sll_protocol = htons((uint16_t)protocol);
    n->ll.sll_pkttype = (unsigned char)packet_type;
    n->ll.sll_hatype = (unsigned short)link_type;
    return check_interface(s, n->ll.sll_ifindex);
}

static int
parse_unix_address(PyObject *address, struct name *n)
{
    PyObject *path;
    Py_ssize_t size;
    const char *bytes;
    int result = -1;

    if (!PyUnicode_Check(address) && !PyBytes_Check(address)) {
        PyErr_Format(PyExc_TypeError,
                     "the address must be a path or an abstract name, str or "
                     "bytes, not %R",
                     Py_TYPE(address));
        return -1;
    }
    path = PyUnicode_Check(address) ? PyUnicode_EncodeFSDefault(address)
                                    : Py_NewRef(address);
    if (path == NULL) {
        return -1;
    }
    size = PyBytes_Size(path);
    bytes = PyBytes_AsString(path);
    if (size < 1 || size > (Py_ssize_t)sizeof(n->un.sun_path)) {
        PyErr_Format(PyExc_ValueError,
                     "the path must have 1 to %zu bytes, not %zd",
                     sizeof(n->un.sun_path), size);
    }
    else if (bytes[0] != '\0' && strlen(bytes) < (size_t)size) {
        PyErr_SetString(PyExc_ValueError,
                        "the path contains a null byte, and only an "
                        "abstract name may begin with one");
    }
    else {
        n->un.sun_family = AF_UNIX;
        memcpy(n->un.sun_path, bytes, (size_t)size);
        n->length = (socklen_t)(PATH_OFFSET + (size_t)size);
        /* The kernel adds the NUL behind it (unix_mkname_bsd()). */
        result = 0;
    }
    Py_DECREF(path);
    return result;
}

/* Converts a numeric host. 0, or -1 with an exception set. */
static int
parse_host(int family, PyObject *host, void *result)
{
    PyObject *text;
    int done = 0;

    if (!PyUnicode_Check(host)) {
        PyErr_Format(PyExc_TypeError, "the host must be a str, not %R",
                     Py_TYPE(host));
        return -1;
    }
    /* This does not run code of a subclass, and does not fail for characters
       that cannot be in an address. */
    text = PyUnicode_AsEncodedString(host, "ascii", "backslashreplace");
    if (text == NULL) {
        return -1;
    }
    if (strlen(PyBytes_AsString(text)) == (size_t)PyBytes_Size(text)) {
        done = inet_pton(family, PyBytes_AsString(text), result);
    }
    Py_DECREF(text);
    if (done != 1) {
        PyErr_Format(PyExc_ValueError,
                     "%R is not a numeric IPv%c address (host names are "
                     "not looked up: use socket.getaddrinfo())",
                     host, family == AF_INET ? '4' : '6');
        return -1;
    }
    return 0;
}

static int
parse_inet_address(PyObject *address, struct name *n)
{
    long long port;

    if (check_tuple(address, 2, 2, "(host, port)") < 0
        || parse_host(AF_INET, PyTuple_GetItem(address, 0), &n->in.sin_addr)
               < 0
        || parse_number(PyTuple_GetItem(address, 1), "port", 0xffff, &port)
               < 0) {
        return -1;
    }
    n->in.sin_family = AF_INET;
    n->in.sin_port = htons((uint16_t)port);
    n->length = sizeof(n->in);
    return 0;
}

static int
parse_inet6_address(PyObject *address, struct name *n)
{
    long long port, flow = 0, scope = 0;
    Py_ssize_t size;

    if (check_tuple(address, 2, 4, "(host, port[, flowinfo[, scope_id]])")
        < 0) {
        return -1;
    }
    size = PyTuple_Size(address);
    if (parse_host(AF_INET6, PyTuple_GetItem(address, 0), &n->in6.sin6_addr)
            < 0
        || parse_number(PyTuple_GetItem(address, 1), "port", 0xffff, &port) < 0
        || (size > 2
            && parse_number(PyTuple_GetItem(address, 2), "flowinfo", 0xfffff,
                            &flow)
                   < 0)
        || (size > 3
            && parse_number(PyTuple_GetItem(address, 3), "scope_id",
                            UINT32_MAX, &scope)
                   < 0)) {
        return -1;
    }
    n->in6.sin6_family = AF_INET6;
    n->in6.sin6_port = htons((uint16_t)port);
    n->in6.sin6_flowinfo = htonl((uint32_t)flow);
    n->in6.sin6_scope_id = (uint32_t)scope;
    n->length = sizeof(n->in6);
    return 0;
}

/* Converts an address of the socket's family to a name. 0, or -1 with an
   exception set. On AF_PACKET the caller has entered a call. */
static int
parse_address(RawSocket *s, PyObject *address, struct name *n)
{
    memset(n, 0, sizeof(*n));
    if (refuse_addresses(s) < 0) {
        return -1;
    }
    switch (s->family) {
    case AF_UNIX:
        return parse_unix_address(address, n);
    case AF_INET:
        return parse_inet_address(address, n);
    case AF_INET6:
        return parse_inet6_address(address, n);
    default:
        if (parse_link_address(s, address, &n->link) < 0) {
            return -1;
        }
        n->length = link_name_length(&n->link);
        return 0;
    }
}

/* Reads the peer, the only expected sender. One thread may set it while others
   read it, and readers must not wait. So there are two copies: a writer fills
   the one that is not in use, then increments `version`, whose lowest bit says
   which copy is in use. A reader tries again if the version has changed
   meanwhile. The words are loaded with acquire and stored with release order:
   if a reader gets a word of the writer after next, it also sees that the
   version has changed. */
static void
load_peer(RawSocket *s, struct name *peer)
{
    uint64_t words[NAME_WORDS];
    unsigned version;
    size_t i;

    do {
        version = atomic_load_explicit(&s->peer_version, memory_order_acquire);
        for (i = 0; i < NAME_WORDS; i++) {
            words[i] = atomic_load_explicit(&s->peer_words[version & 1][i],
                                            memory_order_acquire);
        }
    } while (version
             != atomic_load_explicit(&s->peer_version, memory_order_relaxed));
    memcpy(peer, words, sizeof(*peer));
}

/* Sets the peer. 0, or -1 with OSError set if another thread is setting it. */
static int
store_peer(RawSocket *s, const struct name *peer)
{
    uint64_t words[NAME_WORDS];
    unsigned version;
    size_t i;

    (void)state_here(s); /* resets peer_busy in a forked child */
    if (atomic_exchange_explicit(&s->peer_busy, true, memory_order_acquire)) {
        return raise_os_error(EBUSY, "peer: another thread is setting it too",
                              NULL);
    }
    memcpy(words, peer, sizeof(words));
    version = 1 + atomic_load_explicit(&s->peer_version, memory_order_relaxed);
    for (i = 0; i < NAME_WORDS; i++) {
        atomic_store_explicit(&s->peer_words[version & 1][i], words[i],
                              memory_order_release);
    }
    atomic_store_explicit(&s->peer_version, version, memory_order_release);
    atomic_store_explicit(&s->peer_busy, false, memory_order_release);
    return 0;
}

/* Counts a datagram if another sender than the peer has sent it. */
static void
count_stranger(RawSocket *s, const struct name *sender)
{
    struct name peer;

    load_peer(s, &peer);
    if (peer.length > 0 && !is_same_name(sender, &peer)) {
        atomic_fetch_add_explicit(&s->strangers, 1, memory_order_relaxed);
    }
}

/* Returns the address for the name of a sender, or NULL with an exception
   set. */
static PyObject *
address_of(RawSocket *s, struct name *n)
{
    struct ifreq request = {0};
    unsigned process;

    if (s->family != AF_PACKET) {
        return make_address(n);
    }
    /* As in the socket module, the name is "" if the interface has been
       deleted or the socket is closed. */
    request.ifr_ifindex = n->link.ll.sll_ifindex;
    if (try_enter(s, &process)) {
        if (ioctl(s->fd, SIOCGIFNAME, &request) < 0) {
            request.ifr_name[0] = '\0';
        }
        leave_call(s, process);
    }
    return make_link_address(&n->link,
                             PyUnicode_DecodeFSDefault(request.ifr_name));
}

static PyObject *
RawSocket_get_peer(PyObject *self, void *Py_UNUSED(closure))
{
    struct name peer;

    load_peer((RawSocket *)self, &peer);
    return make_address(&peer);
}

static int
RawSocket_set_peer(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    RawSocket *s = (RawSocket *)self;
    struct name peer = {.length = 0};

    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "peer cannot be deleted: set it to None");
        return -1;
    }
    if (!(s->collects & COLLECT_NAMES)) {
        PyErr_SetString(PyExc_ValueError,
                        "peer can be set only on a socket that was "
                        "adopted with addresses=True and is not AF_PACKET");
        return -1;
    }
    if (value != Py_None && parse_address(s, value, &peer) < 0) {
        return -1;
    }
    if (s->family == AF_INET6 && peer.length > 0) {
        /* The name of a sender has no flow label, and has a scope if it needs
           one (net/ipv6/udp.c:udpv6_recvmsg()). */
        peer.in6.sin6_flowinfo = 0;
        if (IN6_IS_ADDR_LINKLOCAL(&peer.in6.sin6_addr)
            && peer.in6.sin6_scope_id == 0) {
            PyErr_SetString(PyExc_ValueError,
                            "a link-local address needs its scope_id");
            return -1;
        }
    }
    return store_peer(s, &peer);
}

static PyObject *
RawSocket_get_strangers(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(
        &((RawSocket *)self)->strangers, memory_order_relaxed));
}

/* ---- RawSocket: receiving ----------------------------------------------- */

/* As enter_call(), for a call that receives. */
static int
enter_receive(RawSocket *s, unsigned *process)
{
    if (!s->receives) {
        return raise_os_error(EOPNOTSUPP,
                              "recvmmsg: a socket with "
                              "protocol=0 only sends",
                              s->interface);
    }
    return enter_call(s, process, "recvmmsg");
}

/* Ends what begin_receive() has begun, and counts packets of other senders
   than the peer. */
static void
finish_receive(RawSocket *s, PacketBatch *b, int done)
{
    unsigned long long strangers;
    struct name peer;

    peer.length = 0;
    if (done > 0 && (s->collects & COLLECT_NAMES)) {
        load_peer(s, &peer);
    }
    strangers = end_receive(b, s, done, peer.length > 0 ? &peer : NULL);
    if (strangers > 0) {
        atomic_fetch_add_explicit(&s->strangers, strangers,
                                  memory_order_relaxed);
    }
}

static PyObject *
RawSocket_recvmmsg_into(PyObject *self, PyObject *argument)
{
    RawSocket *s = (RawSocket *)self;
    PacketBatch *b = (PacketBatch *)argument;
    module_state *state = state_of(Py_TYPE(self));
    struct transfer t;
    int done = -1;
    unsigned process;

    if (state == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(argument, state->batch_type)) {
        return PyErr_Format(PyExc_TypeError,
                            "recvmmsg_into() needs a PacketBatch, not %R",
                            Py_TYPE(argument));
    }
    if (enter_receive(s, &process) < 0) {
        return NULL;
    }
    if (begin_receive(b, s) == 0) {
        t = begin_transfer(s, false, &process);
        t.messages = b->memory->rx;
        t.count = (unsigned)b->memory->capacity;
        t.memory = b->memory;
        done = run_transfer(s, &t);
        finish_receive(s, b, done);
    }
    leave_call(s, process);
    return done < 0 ? NULL : PyLong_FromLong(done);
}

/* Receives one packet into `memory`, and the name of its sender unless `name`
   is NULL. Returns the length of the packet, or -1 with an exception set. */
static Py_ssize_t
receive_one(RawSocket *s, void *memory, size_t size, struct name *name)
{
    _Alignas(struct cmsghdr) char control[CONTROL_SIZE];
    struct name own;
    struct iovec part = {memory, size};
    struct mmsghdr message;
    struct arrival arrival = {0};
    struct transfer t;
    int done;
    unsigned process;

    memset(&message, 0, sizeof(message));
    message.msg_hdr.msg_iov = &part;
    message.msg_hdr.msg_iovlen = 1;
    if (s->collects & COLLECT_VLAN) {
        message.msg_hdr.msg_control = control;
        message.msg_hdr.msg_controllen = sizeof(control);
    }
    if (name == NULL && s->names_needed) {
        name = &own;
    }
    if (name != NULL) {
        message.msg_hdr.msg_name = &name->storage;
        message.msg_hdr.msg_namelen = name_room(s);
    }
    if (enter_receive(s, &process) < 0) {
        return -1;
    }
    t = begin_transfer(s, false, &process);
    t.messages = &message;
    t.count = 1;
    t.arrival = &arrival;
    done = run_transfer(s, &t);
    leave_call(s, process);
    if (done < 0) {
        return -1;
    }
    if (name != NULL) {
        name->length = arrival.name_length;
        if (s->collects & COLLECT_NAMES) {
            count_stranger(s, name);
        }
    }
    return (Py_ssize_t)arrival.length;
}

/* Refuses a call that transfers one packet without an offload header, if the
   socket has vnet_hdr: without its header, a frame may be incomplete.
   `instead` is the call that carries it. 0, or -1 with an exception set. */
static int
refuse_single(RawSocket *s, const char *method, const char *instead)
{
    if (s->vnet_hdr == 0) {
        return 0;
    }
    /* The caller has not entered a call, so raise_text() cannot be used. */
    return raise_made(make_os_error(
        EOPNOTSUPP,
        PyUnicode_FromFormat("%s: it cannot carry the offload header of "
                             "vnet_hdr; use %s",
                             method, instead),
        s->interface));
}

/* Receives one packet, and the name of its sender unless `name` is NULL.
   Returns new bytes, or NULL with an exception set. */
static PyObject *
receive_bytes(RawSocket *s, PyObject *bufsize, const char *method,
              struct name *name)
{
    Py_ssize_t size, length;
    PyObject *packet = NULL;
    char *memory;

    if (parse_index(bufsize, &size) < 0) {
        return NULL;
    }
    if (size < 0) {
        PyErr_Format(PyExc_ValueError, "negative bufsize in %s", method);
        return NULL;
    }
    if (refuse_single(s, method, "recvmmsg_into()") < 0) {
        return NULL;
    }
    /* Not into a bytes object: the Limited API cannot shorten one. */
    memory = PyMem_Malloc((size_t)size);
    if (memory == NULL) {
        return PyErr_NoMemory();
    }
    length = receive_one(s, memory, (size_t)size, name);
    if (length >= 0) {
        packet = PyBytes_FromStringAndSize(memory, length);
    }
    PyMem_Free(memory);
    return packet;
}

static PyObject *
RawSocket_recv(PyObject *self, PyObject *argument)
{
    return receive_bytes((RawSocket *)self, argument, "recv", NULL);
}

static PyObject *
RawSocket_recvfrom(PyObject *self, PyObject *argument)
{
    RawSocket *s = (RawSocket *)self;
    PyObject *packet, *address;
    struct name name;

    if (refuse_family(s) < 0) {
        return NULL;
    }
    packet = receive_bytes(s, argument, "recvfrom", &name);
    if (packet == NULL) {
        return NULL;
    }
    address = address_of(s, &name);
    return Py_BuildValue("NN", packet, address);
}

static PyObject *
RawSocket_recv_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_buffer view;
    Py_ssize_t size = 0, length = -1;

    if (nargs < 1 || nargs > 2) {
        PyErr_Format(PyExc_TypeError,
                     "recv_into() takes 1 or 2 arguments (buffer, nbytes), "
                     "not %zd",
                     nargs);
        return NULL;
    }
    if ((nargs == 2 && parse_index(args[1], &size) < 0)
        || refuse_single((RawSocket *)self, "recv_into", "recvmmsg_into()")
               < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "negative nbytes in recv_into");
    }
    else if (size > view.len) {
        PyErr_SetString(PyExc_ValueError,
                        "nbytes is greater than the length of the buffer");
    }
    else {
        length = receive_one((RawSocket *)self, view.buf,
                             (size_t)(size == 0 ? view.len : size), NULL);
    }
    PyBuffer_Release(&view);
    return length < 0 ? NULL : PyLong_FromSsize_t(length);
}

/* ---- RawSocket: sending ------------------------------------------------- */

/* The destinations of the packets of one sendmmsg(). A local of that call. */
struct destinations {
    struct mmsghdr *messages; /* owned: copies of those of a batch, or NULL */
    struct link_name *links;  /* owned: on AF_PACKET, one for each packet */
    struct name name;         /* on other families, one for all packets */
};

static void
free_destinations(struct destinations *d)
{
    PyMem_Free(d->messages);
    PyMem_Free(d->links);
}

void
note_index(const char *what, Py_ssize_t i)
{
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *type = (PyObject *)Py_TYPE(exception);

    if (type == PyExc_ValueError || type == PyExc_TypeError
        || type == PyExc_BufferError) {
        PyErr_Format(type, "%s %zd: %S", what, i, exception);
        Py_DECREF(exception);
    }
    else {
        PyErr_SetRaisedException(exception);
    }
}

/* Sets as destinations the addresses that the packets of the batch, from
   `start` on, came from. 0, or -1 with ValueError set. */
static int
name_by_columns(RawSocket *s, const struct outgoing *out, Py_ssize_t start,
                struct link_name *links)
{
    unsigned collected =
        atomic_load_explicit(&out->batch->collected, memory_order_relaxed);
    Py_ssize_t i;

    if (!(collected & COLLECT_ADDRESSES)) {
        PyErr_SetString(PyExc_ValueError,
                        "the batch holds no addresses: receive it on a packet "
                        "socket with addresses=True");
        return -1;
    }
    for (i = 0; i < out->count; i++) {
        links[i] = out->batch->memory->addresses[start + i];
        if (check_interface(s, links[i].ll.sll_ifindex) < 0) {
            note_index("packet", start + i);
            return -1;
        }
        if (links[i].ll.sll_halen > MAX_HARDWARE) {
            return raise_bad_frame(start + i,
                                   "its hardware address is too long");
        }
        if (s->type == SOCK_RAW) {
            /* With 0, the kernel reads the protocol from the frame, where a
               restored tag has changed it. */
            links[i].ll.sll_protocol = 0;
        }
    }
    return 0;
}

/* Takes the destinations from a sequence, which must have one address for each
   of `total` packets: those of `count` packets from `start` on. 0, or -1 with
   an exception set. */
static int
name_by_sequence(RawSocket *s, PyObject *addresses, Py_ssize_t start,
                 Py_ssize_t total, Py_ssize_t count, struct link_name *links)
{
    PyObject *address, *last = NULL;
    struct name name;
    Py_ssize_t size, i;
    int result = 0;

    if (PyUnicode_Check(addresses) || !PySequence_Check(addresses)) {
        PyErr_Format(PyExc_TypeError,
                     "addresses must be a sequence of addresses, or True for "
                     "those of a PacketBatch, not %R",
                     Py_TYPE(addresses));
        return -1;
    }
    size = PySequence_Size(addresses);
    if (size < 0) {
        return -1;
    }
    if (size != total) {
        PyErr_Format(PyExc_ValueError,
                     "addresses must have one address for each of %zd "
                     "packets, not %zd",
                     total, size);
        return -1;
    }
    for (i = 0; result == 0 && i < count; i++) {
        address = PySequence_GetItem(addresses, start + i);
        if (address == NULL) {
            result = -1;
            break;
        }
        /* Often the same object follows: look its interface up once. */
        if (address != last) {
            result = parse_address(s, address, &name);
        }
        if (result < 0) {
            note_index("address", start + i);
        }
        else {
            links[i] = name.link;
        }
        Py_XDECREF(last);
        last = address;
    }
    Py_XDECREF(last);
    return result;
}

/* Adds destinations to the prepared messages; they are valid until
   free_destinations(). 0, or -1 with an exception set. The messages of a batch
   are copied, so that the batch keeps no destinations. The caller has entered
   a call. */
static int
address_outgoing(RawSocket *s, struct outgoing *out, PyObject *addresses,
                 Py_ssize_t start, Py_ssize_t total, struct destinations *d)
{
    size_t count = (size_t)out->count, i;

    if (refuse_addresses(s) < 0) {
        return -1;
    }
    if (s->family == AF_PACKET) {
        d->links = PyMem_Calloc(count, sizeof(*d->links));
        if (d->links == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        if ((addresses == Py_True && out->batch != NULL
                 ? name_by_columns(s, out, start, d->links)
                 : name_by_sequence(s, addresses, start, total, out->count,
                                    d->links))
            < 0) {
            return -1;
        }
    }
    else if (parse_address(s, addresses, &d->name) < 0) {
        return -1;
    }
    if (out->batch != NULL) {
        d->messages = PyMem_Calloc(count, sizeof(*d->messages));
        if (d->messages == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(d->messages, out->messages, count * sizeof(*d->messages));
        out->messages = d->messages;
    }
    for (i = 0; i < count; i++) {
        struct msghdr *header = &out->messages[i].msg_hdr;

        header->msg_name =
            d->links != NULL ? (void *)&d->links[i] : (void *)&d->name;
        header->msg_namelen =
            d->links != NULL ? link_name_length(&d->links[i]) : d->name.length;
    }
    return 0;
}

/* The packets that sendmmsg() sends: those from `start` on, and if `stops`,
   only those before `stop`. */
struct range {
    Py_ssize_t start;
    Py_ssize_t stop;
    bool stops;
};

/* Parses the arguments of sendmmsg() after the packets; *addresses is NULL for
   None. PyArg_ParseTupleAndKeywords() would take a tenth of the time of a call
   with a small batch. 0, or -1 with an exception set. */
static int
parse_sendmmsg(PyObject *const *args, Py_ssize_t nargs, PyObject *names,
               struct range *range, PyObject **addresses)
{
    static const char *const keywords[] = {"start", "stop", "addresses"};
    PyObject *given[] = {NULL, NULL, NULL}, *name;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names), i;
    size_t k;

    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError,
                     "sendmmsg() takes 1 to 3 arguments by position (packets, "
                     "start, stop), not %zd",
                     nargs);
        return -1;
    }
    for (i = 1; i < nargs; i++) {
        given[i - 1] = args[i];
    }
    for (i = 0; i < named; i++) {
        name = PyTuple_GetItem(names, i);
        k = 0;
        while (k < Py_ARRAY_LENGTH(keywords)
               && PyUnicode_CompareWithASCIIString(name, keywords[k]) != 0) {
            k++;
        }
        if (k == Py_ARRAY_LENGTH(keywords) || given[k] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "sendmmsg() got an unknown or repeated argument %R",
                         name);
            return -1;
        }
        given[k] = args[nargs + i];
    }
    *addresses = given[2] == Py_None ? NULL : given[2];
    range->start = 0;
    range->stops = given[1] != NULL && given[1] != Py_None;
    if (given[0] != NULL && parse_index(given[0], &range->start) < 0) {
        return -1;
    }
    return range->stops ? parse_index(given[1], &range->stop) : 0;
}

/* Sets `stop` if it was not given, and checks that the range is within the
   packets. 0, or -1 with ValueError set. */
static int
check_range(struct range *range, Py_ssize_t total)
{
    if (!range->stops) {
        range->stop = total;
    }
    if (range->start < 0 || range->start > total) {
        PyErr_Format(PyExc_ValueError, "start must be 0 to %zd, not %zd",
                     total, range->start);
        return -1;
    }
    if (range->stop < range->start || range->stop > total) {
        PyErr_Format(PyExc_ValueError,
                     "stop must be %zd (start) to %zd, not %zd", range->start,
                     total, range->stop);
        return -1;
    }
    return 0;
}

static PyObject *
RawSocket_sendmmsg(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *names)
{
    RawSocket *s = (RawSocket *)self;
    module_state *state = state_of(Py_TYPE(self));
    struct destinations to;
    struct range range;
    PyObject *addresses;
    struct outgoing out;
    struct transfer t;
    Py_ssize_t total;
    int done = -1;
    unsigned process;

    if (state == NULL
        || parse_sendmmsg(args, nargs, names, &range, &addresses) < 0) {
        return NULL;
    }
    to.messages = NULL;
    to.links = NULL;
    total = begin_outgoing(&out, s->vnet_hdr, state, args[0]);
    if (total < 0) {
        return NULL;
    }
    if (check_range(&range, total) == 0
        && prepare_outgoing(&out, args[0], range.start, range.stop) == 0
        && enter_call(s, &process, "sendmmsg") == 0) {
        done = addresses == NULL ? 0
                                 : address_outgoing(s, &out, addresses,
                                                    range.start, total, &to);
        if (done == 0 && out.count > 0) {
            t = begin_transfer(s, true, &process);
            t.messages = out.messages;
            t.count = (unsigned)out.count;
            t.numbered = true;
            t.index = range.start;
            done = run_transfer(s, &t);
        }
        leave_call(s, process);
    }
    if (addresses != NULL) {
        free_destinations(&to);
    }
    end_outgoing(&out);
    return done < 0 ? NULL : PyLong_FromLong(done);
}

/* Between two system calls of sendmmsg_all(), runs signal handlers and checks
   the timeout, as socket.sendall() does. 0, or -1 with an exception set. */
static int
keep_sending(RawSocket *s, struct transfer *t)
{
    if (check_signals(s, t) < 0) {
        return -1;
    }
    return t->timeout_ns > 0 && patience_left(s, t, now_ns(), EAGAIN) < 0 ? -1
                                                                          : 0;
}

/* Sends all prepared messages, with several system calls if one does not take
   all, and adds their number to *sent. 0, or -1 with an exception set. */
static int
send_prepared(RawSocket *s, struct transfer *t, const struct outgoing *out,
              Py_ssize_t *sent)
{
    Py_ssize_t i = 0;

    while (i < out->count) {
        int done;

        if (*sent > 0 && keep_sending(s, t) < 0) {
            return -1;
        }
        t->messages = out->messages + i;
        t->count = (unsigned)(out->count - i);
        t->index = *sent;
        done = run_transfer(s, t);
        if (done < 0) {
            return -1;
        }
        t->full_since_ns = 0;
        t->full_count = 0;
        t->pause_ns = FIRST_PAUSE_NS;
        t->false_alarms = 0;
        i += done;
        *sent += done;
    }
    return 0;
}

/* Sets the attribute packets_sent of the current exception. */
static void
note_packets_sent(Py_ssize_t sent)
{
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *count = PyLong_FromSsize_t(sent);

    /* An error here must not hide why the call has failed. */
    if (count == NULL
        || PyObject_SetAttrString(exception, "packets_sent", count) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(count);
    PyErr_SetRaisedException(exception);
}

static PyObject *
RawSocket_sendmmsg_all(PyObject *self, PyObject *packets)
{
    RawSocket *s = (RawSocket *)self;
    module_state *state = state_of(Py_TYPE(self));
    struct outgoing out;
    struct transfer t;
    Py_ssize_t sent = 0, total;
    int result = -1;
    unsigned process;

    if (state == NULL || enter_call(s, &process, "sendmmsg") < 0) {
        note_packets_sent(0);
        return NULL;
    }
    total = begin_outgoing(&out, s->vnet_hdr, state, packets);
    if (total >= 0) {
        t = begin_transfer(s, true, &process);
        t.retry_full = t.numbered = true;
        if (t.timeout_ns > 0) {
            t.deadline_ns = now_ns() + t.timeout_ns;
        }
        result = 0;
        while (result == 0 && sent < total) {
            result = prepare_outgoing(&out, packets, sent, total);
            if (result == 0) {
                result = send_prepared(s, &t, &out, &sent);
            }
        }
        end_outgoing(&out);
    }
    leave_call(s, process);
    if (result < 0) {
        note_packets_sent(sent);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Sends one packet, to `address` unless that is NULL. Returns its length, or
   NULL with an exception set. */
static PyObject *
send_one(RawSocket *s, PyObject *data, PyObject *address, const char *method)
{
    struct mmsghdr message;
    struct name name;
    struct iovec part;
    struct transfer t;
    Py_buffer view;
    int done = -1;
    unsigned process;

    if (refuse_single(s, method, "sendmmsg()") < 0
        || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    part = (struct iovec){view.buf, (size_t)view.len};
    if (enter_call(s, &process, "sendmmsg") == 0) {
        memset(&message, 0, sizeof(message));
        message.msg_hdr.msg_iov = &part;
        message.msg_hdr.msg_iovlen = 1;
        done = address == NULL ? 0 : parse_address(s, address, &name);
        if (done == 0 && address != NULL) {
            message.msg_hdr.msg_name = &name.storage;
            message.msg_hdr.msg_namelen = name.length;
        }
        if (done == 0) {
            t = begin_transfer(s, true, &process);
            t.messages = &message;
            t.count = 1;
            done = run_transfer(s, &t);
        }
        leave_call(s, process);
    }
    PyBuffer_Release(&view);
    return done < 0 ? NULL : PyLong_FromSsize_t((Py_ssize_t)part.iov_len);
}

static PyObject *
RawSocket_send(PyObject *self, PyObject *data)
{
    return send_one((RawSocket *)self, data, NULL, "send");
}

static PyObject *
RawSocket_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError,
                     "sendto() takes 2 arguments, data and address, not %zd",
                     nargs);
        return NULL;
    }
    return send_one((RawSocket *)self, args[0], args[1], "sendto");
}

/* ---- RawSocket: filters ------------------------------------------------- */

static const char attach_call[] = "setsockopt(SO_ATTACH_FILTER)";

/* Raises the error of a system call that has set an option. Always returns
   -1. */
static int
raise_option_error(RawSocket *s, int level, int name, int error,
                   const char *call)
{
    bool filter = level == SOL_SOCKET
                  && (name == SO_ATTACH_FILTER || name == SO_ATTACH_BPF
                      || name == SO_DETACH_FILTER);

    if (filter && error == EPERM) {
        return raise_text(s, error,
                          describe(call, "lock_filter() has locked the filter;"
                                         " open another socket"));
    }
    if (filter && name == SO_DETACH_FILTER && error == ENOENT) {
        return raise_text(s, error,
                          describe(call, "the socket has no filter"));
    }
    return raise_error(s, error, call);
}

/* Sets a socket option. 0, or -1 with an exception set. Without the GIL,
   because some options wait for the kernel's network lock (rtnl_lock()). */
static int
set_option(RawSocket *s, int level, int name, const void *value,
           socklen_t length, const char *call)
{
    int result, error;

    Py_BEGIN_ALLOW_THREADS
    result = setsockopt(s->fd, level, name, value, length);
    error = errno;
    Py_END_ALLOW_THREADS
    return result < 0 ? raise_option_error(s, level, name, error, call) : 0;
}

static int
set_int_option(RawSocket *s, int level, int name, int value, const char *call)
{
    return set_option(s, level, name, &value, sizeof(value), call);
}

/* Returns the value of a socket option, or -1 with an exception set. The
   value, too, may be -1. */
static int
read_int_option(RawSocket *s, int level, int name, const char *call)
{
    int value = 0;
    socklen_t length = sizeof(value);

    if (getsockopt(s->fd, level, name, &value, &length) < 0) {
        return raise_error(s, errno, call);
    }
    return value;
}

/* A BPF program: a filter, or one that chooses the member of a fanout
   group. */
struct program {
    struct sock_filter *code; /* owned; NULL for eBPF */
    size_t count;             /* of instructions */
    int fd;                   /* borrowed; of an eBPF program, or -1 */
};

static const struct program no_program = {NULL, 0, -1};

static int
attach_program(RawSocket *s, const struct program *p)
{
    struct sock_fprog classic = {(unsigned short)p->count, p->code};

    if (p->code == NULL) {
        return set_int_option(s, SOL_SOCKET, SO_ATTACH_BPF, p->fd,
                              "setsockopt(SO_ATTACH_BPF)");
    }
    return set_option(s, SOL_SOCKET, SO_ATTACH_FILTER, &classic,
                      sizeof(classic), attach_call);
}

/* Begins a change of the filter, which takes several system calls, until
   release_filter(). 0, or -1 with EBUSY raised if another call is changing
   it. */
static int
take_filter(RawSocket *s, const char *call)
{
    if (atomic_exchange_explicit(&s->filter_busy, true,
                                 memory_order_acquire)) {
        return raise_error(s, EBUSY, call);
    }
    return 0;
}

static void
release_filter(RawSocket *s)
{
    atomic_store_explicit(&s->filter_busy, false, memory_order_release);
}

/* Returns a new reference to a function of the package, or NULL with an
   exception set. */
static PyObject *
import_function(const char *module, const char *function)
{
    PyObject *imported = PyImport_ImportModule(module), *found;

    if (imported == NULL) {
        return NULL;
    }
    found = get_attribute(imported, function);
    Py_DECREF(imported);
    return found;
}

/* Compiles a filter expression for the frames of this socket. Returns a new
   reference, or NULL with an exception set. */
static PyObject *
compile_filter(RawSocket *s, PyObject *expression)
{
    const char *reason = NULL;
    PyObject *compile, *args, *kwargs, *program = NULL;

    if (s->family != AF_PACKET) {
        reason = "expressions are for AF_PACKET sockets";
    }
    else if (s->type != SOCK_RAW) {
        reason = "filters of SOCK_DGRAM see packets without their link "
                 "header";
    }
    else if (s->link_type < 0) {
        reason = "a socket on all interfaces has no single link type to "
                 "compile for";
    }
    if (reason != NULL) {
        return PyErr_Format(PyExc_ValueError,
                            "a filter expression cannot be used on this "
                            "socket: %s. Give a compiled program",
                            reason);
    }
    compile = import_function("rawmmsg.bpf", "compile");
    if (compile == NULL) {
        return NULL;
    }
    args = PyTuple_Pack(1, expression);
    kwargs = Py_BuildValue("{si}", "link_type", s->link_type);
    if (args != NULL && kwargs != NULL) {
        program = PyObject_Call(compile, args, kwargs);
    }
    Py_DECREF(compile);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return program;
}

/* Copies the instructions of a classic program: user code can change its
   buffer at any time, but we attach the program twice, and both must be the
   same. 0, or -1 with an exception set. */
static int
copy_instructions(RawSocket *s, PyObject *buffer, struct program *p)
{
    Py_buffer view;

    if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    p->count = (size_t)view.len / sizeof(*p->code);
    if ((size_t)view.len % sizeof(*p->code) != 0) {
        PyErr_Format(PyExc_ValueError,
                     "a filter must be an array of struct sock_filter "
                     "(%zu bytes each), not %zd bytes",
                     sizeof(*p->code), view.len);
    }
    else if (p->count > MAX_INSTRUCTIONS) {
        /* The caller has not entered a call, so raise_error() cannot be
           used. */
        raise_os_error(EINVAL, attach_call, s->interface);
    }
    else {
        p->code = PyMem_Malloc((size_t)view.len);
        if (p->code == NULL) {
            PyErr_NoMemory();
        }
        else {
            memcpy(p->code, view.buf, (size_t)view.len);
        }
    }
    PyBuffer_Release(&view);
    return p->code == NULL ? -1 : 0;
}

/* Copies a program that is not an expression, until free_program(). 0, or -1
   with an exception set. */
static int
copy_program(RawSocket *s, PyObject *source, struct program *p)
{
    *p = no_program;
    if (PyLong_Check(source) && !PyBool_Check(source)) {
        return PyArg_Parse(source, "i", &p->fd) ? 0 : -1;
    }
    return copy_instructions(s, source, p);
}

/* Makes a program from the argument `filter`, until free_program(). 0, or -1
   with an exception set. */
static int
make_program(RawSocket *s, PyObject *filter, struct program *p)
{
    PyObject *compiled;
    int result;

    *p = no_program;
    if (!PyUnicode_Check(filter)) {
        return copy_program(s, filter, p);
    }
    compiled = compile_filter(s, filter);
    if (compiled == NULL) {
        return -1;
    }
    result = copy_instructions(s, compiled, p);
    Py_DECREF(compiled);
    return result;
}

static void
free_program(struct program *p)
{
    PyMem_Free(p->code);
    *p = no_program;
}

/* The filter that a socket had, so that it can be restored. */
struct old_filter {
    struct program program; /* no_program if there was none */
    bool readable;          /* false for eBPF, which cannot be read */
};

/* Reads the filter of the socket. SO_GET_FILTER counts instructions, not bytes
   (net/core/filter.c:sk_get_filter()). 0, or -1 with an exception set. */
static int
read_filter(RawSocket *s, struct old_filter *old)
{
    static const char call[] = "getsockopt(SO_GET_FILTER)";
    socklen_t count = 0;

    *old = (struct old_filter){no_program, true};
    if (getsockopt(s->fd, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0) {
        old->readable = false;
        return errno == EACCES ? 0 : raise_error(s, errno, call);
    }
    if (count == 0) {
        return 0;
    }
    old->program.code = PyMem_Calloc(count, sizeof(*old->program.code));
    if (old->program.code == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (getsockopt(s->fd, SOL_SOCKET, SO_GET_FILTER, old->program.code, &count)
        < 0) {
        raise_error(s, errno, call);
        free_program(&old->program);
        return -1;
    }
    old->program.count = count;
    return 0;
}

/* Restores it, unless it was an eBPF program. Does not raise. */
static void
restore_filter(RawSocket *s, const struct old_filter *old)
{
    const struct sock_fprog classic = {(unsigned short)old->program.count,
                                       old->program.code};
    const int unused = 0;

    if (old->program.code != NULL) {
        (void)setsockopt(s->fd, SOL_SOCKET, SO_ATTACH_FILTER, &classic,
                         sizeof(classic));
    }
    else if (old->readable) {
        (void)setsockopt(s->fd, SOL_SOCKET, SO_DETACH_FILTER, &unused,
                         sizeof(unused));
    }
}

/* Discards all packets in the receive queue. The caller has made sure that no
   more are added, or the loop would not end before MAX_QUEUED.

   The obvious loop, which receives until the first error, stops too early in
   two cases, and packets that should be gone stay in the queue. With vnet_hdr,
   recvmsg(2) fails with EINVAL if there is no room for the header, and also
   for a frame whose offload the header cannot express; it has then removed the
   frame all the same (net/packet/af_packet.c:packet_rcv_vnet()). And on any
   socket it returns a pending error before it looks at the queue.

   So each message has room for a header, and the loop ends at EAGAIN only.
   EINVAL is ignored. Any other error was pending and belongs to the receiver,
   for whom it is kept.

   What remains: if two errors have been pending one after the other, the
   receiver gets the later one. */
static void
drain(RawSocket *s)
{
    struct offload_header header;
    struct iovec part = {&header, sizeof(header)};
    struct mmsghdr messages[64];
    size_t i, taken = 0;
    int done;

    memset(messages, 0, sizeof(messages));
    for (i = 0; i < Py_ARRAY_LENGTH(messages); i++) {
        messages[i].msg_hdr.msg_iov = &part;
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    Py_BEGIN_ALLOW_THREADS
    do {
        done = call_recvmmsg(s->fd, messages, Py_ARRAY_LENGTH(messages), 0);
        if (done < 0 && errno != EAGAIN && errno != EINVAL) {
            keep_error(s, errno);
        }
        taken += done > 0 ? (size_t)done : 1;
    } while ((done >= 0 || errno != EAGAIN) && taken < MAX_QUEUED);
    Py_END_ALLOW_THREADS
}

/* Empties the receive queue and keeps it empty, for a caller that then
   attaches a filter. 0, or -1 with an exception set.

   The kernel applies a filter when it queues a packet, not when the packet is
   read (net/packet/af_packet.c:packet_rcv()). So packets that are in the queue
   when a filter is attached stay there, although the filter would reject them:
   the first reads after attach_filter() would return packets that it promises
   to keep out.

   So we first attach a filter that rejects everything, then discard all
   packets in the queue. When the caller attaches its own filter, the queue has
   been empty since, and packets come in again.

   What remains: a packet that another CPU is just queueing has already passed
   the earlier filter. It can arrive after we found the queue empty, and is
   delivered. And packets that arrive in between are lost, and the kernel does
   not count them. */
static int
quarantine(RawSocket *s)
{
    struct sock_filter reject[] = {{BPF_RET | BPF_K, 0, 0, 0}};

    if (attach_program(s, &(struct program){reject, 1, -1}) < 0) {
        return -1;
    }
    drain(s);
    return 0;
}

/* Replaces the filter of a socket that may be receiving already. 0 with the
   earlier filter in *old, for restore_filter() or free_program(); or -1 with
   an exception set and the earlier filter restored.

   The kernel may refuse the new program: if it is not valid, or larger than
   net.core.optmem_max allows. If we learned that after quarantine(), the
   earlier filter would be gone, and the socket would receive nothing at all.

   So the new program is attached twice. The first time, the earlier filter is
   still there, and stays if the kernel refuses the new one. The second time
   ends the quarantine.

   What remains: the second time can fail too, for lack of memory. Then the
   earlier filter is restored, unless it was an eBPF program, which cannot be
   read: the program that was attached last stays. */
static int
replace_filter(RawSocket *s, const struct program *p, struct old_filter *old)
{
    if (read_filter(s, old) < 0) {
        return -1;
    }
    if (attach_program(s, p) == 0) {
        if (quarantine(s) == 0 && attach_program(s, p) == 0) {
            return 0;
        }
        restore_filter(s, old);
    }
    free_program(&old->program);
    return -1;
}

static PyObject *
RawSocket_attach_filter(PyObject *self, PyObject *filter)
{
    RawSocket *s = (RawSocket *)self;
    struct program p;
    struct old_filter old;
    unsigned process;
    int result = -1;

    if (make_program(s, filter, &p) < 0) {
        return NULL;
    }
    if (enter_call(s, &process, attach_call) == 0) {
        result = take_filter(s, attach_call);
        if (result == 0) {
            result = replace_filter(s, &p, &old);
            if (result == 0) {
                free_program(&old.program);
            }
            release_filter(s);
        }
        leave_call(s, process);
    }
    free_program(&p);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Sets an option that removes or locks the filter. */
static PyObject *
change_filter(PyObject *self, int name, const char *call)
{
    RawSocket *s = (RawSocket *)self;
    unsigned process;
    int result;

    if (enter_call(s, &process, call) < 0) {
        return NULL;
    }
    result = take_filter(s, call);
    if (result == 0) {
        result = set_int_option(s, SOL_SOCKET, name, 1, call);
        release_filter(s);
    }
    leave_call(s, process);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
RawSocket_detach_filter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return change_filter(self, SO_DETACH_FILTER,
                         "setsockopt(SO_DETACH_FILTER)");
}

static PyObject *
RawSocket_lock_filter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return change_filter(self, SO_LOCK_FILTER, "setsockopt(SO_LOCK_FILTER)");
}

/* ---- RawSocket: fanout -------------------------------------------------- */

/* The arguments of set_fanout(), as rawmmsg._options.parse_fanout() has parsed
   them. A local of the call. */
struct fanout {
    long long value;  /* for PACKET_FANOUT; -1: no group */
    PyObject *source; /* borrowed; the program, or None */
    struct program program;
};

/* Calls a function of rawmmsg._options. Returns its result, a new reference,
   or NULL with an exception set. */
static PyObject *
call_options(const char *function, PyObject *args, PyObject *kwargs)
{
    PyObject *parse = import_function("rawmmsg._options", function);
    PyObject *parsed;

    if (parse == NULL) {
        return NULL;
    }
    parsed = PyObject_Call(parse, args, kwargs);
    Py_DECREF(parse);
    return parsed;
}

/* Copies the program, if there is one, until free_program(). 0, or -1 with an
   exception set. */
static int
copy_fanout_program(RawSocket *s, struct fanout *f)
{
    f->program = no_program;
    return f->source == Py_None ? 0 : copy_program(s, f->source, &f->program);
}

/* Checks whether the kernel accepts the program of a fanout group. 0, or -1
   with an exception set. The program can only be set after the socket has
   joined, and a socket cannot leave a group. So we try it before, as the
   filter of another socket: the kernel checks both in the same way
   (net/packet/af_packet.c:fanout_set_data_cbpf()). */
static int
try_fanout_program(RawSocket *s, const struct fanout *f, const char *call)
{
    struct sock_fprog classic = {(unsigned short)f->program.count,
                                 f->program.code};
    int locked = read_int_option(s, SOL_SOCKET, SO_LOCK_FILTER,
                                 "getsockopt(SO_LOCK_FILTER)");
    int fd, result, error;

    if (locked != 0) {
        return locked < 0 ? -1 : raise_error(s, EPERM, call);
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return raise_error(s, errno, "socket");
    }
    result = f->program.code == NULL
                 ? setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &f->program.fd,
                              sizeof(f->program.fd))
                 : setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &classic,
                              sizeof(classic));
    error = errno;
    close(fd);
    return result < 0 ? raise_error(s, error, call) : 0;
}

static int
set_fanout_program(RawSocket *s, const struct fanout *f, const char *call)
{
    struct sock_fprog classic = {(unsigned short)f->program.count,
                                 f->program.code};

    if (f->program.code == NULL) {
        return set_int_option(s, SOL_PACKET, PACKET_FANOUT_DATA, f->program.fd,
                              call);
    }
    return set_option(s, SOL_PACKET, PACKET_FANOUT_DATA, &classic,
                      sizeof(classic), call);
}

static const char fanout_query[] = "getsockopt(PACKET_FANOUT)";

/* Sets PACKET_FANOUT. 0, or -1 with an exception set. */
static int
set_fanout_value(RawSocket *s, uint32_t value)
{
    char call[160] = "setsockopt(PACKET_FANOUT)";
    int result, error;

    Py_BEGIN_ALLOW_THREADS
    result =
        setsockopt(s->fd, SOL_PACKET, PACKET_FANOUT, &value, sizeof(value));
    error = errno;
    Py_END_ALLOW_THREADS
    if (result < 0 && error == EINVAL) {
        PyOS_snprintf(
            call, sizeof(call),
            "setsockopt(PACKET_FANOUT): the members of group %u must "
            "have one interface, protocol, mode and flags",
            (unsigned)(value & 0xffff));
    }
    return result < 0 ? raise_error(s, error, call) : 0;
}

/* Joins a fanout group. Returns its number, or -1 with an exception set.

   The members get their packets from the group, not from a hook of their own.
   So PACKET_IGNORE_OUTGOING of the socket has no effect any more, and is
   passed on as a flag of the group (net/packet/af_packet.c:fanout_add()).

   The packets in the queue stay, although other members may have got some of
   them too. Discarding them would be worse: some may have come after the join,
   and no other member has got those. */
static int
join_fanout(RawSocket *s, const struct fanout *f)
{
    static const char call[] = "setsockopt(PACKET_FANOUT_DATA)";
    bool program = f->source != Py_None;
    int ignore = read_int_option(s, SOL_PACKET, PACKET_IGNORE_OUTGOING,
                                 "getsockopt(PACKET_IGNORE_OUTGOING)");
    int value;

    if (ignore < 0 || (program && try_fanout_program(s, f, call) < 0)) {
        return -1;
    }
    if (set_fanout_value(
            s, (uint32_t)f->value
                   | (ignore ? (uint32_t)FANOUT_IGNORE_OUTGOING << 16 : 0))
        < 0) {
        return -1;
    }
    value = read_int_option(s, SOL_PACKET, PACKET_FANOUT, fanout_query);
    if (value == -1 && PyErr_Occurred()) {
        return -1;
    }
    atomic_store_explicit(&s->fanout_group, value & 0xffff,
                          memory_order_relaxed);
    if (program && set_fanout_program(s, f, call) < 0) {
        return -1;
    }
    return value & 0xffff;
}

static PyObject *
RawSocket_set_fanout(PyObject *self, PyObject *args, PyObject *kwargs)
{
    RawSocket *s = (RawSocket *)self;
    PyObject *parsed = call_options("parse_fanout", args, kwargs);
    struct fanout f = {.program = no_program};
    unsigned process;
    int group = -1;

    if (parsed == NULL) {
        return NULL;
    }
    if (PyArg_ParseTuple(parsed, "LO", &f.value, &f.source)
        && copy_fanout_program(s, &f) == 0
        && enter_call(s, &process, "setsockopt(PACKET_FANOUT)") == 0) {
        group = join_fanout(s, &f);
        leave_call(s, process);
    }
    free_program(&f.program);
    Py_DECREF(parsed);
    return group < 0 ? NULL : PyLong_FromLong(group);
}

/* ---- RawSocket: construction -------------------------------------------- */

/* struct options.timestamps: the numbers that rawmmsg._options uses. */
enum {
    STAMPS_SOFTWARE = 1,
    STAMPS_HARDWARE = 2
};

/* The arguments of the constructor, as rawmmsg._options.parse() has parsed
   them. In flags and sizes, -1 stands for None. The objects are borrowed from
   its result. A local of the constructor. */
struct options {
    PyObject *interface;
    const char *name; /* of the interface, encoded; borrowed */
    int protocol;
    int type;
    PyObject *filter;
    int ignore_outgoing;
    int vlan;
    int addresses;
    int timestamps;
    int vnet_hdr;
    struct fanout fanout;
    PyObject *memberships; /* a tuple of (PACKET_MR_ type, address) */
    int qdisc_bypass;
    int rcvbuf;
    int sndbuf;
    PyObject *netns; /* bytes, or None */
    int allow_down;
    int fileno;

    struct program program; /* owned: `filter`, compiled */
};

/* The task of a thread that makes a socket in another network namespace.
   setns(2) moves the thread that calls it, so the thread ends afterwards. The
   constructor owns this and waits for the end of the thread; until then the
   thread writes the last three fields. */
struct visit {
    const char *path;
    int type;
    int fd;
    int error;
    const char *call;
};

static void *
visit_namespace(void *argument)
{
    struct visit *v = argument;
    int ns;

    v->fd = -1;
    v->call = "open";
    /* O_NONBLOCK, because the path may be that of a FIFO. */
    ns = open(v->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (ns >= 0) {
        v->call = "setns";
        if (setns(ns, CLONE_NEWNET) == 0) {
            v->call = "socket";
            v->fd = socket(AF_PACKET, v->type | SOCK_CLOEXEC, 0);
        }
    }
    v->error = errno;
    if (ns >= 0) {
        close(ns);
    }
    return NULL;
}

/* Runs visit_namespace() in a thread. 0, or -1 with an exception set; whether
   there is a socket is in *v. Waits until the thread has ended: if a process
   forks while a thread ends, its child may have locks that nobody releases. */
static int
socket_in_namespace(struct visit *v)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, visit_namespace, v) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "cannot start a thread");
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    return 0;
}

/* Raises an error that says why no socket was opened. Always returns -1. */
static int
raise_no_socket(int error, const char *call, PyObject *filename)
{
    static const char hint[] =
        "packet sockets need CAP_NET_RAW: run as root, give the capability "
        "to a copy of the interpreter (python3 -m venv --copies; setcap "
        "cap_net_raw+ep), or work in a network namespace of your own "
        "(unshare --user --map-root-user --net)";
    PyObject *exception =
        make_os_error(error, describe(call, strerror(error)), filename);

    if (exception == NULL) {
        return -1;
    }
    if (strcmp(call, "socket") == 0 && (error == EPERM || error == EACCES)
        && add_note(exception, hint) < 0) {
        Py_DECREF(exception);
        return -1;
    }
    return raise_made(exception);
}

/* Opens the socket. 0, or -1 with an exception set. Its protocol is 0 until
   bind(2), so it receives nothing yet. With ETH_P_ALL it would queue the
   packets of all interfaces until then (packet(7)). */
static int
open_socket(RawSocket *s, const struct options *o)
{
    struct visit v = {.type = s->type, .call = "socket"};
    bool elsewhere = o->netns != Py_None;
    PyObject *path;

    if (elsewhere) {
        v.path = PyBytes_AsString(o->netns);
        if (socket_in_namespace(&v) < 0) {
            return -1;
        }
    }
    else {
        v.fd = socket(AF_PACKET, s->type | SOCK_CLOEXEC, 0);
        v.error = errno;
    }
    if (v.fd >= 0) {
        s->fd = v.fd;
        return 0;
    }
    if (!elsewhere) {
        return raise_no_socket(v.error, v.call, s->interface);
    }
    path = PyUnicode_DecodeFSDefault(v.path);
    if (path != NULL) {
        raise_no_socket(v.error, v.call, path);
        Py_DECREF(path);
    }
    return -1;
}

/* Finds the index and link type of the interface. 0, or -1 with an exception
   set. Asks the socket, because if_nametoindex(3) would look in the network
   namespace of the caller. */
static int
look_up_interface(RawSocket *s, const char *name)
{
    struct ifreq request = {0};

    /* The name has at most IFNAMSIZ - 1 bytes. */
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(s->fd, SIOCGIFINDEX, &request) < 0) {
        return raise_no_interface(errno, s->interface);
    }
    s->ifindex = request.ifr_ifindex;
    if (ioctl(s->fd, SIOCGIFHWADDR, &request) < 0) {
        return raise_error(s, errno, "ioctl(SIOCGIFHWADDR)");
    }
    s->link_type = request.ifr_hwaddr.sa_family;
    return 0;
}

/* What the constructor has changed on an adopted socket. If a later step
   fails, the changes are undone, because the socket stays the caller's. (A new
   socket is closed instead.) A local of the constructor. */
struct changes {
    bool wanted; /* false for a new socket */
    struct {
        int level;
        int name;
        int value; /* before the change */
    } options[12];
    size_t option_count;
    struct old_filter filter; /* owned */
    bool filtered;            /* `filter` is to be restored */
    PyObject *memberships;    /* borrowed; as in struct options */
    Py_ssize_t joined;        /* how many of them have been added */
};

static void
note_change(struct changes *c, int level, int name, int value)
{
    c->options[c->option_count].level = level;
    c->options[c->option_count].name = name;
    c->options[c->option_count++].value = value;
}

/* Sets an option and notes its earlier value. 0, or -1 with an exception set
   and nothing changed. */
static int
change_option(RawSocket *s, struct changes *c, int level, int name, int value,
              const char *call)
{
    int old = 0;
    socklen_t length = sizeof(old);

    if (c->wanted && getsockopt(s->fd, level, name, &old, &length) < 0) {
        return raise_error(s, errno, call);
    }
    if (set_int_option(s, level, name, value, call) < 0) {
        return -1;
    }
    if (c->wanted) {
        note_change(c, level, name, old);
    }
    return 0;
}

/* Sets the size of a buffer. Returns 0 if privilege allowed any size, 1 if the
   limit applies (rmem_max, wmem_max), or -1 with errno set. */
static int
set_buffer_size(int fd, int name, int bytes)
{
    int force = name == SO_RCVBUF ? SO_RCVBUFFORCE : SO_SNDBUFFORCE;

    if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)) == 0) {
        return 0;
    }
    return setsockopt(fd, SOL_SOCKET, name, &bytes, sizeof(bytes)) < 0 ? -1
                                                                       : 1;
}

/* Warns if a buffer is smaller than the caller asked for. The kernel reduces
   it to the limit without an error (socket(7), SO_RCVBUF), and packets are
   lost later. 0, or -1 with an exception set. */
static int
warn_capped(RawSocket *s, int name, int bytes)
{
    const char *letter = name == SO_RCVBUF ? "r" : "w";
    int got = read_int_option(s, SOL_SOCKET, name, "getsockopt");

    if (got == -1 && PyErr_Occurred()) {
        return -1;
    }
    got /= 2; /* the kernel doubles the value (socket(7)) */
    return got >= bytes
               ? 0
               : PyErr_WarnFormat(
                     PyExc_RuntimeWarning, 1,
                     "%s=%d: the kernel gave %d bytes, its limit. Raise the "
                     "limit (sysctl -w net.core.%smem_max=%d), or run with "
                     "CAP_NET_ADMIN",
                     name == SO_RCVBUF ? "rcvbuf" : "sndbuf", bytes, got,
                     letter, bytes);
}

/* Sets the size of a buffer, unless `bytes` is negative. If the caller has
   `asked` for it, warns if it is smaller. 0, or -1 with an exception set. */
static int
apply_buffer_size(RawSocket *s, struct changes *c, int name, int bytes,
                  bool asked, const char *call)
{
    int old = 0, result;
    socklen_t length = sizeof(old);

    if (bytes < 0) {
        return 0;
    }
    if (c->wanted && getsockopt(s->fd, SOL_SOCKET, name, &old, &length) < 0) {
        return raise_error(s, errno, call);
    }
    result = set_buffer_size(s->fd, name, bytes);
    if (result < 0) {
        return raise_error(s, errno, call);
    }
    if (c->wanted) {
        note_change(c, SOL_SOCKET, name, old / 2);
    }
    return result == 1 && asked ? warn_capped(s, name, bytes) : 0;
}

static int
apply_buffer_sizes(RawSocket *s, const struct options *o, struct changes *c)
{
    bool asked = o->rcvbuf >= 0;
    int rcvbuf = o->rcvbuf;

    if (!asked && o->fileno < 0 && s->receives) {
        rcvbuf = DEFAULT_RCVBUF;
    }
    if (apply_buffer_size(s, c, SO_RCVBUF, rcvbuf, asked,
                          "setsockopt(SO_RCVBUF)")
        < 0) {
        return -1;
    }
    return apply_buffer_size(s, c, SO_SNDBUF, o->sndbuf, true,
                             "setsockopt(SO_SNDBUF)");
}

/* Whether the interface can stamp packets. The administrator may still have to
   enable that (SIOCSHWTSTAMP), a setting of the machine and not of the
   socket. */
static bool
has_hardware_stamps(RawSocket *s)
{
    struct ethtool_ts_info info = {.cmd = ETHTOOL_GET_TS_INFO};
    struct ifreq request = {.ifr_ifindex = s->ifindex};

    if (ioctl(s->fd, SIOCGIFNAME, &request) < 0) {
        return false;
    }
    request.ifr_data = (void *)&info;
    return ioctl(s->fd, SIOCETHTOOL, &request) == 0
           && (info.so_timestamping & SOF_TIMESTAMPING_RAW_HARDWARE)
           && (info.so_timestamping & SOF_TIMESTAMPING_RX_HARDWARE);
}

/* Asks for time stamps. 0, or -1 with an exception set. Not with
   SO_TIMESTAMPNS: the kernel begins to stamp a moment after the option is set,
   and for packets that came before, that option returns the time at which they
   are read (net/socket.c:__sock_recv_timestamp()). For such packets
   SO_TIMESTAMPING returns no stamp. */
static int
apply_timestamps(RawSocket *s, const struct options *o, struct changes *c)
{
    static const char call[] = "setsockopt(SO_TIMESTAMPING)";
    int flags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;

    if (o->timestamps < STAMPS_SOFTWARE) {
        return 0;
    }
    if (o->timestamps == STAMPS_HARDWARE) {
        if (!has_hardware_stamps(s)) {
            return raise_error(s, EOPNOTSUPP,
                               "the interface has no hardware time stamps");
        }
        flags = SOF_TIMESTAMPING_RX_HARDWARE | SOF_TIMESTAMPING_RAW_HARDWARE;
        s->stamp = 2; /* the raw hardware stamp; 0 is the software stamp */
    }
    s->collects |= COLLECT_TIMES;
    if (c->wanted
        && change_option(s, c, SOL_SOCKET, SO_TIMESTAMPNS, 0,
                         "setsockopt(SO_TIMESTAMPNS)")
               < 0) {
        return -1;
    }
    return change_option(s, c, SOL_SOCKET, SO_TIMESTAMPING, flags, call);
}

/* Sets whether each frame has an offload header. 0, or -1 with an exception
   set. Makes no system call unless that changes, because a SOCK_DGRAM socket
   does not have the option. */
static int
apply_vnet_hdr(RawSocket *s, const struct options *o, struct changes *c)
{
    unsigned size = (unsigned)o->vnet_hdr, old = s->vnet_hdr;
    bool by_size = size == MERGEABLE_HEADER || old == MERGEABLE_HEADER;
    int name = by_size ? PACKET_VNET_HDR_SZ : PACKET_VNET_HDR;

    if (o->vnet_hdr < 0 || size == old) {
        return 0;
    }
    if (s->type != SOCK_RAW) {
        PyErr_SetString(PyExc_ValueError,
                        "vnet_hdr needs SOCK_RAW (packet(7))");
        return -1;
    }
    if (set_int_option(s, SOL_PACKET, name, by_size ? (int)size : size > 0,
                       by_size ? "setsockopt(PACKET_VNET_HDR_SZ)"
                               : "setsockopt(PACKET_VNET_HDR)")
        < 0) {
        return -1;
    }
    if (c->wanted) {
        note_change(c, SOL_PACKET, name, by_size ? (int)old : old > 0);
    }
    s->vnet_hdr = size;
    return 0;
}

/* Sets what is collected with each packet. 0, or -1 with an exception set. */
static int
apply_collection(RawSocket *s, const struct options *o, struct changes *c)
{
    s->collects = COLLECT_ALWAYS;
    if (apply_vnet_hdr(s, o, c) < 0) {
        return -1;
    }
    if (s->vnet_hdr > 0) {
        s->collects |= COLLECT_OFFLOADS;
    }
    if (s->vnet_hdr == MERGEABLE_HEADER) {
        s->collects |= COLLECT_BUFFER_COUNTS;
    }
    if (o->vlan == 1) {
        if (change_option(s, c, SOL_PACKET, PACKET_AUXDATA, 1,
                          "setsockopt(PACKET_AUXDATA)")
            < 0) {
            return -1;
        }
        s->collects |= COLLECT_VLAN | COLLECT_WIRE_LENGTHS;
    }
    if (o->addresses == 1) {
        s->collects |=
            s->family == AF_PACKET ? COLLECT_ADDRESSES : COLLECT_NAMES;
    }
    s->names_needed = (s->collects & (COLLECT_ADDRESSES | COLLECT_NAMES))
                      || ((s->collects & COLLECT_VLAN) && s->link_type < 0);
    return apply_timestamps(s, o, c);
}

static int
apply_packet_options(RawSocket *s, const struct options *o, struct changes *c)
{
    if (o->ignore_outgoing >= 0
        && change_option(s, c, SOL_PACKET, PACKET_IGNORE_OUTGOING,
                         o->ignore_outgoing,
                         "setsockopt(PACKET_IGNORE_OUTGOING)")
               < 0) {
        return -1;
    }
    return o->qdisc_bypass
               ? change_option(s, c, SOL_PACKET, PACKET_QDISC_BYPASS, 1,
                               "setsockopt(PACKET_QDISC_BYPASS)")
               : 0;
}

/* Converts a multicast address. 0, or -1 with an exception set. */
static int
parse_hardware_address(PyObject *address, struct packet_mreq *request)
{
    Py_buffer view;

    if (PyObject_GetBuffer(address, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (view.len < 1 || view.len > (Py_ssize_t)sizeof(request->mr_address)) {
        PyErr_Format(PyExc_ValueError,
                     "a hardware address has 1 to %zu bytes, not %zd",
                     sizeof(request->mr_address), view.len);
        PyBuffer_Release(&view);
        return -1;
    }
    request->mr_alen = (unsigned short)view.len;
    memcpy(request->mr_address, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return 0;
}

/* Converts membership i of struct options. 0, or -1 with an exception set. */
static int
get_membership(RawSocket *s, PyObject *memberships, Py_ssize_t i,
               struct packet_mreq *request)
{
    PyObject *address;
    int type;

    if (!PyArg_ParseTuple(PyTuple_GetItem(memberships, i), "iS", &type,
                          &address)) {
        return -1;
    }
    *request = (struct packet_mreq){.mr_ifindex = s->ifindex,
                                    .mr_type = (unsigned short)type};
    return PyBytes_Size(address) == 0
               ? 0
               : parse_hardware_address(address, request);
}

/* Returns the name of the first option that needs an interface, or NULL. */
static const char *
interface_needed(const struct options *o)
{
    static const char *const names[] = {"multicast", "promisc", "allmulti"};
    PyObject *address;
    int type;

    if (PyTuple_Size(o->memberships) == 0) {
        return o->timestamps == STAMPS_HARDWARE ? "hardware time stamps"
                                                : NULL;
    }
    if (!PyArg_ParseTuple(PyTuple_GetItem(o->memberships, 0), "iS", &type,
                          &address)) {
        return NULL;
    }
    return names[type];
}

static int
apply_memberships(RawSocket *s, const struct options *o, struct changes *c)
{
    Py_ssize_t count = PyTuple_Size(o->memberships);
    struct packet_mreq request;

    c->memberships = o->memberships;
    while (c->joined < count) {
        if (get_membership(s, o->memberships, c->joined, &request) < 0
            || set_option(s, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request,
                          sizeof(request), "setsockopt(PACKET_ADD_MEMBERSHIP)")
                   < 0) {
            return -1;
        }
        c->joined++;
    }
    return 0;
}

/* Undoes the changes, the last one first. Keeps the current exception. */
static void
undo_changes(RawSocket *s, struct changes *c)
{
    PyObject *exception = PyErr_GetRaisedException();
    struct packet_mreq request;

    while (c->joined > 0) {
        if (get_membership(s, c->memberships, --c->joined, &request) < 0) {
            PyErr_Clear();
            continue;
        }
        (void)setsockopt(s->fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &request,
                         sizeof(request));
    }
    if (c->filtered) {
        restore_filter(s, &c->filter);
    }
    while (c->option_count > 0) {
        int level = c->options[--c->option_count].level;
        int name = c->options[c->option_count].name;
        int value = c->options[c->option_count].value;

        if (level == SOL_SOCKET && (name == SO_RCVBUF || name == SO_SNDBUF)) {
            (void)set_buffer_size(s->fd, name, value);
        }
        else {
            (void)setsockopt(s->fd, level, name, &value, sizeof(value));
        }
    }
    PyErr_SetRaisedException(exception);
}

/* Binds the socket; from now on it receives. 0, or -1 with an exception set.
   If the interface is down, bind(2) returns 0 and sets a pending ENETDOWN,
   which we raise. With protocol 0 it does not even do that, so we look
   ourselves. */
static int
bind_socket(RawSocket *s, const struct options *o, int protocol)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons((uint16_t)protocol),
                                  .sll_ifindex = s->ifindex};
    socklen_t length = sizeof(int);
    int result, error, pending = 0;

    Py_BEGIN_ALLOW_THREADS
    result = bind(s->fd, (struct sockaddr *)&address, sizeof(address));
    error = errno;
    Py_END_ALLOW_THREADS
    if (result < 0) {
        return raise_error(s, error, "bind");
    }
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &pending, &length) < 0) {
        return raise_error(s, errno, "getsockopt(SO_ERROR)");
    }
    if (pending == 0 && protocol == 0 && !link_is_up(s)) {
        pending = ENETDOWN;
    }
    if (pending == ENETDOWN && o->allow_down) {
        atomic_store(&s->link_doubted, true);
        return 0;
    }
    if (pending == ENETDOWN) {
        return raise_down(s, "bind", ", or allow_down=True");
    }
    return pending == 0 ? 0 : raise_error(s, pending, "bind");
}

/* Opens the eventfd. 0, or -1 with an exception set. It must be opened before
   the first change that would have to be undone. But it must not be opened
   before an adopted descriptor is known to be open: if that number were free,
   the eventfd might get it. */
static int
open_wake_fd(RawSocket *s)
{
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return s->wake_fd < 0 ? raise_os_error(errno, "eventfd", NULL) : 0;
}

/* Makes the program for filter=, before anything is changed on an adopted
   socket. 0, or -1 with an exception set. */
static int
make_filter(RawSocket *s, struct options *o)
{
    return o->filter == Py_None ? 0 : make_program(s, o->filter, &o->program);
}

/* Binds the socket and joins a fanout group. 0, or -1 with an exception set.
   Between the two, the socket would receive packets that other members receive
   too, so it rejects everything until its own filter is attached. Packets that
   come between the join and that filter are lost, and the kernel does not
   count them. */
static int
bind_member(RawSocket *s, const struct options *o, int protocol)
{
    if (quarantine(s) < 0 || bind_socket(s, o, protocol) < 0
        || join_fanout(s, &o->fanout) < 0) {
        return -1;
    }
    return o->filter != Py_None
               ? attach_program(s, &o->program)
               : set_int_option(s, SOL_SOCKET, SO_DETACH_FILTER, 1,
                                "setsockopt(SO_DETACH_FILTER)");
}

/* Makes a new socket. 0, or -1 with an exception set. bind(2) comes last:
   before it nothing is received, and when packets come, the options, the
   filter and the memberships apply to all of them. */
static int
construct_new(RawSocket *s, struct options *o, struct changes *c)
{
    s->family = AF_PACKET;
    s->type = o->type;
    s->proto = o->protocol;
    s->receives = o->protocol != 0;
    s->interface = o->interface == Py_None ? NULL : Py_NewRef(o->interface);
    if (open_socket(s, o) < 0
        || (s->interface != NULL && look_up_interface(s, o->name) < 0)
        || make_filter(s, o) < 0 || open_wake_fd(s) < 0) {
        return -1;
    }
    o->vlan = o->vlan < 0 ? 1 : o->vlan;
    o->addresses = o->addresses < 0 ? s->interface == NULL : o->addresses;
    if (o->ignore_outgoing < 0 && s->link_type == ARPHRD_LOOPBACK) {
        o->ignore_outgoing = 1;
    }
    if (apply_buffer_sizes(s, o, c) < 0 || apply_collection(s, o, c) < 0
        || apply_packet_options(s, o, c) < 0) {
        return -1;
    }
    if (o->fanout.value < 0 && o->filter != Py_None
        && attach_program(s, &o->program) < 0) {
        return -1;
    }
    if (apply_memberships(s, o, c) < 0) {
        return -1;
    }
    return o->fanout.value < 0 ? bind_socket(s, o, o->protocol)
                               : bind_member(s, o, o->protocol);
}

/* Finds out whether the frames of an adopted socket have offload headers, and
   of which size. Before Linux 6.4 there was only one size. */
static int
inspect_vnet_hdr(RawSocket *s)
{
    int size = read_int_option(s, SOL_PACKET, PACKET_VNET_HDR,
                               "getsockopt(PACKET_VNET_HDR)");
    socklen_t length = sizeof(size);

    if (size <= 0) {
        return size;
    }
    if (getsockopt(s->fd, SOL_PACKET, PACKET_VNET_HDR_SZ, &size, &length)
        < 0) {
        size = VNET_HEADER;
    }
    if (size != (int)VNET_HEADER && size != (int)MERGEABLE_HEADER) {
        PyErr_Format(PyExc_ValueError,
                     "the descriptor has offload headers of %d bytes: "
                     "rawmmsg supports %zu and %zu",
                     size, VNET_HEADER, MERGEABLE_HEADER);
        return -1;
    }
    s->vnet_hdr = (unsigned)size;
    return 0;
}

/* Finds out the fanout group of an adopted socket. The value 0 stands for no
   group, and also for group 0 of mode hash without flags. */
static int
inspect_fanout(RawSocket *s)
{
    int value = read_int_option(s, SOL_PACKET, PACKET_FANOUT, fanout_query);

    if (value == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (value != 0) {
        atomic_store_explicit(&s->fanout_group, value & 0xffff,
                              memory_order_relaxed);
    }
    return 0;
}

/* Finds out what an adopted AF_PACKET socket is bound to. */
static int
inspect_packet_socket(RawSocket *s, struct options *o)
{
    struct sockaddr_ll address = {0};
    socklen_t length = sizeof(address);
    struct ifreq request = {0};
    int on;

    if (inspect_vnet_hdr(s) < 0 || inspect_fanout(s) < 0) {
        return -1;
    }
    on = read_int_option(s, SOL_PACKET, PACKET_AUXDATA,
                         "getsockopt(PACKET_AUXDATA)");
    if (on < 0) {
        return -1;
    }
    o->vlan = o->vlan < 0 ? on : o->vlan;
    if (getsockname(s->fd, (struct sockaddr *)&address, &length) < 0) {
        return raise_os_error(errno, "getsockname", NULL);
    }
    s->proto = ntohs(address.sll_protocol);
    s->receives = s->proto != 0;
    o->addresses = o->addresses < 0 ? address.sll_ifindex == 0 : o->addresses;
    if (address.sll_ifindex == 0) {
        return 0;
    }
    request.ifr_ifindex = address.sll_ifindex;
    if (ioctl(s->fd, SIOCGIFNAME, &request) < 0) {
        return raise_error(s, errno, "ioctl(SIOCGIFNAME)");
    }
    s->ifindex = address.sll_ifindex;
    s->link_type = address.sll_hatype;
    s->interface = PyUnicode_DecodeFSDefault(request.ifr_name);
    return s->interface == NULL ? -1 : 0;
}

/* Finds out the protocol of an adopted socket of another family, and raises
   for options that only AF_PACKET has. */
static int
inspect_datagram_socket(RawSocket *s, struct options *o)
{
    const char *name = PyTuple_Size(o->memberships) > 0 ? interface_needed(o)
                       : o->vnet_hdr > 0                ? "vnet_hdr"
                       : o->fanout.value >= 0           ? "fanout"
                       : o->ignore_outgoing > 0         ? "ignore_outgoing"
                       : o->vlan > 0                    ? "vlan"
                       : o->qdisc_bypass                ? "qdisc_bypass"
                                                        : NULL;

    if (name != NULL) {
        PyErr_Format(PyExc_ValueError,
                     "%s is an option of AF_PACKET, but the descriptor is "
                     "a socket of another family",
                     name);
        return -1;
    }
    if (o->addresses > 0 && refuse_family(s) < 0) {
        return -1;
    }
    o->vlan = 0;
    o->ignore_outgoing = o->vnet_hdr = -1;
    s->proto =
        read_int_option(s, SOL_SOCKET, SO_PROTOCOL, "getsockopt(SO_PROTOCOL)");
    return s->proto < 0 ? -1 : 0;
}

/* Finds out what an adopted descriptor is, and changes nothing. 0, or -1 with
   an exception set. */
static int
inspect_descriptor(RawSocket *s, struct options *o)
{
    const char *needed;

    s->fd = o->fileno;
    s->receives = true;
    s->family =
        read_int_option(s, SOL_SOCKET, SO_DOMAIN, "getsockopt(SO_DOMAIN)");
    if (s->family < 0) {
        return -1;
    }
    s->type = read_int_option(s, SOL_SOCKET, SO_TYPE, "getsockopt(SO_TYPE)");
    if (s->type < 0) {
        return -1;
    }
    if (s->type != SOCK_DGRAM
        && (s->family != AF_PACKET || s->type != SOCK_RAW)
        && (s->family != AF_UNIX || s->type != SOCK_SEQPACKET)) {
        PyErr_SetString(PyExc_ValueError,
                        "fileno must be an AF_PACKET socket, a datagram "
                        "socket, or an AF_UNIX socket of type "
                        "SOCK_SEQPACKET");
        return -1;
    }
    if ((s->family == AF_PACKET ? inspect_packet_socket(s, o)
                                : inspect_datagram_socket(s, o))
        < 0) {
        return -1;
    }
    needed = interface_needed(o);
    if (s->ifindex == 0 && needed != NULL) {
        PyErr_Format(PyExc_ValueError,
                     "%s needs an interface, but the descriptor is not "
                     "bound to one",
                     needed);
        return -1;
    }
    return 0;
}

/* Adopts a descriptor. 0, or -1 with an exception set; the caller then calls
   undo_changes(). Changes only what the arguments ask for. The fanout group
   comes last, because a socket cannot leave it. */
static int
construct_adopted(RawSocket *s, struct options *o, struct changes *c)
{
    if (inspect_descriptor(s, o) < 0 || make_filter(s, o) < 0
        || open_wake_fd(s) < 0) {
        return -1;
    }
    c->wanted = true;
    if (apply_buffer_sizes(s, o, c) < 0 || apply_collection(s, o, c) < 0
        || apply_packet_options(s, o, c) < 0) {
        return -1;
    }
    if (o->filter != Py_None) {
        if (replace_filter(s, &o->program, &c->filter) < 0) {
            return -1;
        }
        c->filtered = true;
    }
    if (apply_memberships(s, o, c) < 0) {
        return -1;
    }
    return o->fanout.value < 0 || join_fanout(s, &o->fanout) >= 0 ? 0 : -1;
}

/* Reads the result of rawmmsg._options.parse(). 0, or -1 with an exception
   set. Makes no system call. */
static int
read_options(RawSocket *s, PyObject *parsed, struct options *o)
{
    if (!PyArg_ParseTuple(
            parsed, "OyiiOiiiiiLOOiiiOii", &o->interface, &o->name,
            &o->protocol, &o->type, &o->filter, &o->ignore_outgoing, &o->vlan,
            &o->addresses, &o->timestamps, &o->vnet_hdr, &o->fanout.value,
            &o->fanout.source, &o->memberships, &o->qdisc_bypass, &o->rcvbuf,
            &o->sndbuf, &o->netns, &o->allow_down, &o->fileno)) {
        return -1;
    }
    return copy_fanout_program(s, &o->fanout);
}

/* Makes the socket. 0, or -1 with an exception set, new descriptors closed,
   and an adopted one as it was. */
static int
construct(RawSocket *s, struct options *o)
{
    bool adopt = o->fileno >= 0;
    struct changes c = {.filter = {no_program, true}};
    int result = adopt ? construct_adopted(s, o, &c) : construct_new(s, o, &c);

    if (result < 0) {
        if (adopt) {
            undo_changes(s, &c);
        }
        else if (s->fd >= 0) {
            Py_BEGIN_ALLOW_THREADS
            close(s->fd);
            Py_END_ALLOW_THREADS
        }
        if (s->wake_fd >= 0) {
            close(s->wake_fd);
        }
    }
    free_program(&c.filter.program);
    return result;
}

static PyObject *
RawSocket_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct options o = {.fanout = {.program = no_program},
                        .program = no_program};
    PyObject *parsed = call_options("parse", args, kwargs);
    uint64_t here = (uint64_t)this_process() << SOCKET_PROCESS;
    RawSocket *s;

    if (parsed == NULL) {
        return NULL;
    }
    s = (RawSocket *)alloc(type, 0);
    if (s != NULL) {
        s->fd = s->wake_fd = -1;
        s->made_in = this_process();
        s->link_type = -1;
        atomic_init(&s->timeout_ns, -1);
        atomic_init(&s->fanout_group, -1);
        /* Closed until it is complete, so that dealloc closes nothing. */
        atomic_init(&s->state, here | SOCKET_CLOSED);
        if (read_options(s, parsed, &o) == 0 && construct(s, &o) == 0) {
            atomic_store_explicit(&s->state, here, memory_order_release);
        }
        else {
            Py_CLEAR(s);
        }
    }
    free_program(&o.fanout.program);
    free_program(&o.program);
    Py_DECREF(parsed);
    return (PyObject *)s;
}

static int
RawSocket_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((RawSocket *)self)->interface);
    return 0;
}

/* Warns about a socket that is deallocated but was not closed. This is not in
   tp_finalize, because the Limited API cannot call that from tp_dealloc. The
   warning has no `source`: the object must not be used any more. */
static void
warn_unclosed(RawSocket *s)
{
    PyObject *exception = PyErr_GetRaisedException();

    if (PyErr_ResourceWarning(NULL, 1,
                              "unclosed <RawSocket fd=%d interface=%S>", s->fd,
                              s->interface ? s->interface : Py_None)
        < 0) {
        /* With -W error the warning is an exception, which dealloc cannot
           raise. */
        PyErr_WriteUnraisable((PyObject *)Py_TYPE((PyObject *)s));
    }
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
    }
}

static void
RawSocket_dealloc(PyObject *self)
{
    RawSocket *s = (RawSocket *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyObject_GC_UnTrack(self);
    if (s->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    if (!(state_here(s) & SOCKET_CLOSED)) {
        warn_unclosed(s);
        close_descriptors(s);
    }
    Py_XDECREF(s->interface);
    release(self);
    Py_DECREF(type);
}

/* ---- RawSocket: options and state --------------------------------------- */

static PyObject *
RawSocket_repr(PyObject *self)
{
    RawSocket *s = (RawSocket *)self;
    PyObject *interface = s->interface ? s->interface : Py_None;

    if (is_closed(s)) {
        return PyUnicode_FromFormat("<RawSocket closed interface=%R>",
                                    interface);
    }
    return PyUnicode_FromFormat("<RawSocket fd=%d interface=%R>", s->fd,
                                interface);
}

static PyStructSequence_Field Statistics_fields[] = {
    {"packets_received", Statistics_packets_received_doc},
    {"packets_dropped", Statistics_packets_dropped_doc},
    {"batches_received", Statistics_batches_received_doc},
    {"packets_sent", Statistics_packets_sent_doc},
    {"batches_sent", Statistics_batches_sent_doc},
    {"send_retries", Statistics_send_retries_doc},
    {NULL, NULL},
};

static PyObject *
Statistics_asdict(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *dict = PyDict_New();
    Py_ssize_t i;

    for (i = 0; dict != NULL && Statistics_fields[i].name != NULL; i++) {
        if (PyDict_SetItemString(dict, Statistics_fields[i].name,
                                 PyTuple_GetItem(self, i))
            < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

static PyMethodDef Statistics_asdict_method = {
    "_asdict", Statistics_asdict, METH_NOARGS, Statistics__asdict_doc};

static PyStructSequence_Desc Statistics_desc = {
    "rawmmsg.Statistics",
    Statistics_doc,
    Statistics_fields,
    6,
};

static PyObject *
RawSocket_statistics(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RawSocket *s = (RawSocket *)self;
    atomic_ullong *counts[] = {&s->packets_received, &s->packets_dropped,
                               &s->batches_received, &s->packets_sent,
                               &s->batches_sent,     &s->send_retries};
    module_state *state = state_of(Py_TYPE(self));
    PyObject *statistics, *value;
    unsigned process;
    int result = 0;
    Py_ssize_t i;

    if (state == NULL) {
        return NULL;
    }
    /* close() has already read the last counts of a closed socket. */
    if (try_enter(s, &process)) {
        result = collect_drops(s);
        if (result < 0) {
            raise_error(s, errno, "getsockopt(PACKET_STATISTICS)");
        }
        leave_call(s, process);
    }
    if (result < 0) {
        return NULL;
    }
    statistics = PyStructSequence_New(state->statistics_type);
    for (i = 0; statistics != NULL && i < Statistics_desc.n_in_sequence; i++) {
        value = counts[i] == &s->packets_dropped && s->family != AF_PACKET
                    ? Py_NewRef(Py_None)
                    : PyLong_FromUnsignedLongLong(atomic_load_explicit(
                          counts[i], memory_order_relaxed));
        if (value == NULL) {
            Py_CLEAR(statistics);
            break;
        }
        PyStructSequence_SetItem(statistics, i, value);
    }
    return statistics;
}

static PyObject *
RawSocket_getsockopt(PyObject *self, PyObject *args)
{
    static const char call[] = "getsockopt";
    RawSocket *s = (RawSocket *)self;
    int level, name, size = 0, number = 0, result;
    /* Zeroed, because some options read the memory before they fill it. */
    char bytes[1024] = {0};
    socklen_t length;
    unsigned process;

    if (!PyArg_ParseTuple(args, "ii|i:getsockopt", &level, &name, &size)) {
        return NULL;
    }
    if (size < 0 || size > (int)sizeof(bytes)) {
        PyErr_Format(PyExc_ValueError, "buflen must be 0 to %zu, not %d",
                     sizeof(bytes), size);
        return NULL;
    }
    /* SO_GET_FILTER has the same number. Its length counts instructions, so
       the kernel would write beyond our memory
       (net/core/filter.c:sk_get_filter()). */
    if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
        PyErr_SetString(PyExc_ValueError,
                        "getsockopt() cannot read SO_GET_FILTER");
        return NULL;
    }
    if (s->family == AF_PACKET && level == SOL_PACKET
        && name == PACKET_STATISTICS) {
        PyErr_SetString(PyExc_ValueError,
                        "reading PACKET_STATISTICS resets it: use "
                        "statistics()");
        return NULL;
    }
    if (enter_call(s, &process, call) < 0) {
        return NULL;
    }
    length = size == 0 ? sizeof(number) : (socklen_t)size;
    result = getsockopt(s->fd, level, name,
                        size == 0 ? (void *)&number : bytes, &length);
    if (result < 0) {
        raise_error(s, errno, call);
    }
    leave_call(s, process);
    if (result < 0) {
        return NULL;
    }
    if (size == 0) {
        return PyLong_FromLong(number);
    }
    /* Some options return the length that they would need
       (NETLINK_LIST_MEMBERSHIPS). */
    return PyBytes_FromStringAndSize(
        bytes, length < (socklen_t)size ? (Py_ssize_t)length : size);
}

static PyObject *
RawSocket_setsockopt(PyObject *self, PyObject *args)
{
    static const char call[] = "setsockopt";
    RawSocket *s = (RawSocket *)self;
    int level, name, number, result;
    unsigned int length = 0;
    PyObject *value;
    Py_buffer view = {.obj = NULL};
    unsigned process;

    if (!PyArg_ParseTuple(args, "iiO|I:setsockopt", &level, &name, &value,
                          &length)) {
        return NULL;
    }
    if ((value == Py_None) != (PyTuple_Size(args) == 4)) {
        PyErr_SetString(PyExc_TypeError,
                        "optlen must be given if value is None, and only "
                        "then");
        return NULL;
    }
    if (s->family == AF_PACKET && level == SOL_PACKET
        && (name == PACKET_VNET_HDR || name == PACKET_VNET_HDR_SZ)) {
        PyErr_SetString(PyExc_ValueError,
                        "setsockopt() cannot set PACKET_VNET_HDR, which "
                        "puts a header in front of every frame: use "
                        "vnet_hdr=");
        return NULL;
    }
    if (value == Py_None) {
        view.len = (Py_ssize_t)length;
    }
    else if (PyLong_Check(value)) {
        if (!PyArg_Parse(value, "i", &number)) {
            return NULL;
        }
        view.buf = &number;
        view.len = sizeof(number);
    }
    else if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (view.len > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the value is too long");
        PyBuffer_Release(&view);
        return NULL;
    }
    result = enter_call(s, &process, call);
    if (result == 0) {
        result =
            set_option(s, level, name, view.buf, (socklen_t)view.len, call);
        leave_call(s, process);
    }
    PyBuffer_Release(&view);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
RawSocket_getsockname(PyObject *self, PyObject *Py_UNUSED(unused))
{
    static const char call[] = "getsockname";
    RawSocket *s = (RawSocket *)self;
    struct link_name address = {.rest = {0}};
    struct ifreq request = {0};
    socklen_t length = sizeof(address);
    int error = 0;
    unsigned process;

    if (s->family != AF_PACKET) {
        raise_os_error(EOPNOTSUPP, call, NULL);
        return NULL;
    }
    if (enter_call(s, &process, call) < 0) {
        return NULL;
    }
    if (getsockname(s->fd, (struct sockaddr *)&address, &length) < 0) {
        error = errno;
    }
    else if (address.ll.sll_ifindex > 0) {
        /* As in the socket module, the name is "" if the interface has been
           deleted. */
        request.ifr_ifindex = address.ll.sll_ifindex;
        if (ioctl(s->fd, SIOCGIFNAME, &request) < 0) {
            request.ifr_name[0] = '\0';
        }
    }
    if (error != 0) {
        raise_error(s, error, call);
    }
    leave_call(s, process);
    if (error != 0) {
        return NULL;
    }
    return make_link_address(&address,
                             PyUnicode_DecodeFSDefault(request.ifr_name));
}

static PyObject *
membership_call(PyObject *self, int action, PyObject *address,
                const char *call)
{
    RawSocket *s = (RawSocket *)self;
    struct packet_mreq request = {.mr_ifindex = s->ifindex,
                                  .mr_type = PACKET_MR_MULTICAST};
    unsigned process;
    int result;

    if (s->ifindex == 0) {
        PyErr_SetString(PyExc_ValueError, "multicast needs an interface");
        return NULL;
    }
    if (parse_hardware_address(address, &request) < 0
        || enter_call(s, &process, call) < 0) {
        return NULL;
    }
    result =
        set_option(s, SOL_PACKET, action, &request, sizeof(request), call);
    leave_call(s, process);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
RawSocket_add_membership(PyObject *self, PyObject *address)
{
    return membership_call(self, PACKET_ADD_MEMBERSHIP, address,
                           "setsockopt(PACKET_ADD_MEMBERSHIP)");
}

static PyObject *
RawSocket_drop_membership(PyObject *self, PyObject *address)
{
    return membership_call(self, PACKET_DROP_MEMBERSHIP, address,
                           "setsockopt(PACKET_DROP_MEMBERSHIP)");
}

static PyObject *
RawSocket_fileno(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RawSocket *s = (RawSocket *)self;

    return PyLong_FromLong(is_closed(s) ? -1 : s->fd);
}

static PyObject *
RawSocket_detach(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RawSocket *s = (RawSocket *)self;
    uint64_t state = state_here(s);

    do {
        if (state & SOCKET_CLOSED) {
            return PyLong_FromLong(-1);
        }
        if (state & SOCKET_CALLS) {
            raise_os_error(EBUSY, "detach", s->interface);
            return NULL;
        }
    } while (!atomic_compare_exchange_weak_explicit(
        &s->state, &state, state | SOCKET_CLOSED, memory_order_acq_rel,
        memory_order_relaxed));
    if (s->made_in == this_process()) {
        (void)collect_drops(s);
    }
    if (s->wake_fd >= 0) {
        close(s->wake_fd);
    }
    return PyLong_FromLong(s->fd);
}

static PyObject *
RawSocket_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    close_socket((RawSocket *)self);
    Py_RETURN_NONE;
}

static PyObject *
RawSocket_settimeout(PyObject *self, PyObject *argument)
{
    RawSocket *s = (RawSocket *)self;
    double seconds;
    long long timeout = -1;

    if (argument != Py_None) {
        seconds = PyFloat_AsDouble(argument);
        if (seconds == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        /* This also refuses NaN. */
        if (!(seconds >= 0.0)) {
            PyErr_SetString(PyExc_ValueError, "Timeout value out of range");
            return NULL;
        }
        if (seconds > (double)(INT64_MAX / NS_PER_S / 2)) {
            PyErr_SetString(PyExc_OverflowError, "timeout is too large");
            return NULL;
        }
        /* Round up, so that a short timeout does not become 0. */
        seconds *= (double)NS_PER_S;
        timeout = (long long)seconds;
        timeout += (double)timeout < seconds;
    }
    atomic_store_explicit(&s->timeout_ns, timeout, memory_order_relaxed);
    Py_RETURN_NONE;
}

static PyObject *
RawSocket_gettimeout(PyObject *self, PyObject *Py_UNUSED(unused))
{
    long long timeout = atomic_load_explicit(&((RawSocket *)self)->timeout_ns,
                                             memory_order_relaxed);

    if (timeout < 0) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble((double)timeout / (double)NS_PER_S);
}

static PyObject *
RawSocket_setblocking(PyObject *self, PyObject *argument)
{
    int flag = PyObject_IsTrue(argument);

    if (flag < 0) {
        return NULL;
    }
    atomic_store_explicit(&((RawSocket *)self)->timeout_ns, flag ? -1 : 0,
                          memory_order_relaxed);
    Py_RETURN_NONE;
}

static PyObject *
RawSocket_getblocking(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(
        atomic_load_explicit(&((RawSocket *)self)->timeout_ns,
                             memory_order_relaxed)
        != 0);
}

static PyObject *
RawSocket_enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(self);
}

static PyObject *
RawSocket_exit(PyObject *self, PyObject *Py_UNUSED(args))
{
    close_socket((RawSocket *)self);
    Py_RETURN_NONE;
}

static PyObject *
RawSocket_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_closed((RawSocket *)self));
}

/* Returns a member of an enumeration of the socket module, which
   rawmmsg._options imports. NULL with an exception set. */
static PyObject *
make_enum(const char *function, int number)
{
    PyObject *args = Py_BuildValue("(i)", number), *member;

    if (args == NULL) {
        return NULL;
    }
    member = call_options(function, args, NULL);
    Py_DECREF(args);
    return member;
}

static PyObject *
RawSocket_get_family(PyObject *self, void *Py_UNUSED(closure))
{
    return make_enum("make_family", ((RawSocket *)self)->family);
}

static PyObject *
RawSocket_get_type(PyObject *self, void *Py_UNUSED(closure))
{
    return make_enum("make_type", ((RawSocket *)self)->type);
}

static PyObject *
RawSocket_get_proto(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((RawSocket *)self)->proto);
}

static PyObject *
RawSocket_get_timeout(PyObject *self, void *Py_UNUSED(closure))
{
    return RawSocket_gettimeout(self, NULL);
}

static PyObject *
RawSocket_get_interface(PyObject *self, void *Py_UNUSED(closure))
{
    RawSocket *s = (RawSocket *)self;
    PyObject *interface;
    unsigned process;

    if (!try_enter(s, &process)) {
        return interface_name(s);
    }
    interface = interface_name(s);
    leave_call(s, process);
    return interface;
}

static PyObject *
RawSocket_get_ifindex(PyObject *self, void *Py_UNUSED(closure))
{
    int ifindex = ((RawSocket *)self)->ifindex;

    if (ifindex == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(ifindex);
}

static PyObject *
RawSocket_get_link_type(PyObject *self, void *Py_UNUSED(closure))
{
    int link_type = ((RawSocket *)self)->link_type;

    if (link_type < 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(link_type);
}

static PyObject *
RawSocket_get_mtu(PyObject *self, void *Py_UNUSED(closure))
{
    static const char call[] = "ioctl(SIOCGIFMTU)";
    RawSocket *s = (RawSocket *)self;
    struct ifreq answer;
    int result;
    unsigned process;

    if (s->ifindex == 0) {
        Py_RETURN_NONE;
    }
    if (enter_call(s, &process, call) < 0) {
        return NULL;
    }
    result = interface_ioctl(s->fd, s->ifindex, SIOCGIFMTU, &answer);
    if (result < 0) {
        raise_error(s, errno, call);
    }
    leave_call(s, process);
    return result < 0 ? NULL : PyLong_FromLong(answer.ifr_mtu);
}

static PyObject *
RawSocket_get_vnet_hdr(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((RawSocket *)self)->vnet_hdr);
}

static PyObject *
RawSocket_get_fanout_group(PyObject *self, void *Py_UNUSED(closure))
{
    int group = atomic_load_explicit(&((RawSocket *)self)->fanout_group,
                                     memory_order_relaxed);

    if (group < 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(group);
}

/* ---- RawSocket: type ---------------------------------------------------- */

static PyMethodDef RawSocket_methods[] = {
    {"recvmmsg_into", RawSocket_recvmmsg_into, METH_O,
     RawSocket_recvmmsg_into_doc},
    {"sendmmsg", (PyCFunction)(void (*)(void))RawSocket_sendmmsg,
     METH_FASTCALL | METH_KEYWORDS, RawSocket_sendmmsg_doc},
    {"sendmmsg_all", RawSocket_sendmmsg_all, METH_O,
     RawSocket_sendmmsg_all_doc},
    {"recv", RawSocket_recv, METH_O, RawSocket_recv_doc},
    {"recv_into", (PyCFunction)(void (*)(void))RawSocket_recv_into,
     METH_FASTCALL, RawSocket_recv_into_doc},
    {"send", RawSocket_send, METH_O, RawSocket_send_doc},
    {"recvfrom", RawSocket_recvfrom, METH_O, RawSocket_recvfrom_doc},
    {"sendto", (PyCFunction)(void (*)(void))RawSocket_sendto, METH_FASTCALL,
     RawSocket_sendto_doc},
    {"attach_filter", RawSocket_attach_filter, METH_O,
     RawSocket_attach_filter_doc},
    {"detach_filter", RawSocket_detach_filter, METH_NOARGS,
     RawSocket_detach_filter_doc},
    {"lock_filter", RawSocket_lock_filter, METH_NOARGS,
     RawSocket_lock_filter_doc},
    {"set_fanout", (PyCFunction)(void (*)(void))RawSocket_set_fanout,
     METH_VARARGS | METH_KEYWORDS, RawSocket_set_fanout_doc},
    {"add_membership", RawSocket_add_membership, METH_O,
     RawSocket_add_membership_doc},
    {"drop_membership", RawSocket_drop_membership, METH_O,
     RawSocket_drop_membership_doc},
    {"statistics", RawSocket_statistics, METH_NOARGS,
     RawSocket_statistics_doc},
    {"getsockopt", RawSocket_getsockopt, METH_VARARGS,
     RawSocket_getsockopt_doc},
    {"setsockopt", RawSocket_setsockopt, METH_VARARGS,
     RawSocket_setsockopt_doc},
    {"getsockname", RawSocket_getsockname, METH_NOARGS,
     RawSocket_getsockname_doc},
    {"fileno", RawSocket_fileno, METH_NOARGS, RawSocket_fileno_doc},
    {"detach", RawSocket_detach, METH_NOARGS, RawSocket_detach_doc},
    {"close", RawSocket_close, METH_NOARGS, RawSocket_close_doc},
    {"settimeout", RawSocket_settimeout, METH_O, RawSocket_settimeout_doc},
    {"gettimeout", RawSocket_gettimeout, METH_NOARGS,
     RawSocket_gettimeout_doc},
    {"setblocking", RawSocket_setblocking, METH_O, RawSocket_setblocking_doc},
    {"getblocking", RawSocket_getblocking, METH_NOARGS,
     RawSocket_getblocking_doc},
    {"__enter__", RawSocket_enter, METH_NOARGS, RawSocket___enter___doc},
    {"__exit__", RawSocket_exit, METH_VARARGS, RawSocket___exit___doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef RawSocket_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(RawSocket, weakrefs),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef RawSocket_getset[] = {
    {"closed", RawSocket_get_closed, NULL, RawSocket_closed_doc, NULL},
    {"family", RawSocket_get_family, NULL, RawSocket_family_doc, NULL},
    {"type", RawSocket_get_type, NULL, RawSocket_type_doc, NULL},
    {"proto", RawSocket_get_proto, NULL, RawSocket_proto_doc, NULL},
    {"timeout", RawSocket_get_timeout, NULL, RawSocket_timeout_doc, NULL},
    {"interface", RawSocket_get_interface, NULL, RawSocket_interface_doc,
     NULL},
    {"ifindex", RawSocket_get_ifindex, NULL, RawSocket_ifindex_doc, NULL},
    {"link_type", RawSocket_get_link_type, NULL, RawSocket_link_type_doc,
     NULL},
    {"vnet_hdr", RawSocket_get_vnet_hdr, NULL, RawSocket_vnet_hdr_doc, NULL},
    {"peer", RawSocket_get_peer, RawSocket_set_peer, RawSocket_peer_doc, NULL},
    {"strangers", RawSocket_get_strangers, NULL, RawSocket_strangers_doc,
     NULL},
    {"fanout_group", RawSocket_get_fanout_group, NULL,
     RawSocket_fanout_group_doc, NULL},
    {"mtu", RawSocket_get_mtu, NULL, RawSocket_mtu_doc, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot RawSocket_slots[] = {
    {Py_tp_doc, (void *)RawSocket_doc},
    {Py_tp_new, RawSocket_new},
    {Py_tp_traverse, RawSocket_traverse},
    {Py_tp_dealloc, RawSocket_dealloc},
    {Py_tp_repr, RawSocket_repr},
    {Py_tp_methods, RawSocket_methods},
    {Py_tp_members, RawSocket_members},
    {Py_tp_getset, RawSocket_getset},
    {0, NULL},
};

static PyType_Spec RawSocket_spec = {
    .name = "rawmmsg.RawSocket",
    .basicsize = sizeof(RawSocket),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = RawSocket_slots,
};

/* ---- Filters over packets in memory ------------------------------------- */

/* What an error says about the instruction %zu and a number. */
static const char *const fault_messages[] = {
    [FILTER_UNKNOWN_OPCODE] = "instruction %zu: unknown opcode 0x%x",
    [FILTER_JUMP_PAST_END] = "instruction %zu: the jump goes past the end",
    [FILTER_DIVISION_BY_ZERO] = "instruction %zu: division by zero",
    [FILTER_LONG_SHIFT] = "instruction %zu: a shift by %u bits",
    [FILTER_NO_SCRATCH_WORD] = "instruction %zu: there is no scratch word "
                               "M[%u]",
    [FILTER_UNKNOWN_ANCILLARY] = "instruction %zu: unknown ancillary data %u",
    [FILTER_UNWRITTEN_WORD] = "instruction %zu: M[%u] is read before it is "
                              "written",
};

/* Raises ValueError for a program with a fault of its instruction n. */
static void
raise_fault(const struct sock_filter *code, size_t count,
            enum filter_fault fault, size_t n)
{
    unsigned number;

    switch (fault) {
    case FILTER_EMPTY:
        PyErr_SetString(PyExc_ValueError, "the program is empty");
        return;
    case FILTER_TOO_LONG:
        PyErr_Format(PyExc_ValueError,
                     "the program has %zu instructions; the kernel accepts at "
                     "most %d",
                     count, BPF_MAXINSNS);
        return;
    case FILTER_NO_RETURN:
        PyErr_SetString(PyExc_ValueError,
                        "the last instruction is not a return");
        return;
    case FILTER_UNKNOWN_OPCODE:
        number = code[n].code;
        break;
    case FILTER_UNKNOWN_ANCILLARY:
        number = code[n].k - (uint32_t)SKF_AD_OFF;
        break;
    default:
        number = code[n].k;
    }
    PyErr_Format(PyExc_ValueError, fault_messages[fault], n, number);
}

const struct sock_filter *
check_program(PyObject *program, size_t *count)
{
    const struct sock_filter *code;
    enum filter_fault fault;
    size_t size, at = 0;

    if (!PyBytes_Check(program)) {
        PyErr_SetString(PyExc_TypeError, "a program must be bytes");
        return NULL;
    }
    /* The bytes are aligned as their object is. */
    code = (const void *)PyBytes_AsString(program);
    size = (size_t)PyBytes_Size(program);
    if (size % sizeof(*code) != 0) {
        PyErr_Format(PyExc_ValueError,
                     "the size of a program is a multiple of %zu bytes, not "
                     "%zu",
                     sizeof(*code), size);
        return NULL;
    }
    *count = size / sizeof(*code);
    fault = check_filter(code, *count, &at);
    if (fault != FILTER_VALID) {
        raise_fault(code, *count, fault, at);
        return NULL;
    }
    return code;
}

static PyObject *
rawmmsg_check_filter(PyObject *Py_UNUSED(module), PyObject *program)
{
    size_t count;

    if (check_program(program, &count) == NULL) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Stores the low 32 bits of a number. 0, or -1 with an exception set. */
static int
parse_word(PyObject *number, uint32_t *word)
{
    PyObject *integer = PyNumber_Index(number);

    if (integer == NULL) {
        return -1;
    }
    *word = (uint32_t)PyLong_AsUnsignedLongLongMask(integer);
    Py_DECREF(integer);
    return 0;
}

/* Makes a field of ancillary data known. 0, or -1 with an exception set. */
static int
set_field(struct filter_packet *p, uint32_t field, PyObject *number)
{
    p->known |= UINT32_C(1) << field / 4;
    return parse_word(number, &p->ancillary[field / 4]);
}

/* Sets the fields of a dict or of what dict() takes, by offset. 0, or -1 with
   an exception set. */
static int
set_fields(struct filter_packet *p, PyObject *source)
{
    /* Of our own: numbers may run code of the user. */
    PyObject *fields =
        PyObject_CallFunctionObjArgs((PyObject *)&PyDict_Type, source, NULL);
    PyObject *key, *number;
    uint32_t field;
    int result = 0;

    for (field = 0; fields != NULL && result == 0 && field < SKF_AD_MAX;
         field += 4) {
        key = PyLong_FromUnsignedLong(field);
        number = key == NULL ? NULL : PyDict_GetItemWithError(fields, key);
        Py_XDECREF(key);
        if (number != NULL) {
            result = set_field(p, field, number);
        }
        else if (PyErr_Occurred()) {
            result = -1;
        }
    }
    Py_XDECREF(fields);
    return fields == NULL ? -1 : result;
}

/* Sets the fields of a tag: a TCI, or (TCI, TPID). 0, or -1 with an exception
   set. */
static int
set_tag(struct filter_packet *p, PyObject *tag)
{
    PyObject *tci = tag, *tpid = NULL;

    if (PyTuple_Check(tag)) {
        if (PyTuple_Size(tag) != 2) {
            PyErr_Format(PyExc_ValueError,
                         "a tag must be a TCI or (TCI, TPID), not a tuple of "
                         "%zd",
                         PyTuple_Size(tag));
            return -1;
        }
        tci = PyTuple_GetItem(tag, 0);
        tpid = PyTuple_GetItem(tag, 1);
    }
    if (set_field(p, SKF_AD_VLAN_TAG, tci) < 0
        || (tpid != NULL && set_field(p, SKF_AD_VLAN_TPID, tpid) < 0)) {
        return -1;
    }
    if (tpid == NULL) {
        p->ancillary[SKF_AD_VLAN_TPID / 4] = ETH_P_8021Q;
    }
    p->ancillary[SKF_AD_VLAN_TAG_PRESENT / 4] = 1;
    p->known |= UINT32_C(1) << SKF_AD_VLAN_TPID / 4
                | UINT32_C(1) << SKF_AD_VLAN_TAG_PRESENT / 4;
    return 0;
}

/* The arguments of _run_filter(). */
enum {
    RUN_PROGRAM,
    RUN_PACKET,
    RUN_WIRE_LENGTH,
    RUN_VLAN,
    RUN_PACKET_TYPE,
    RUN_IFINDEX,
    RUN_NETWORK_OFFSET,
    RUN_ANCILLARY,
    RUN_TRACE,
    RUN_ARGUMENTS
};

/* Sets all of a packet except its bytes and their number; later arguments
   replace fields of `ancillary`. 0, or -1 with an exception set. */
static int
parse_metadata(struct filter_packet *p, PyObject *const *args)
{
    Py_ssize_t offset = PyNumber_AsSsize_t(args[RUN_NETWORK_OFFSET], NULL);

    if (offset == -1 && PyErr_Occurred()) {
        return -1;
    }
    p->network_offset = (size_t)offset; /* < 0: beyond every packet */
    p->known = 0;
    if ((args[RUN_ANCILLARY] != Py_None
         && set_fields(p, args[RUN_ANCILLARY]) < 0)
        || (args[RUN_PACKET_TYPE] != Py_None
            && set_field(p, SKF_AD_PKTTYPE, args[RUN_PACKET_TYPE]) < 0)
        || (args[RUN_IFINDEX] != Py_None
            && set_field(p, SKF_AD_IFINDEX, args[RUN_IFINDEX]) < 0)
        || (args[RUN_VLAN] != Py_None && set_tag(p, args[RUN_VLAN]) < 0)) {
        return -1;
    }
    return args[RUN_WIRE_LENGTH] == Py_None
               ? 0
               : parse_word(args[RUN_WIRE_LENGTH], &p->wire_length);
}

/* Runs a program, and appends the indices of the instructions that it executes
   to the list `trace`. 0, or -1 with an exception set. */
static int
run_traced(const struct sock_filter *code, size_t count,
           const struct filter_packet *p, PyObject *trace, uint32_t *accepted)
{
    PyObject *append = get_attribute(trace, "append"), *result;
    size_t i, traced;
    uint16_t *indices;

    if (append == NULL) {
        return -1;
    }
    indices = PyMem_Malloc(count * sizeof(*indices));
    if (indices == NULL) {
        Py_DECREF(append);
        PyErr_NoMemory();
        return -1;
    }
    *accepted = trace_filter(code, p, indices, &traced);
    for (i = 0; i < traced; i++) {
        result = PyObject_CallFunction(append, "i", (int)indices[i]);
        if (result == NULL) {
            break;
        }
        Py_DECREF(result);
    }
    PyMem_Free(indices);
    Py_DECREF(append);
    return i < traced ? -1 : 0;
}

/* Points p to the bytes of a buffer. If they are not contiguous, makes a copy:
   *copy, which the caller frees. 0, or -1 with an exception set. */
static int
set_bytes(struct filter_packet *p, Py_buffer *view, unsigned char **copy)
{
    p->bytes = view->buf;
    p->length = (size_t)view->len;
    if (PyBuffer_IsContiguous(view, 'C')) {
        return 0;
    }
    *copy = PyMem_Malloc(p->length);
    if (*copy == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    p->bytes = *copy;
    return PyBuffer_ToContiguous(*copy, view, view->len, 'C');
}

/* For Program.accept_length(), which documents the arguments, and matches().
   A run also checks the program: only Program() makes one, but bytes.__new__()
   does not. NULL with an exception set. */
static PyObject *
rawmmsg_run_filter(PyObject *Py_UNUSED(module), PyObject *const *args,
                   Py_ssize_t nargs)
{
    const struct sock_filter *code;
    struct filter_packet packet;
    unsigned char *copy = NULL;
    Py_buffer view;
    size_t count;
    uint32_t accepted = 0;
    int result;

    if (nargs != RUN_ARGUMENTS) {
        return PyErr_Format(PyExc_TypeError,
                            "_run_filter() takes %d arguments, not %zd",
                            RUN_ARGUMENTS, nargs);
    }
    code = check_program(args[RUN_PROGRAM], &count);
    if (code == NULL || parse_metadata(&packet, args) < 0
        || PyObject_GetBuffer(args[RUN_PACKET], &view, PyBUF_FULL_RO) < 0) {
        return NULL;
    }
    result = set_bytes(&packet, &view, &copy);
    if (args[RUN_WIRE_LENGTH] == Py_None) {
        packet.wire_length = (uint32_t)packet.length;
    }
    if (result == 0 && args[RUN_TRACE] == Py_None) {
        accepted = run_filter(code, &packet);
    }
    else if (result == 0) {
        result = run_traced(code, count, &packet, args[RUN_TRACE], &accepted);
    }
    PyMem_Free(copy);
    PyBuffer_Release(&view);
    return result < 0 ? NULL : PyLong_FromUnsignedLong(accepted);
}

/* ---- For _GuestRings ---------------------------------------------------- */

int
send_messages(RawSocket *s, struct mmsghdr *messages, unsigned count)
{
    struct transfer t;
    unsigned process;
    int done;

    if (enter_call(s, &process, "sendmmsg") < 0) {
        return -1;
    }
    t = begin_transfer(s, true, &process);
    t.messages = messages;
    t.count = count;
    done = run_transfer(s, &t);
    leave_call(s, process);
    return done;
}

int
receive_messages(RawSocket *s, struct mmsghdr *messages, unsigned count,
                 int flags)
{
    struct transfer t;
    unsigned process;
    int done;

    if (enter_receive(s, &process) < 0) {
        return -1;
    }
    t = begin_transfer(s, false, &process);
    t.messages = messages;
    t.count = count;
    t.flags = flags;
    done = run_transfer(s, &t);
    leave_call(s, process);
    return done;
}

/* ---- Module ------------------------------------------------------------- */

/* Takes all capabilities (capabilities(7)) from the calling thread, for good.
   Without no_new_privs (prctl(2)), a program that root executes would get them
   back. Python's library lacks capset(2) and prctl(2). Other threads keep
   their capabilities, so the caller must not have started any. */
static PyObject *
rawmmsg_drop_capabilities(PyObject *Py_UNUSED(module),
                          PyObject *Py_UNUSED(ignored))
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
        || syscall(SYS_capset, &header, none) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* For rawmmsg/bpf/program.py, the queues of a switch, and rawmmsg record. */
static PyMethodDef rawmmsg_functions[] = {
    {"_check_filter", rawmmsg_check_filter, METH_O, NULL},
    {"_run_filter", (PyCFunction)(void (*)(void))rawmmsg_run_filter,
     METH_FASTCALL, NULL},
    {"_copy_frames", (PyCFunction)(void (*)(void))rawmmsg_copy_frames,
     METH_FASTCALL, NULL},
    {"_set_addresses", rawmmsg_set_addresses, METH_VARARGS, NULL},
    {"_drop_capabilities", rawmmsg_drop_capabilities, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Returns the type. If that is NULL, makes sure that an exception is set:
   CPython 3.11 to 3.13 do not set one if there is no memory for the name of
   the type. */
static PyTypeObject *
check_type(PyTypeObject *type)
{
    if (type == NULL && !PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    return type;
}

/* Makes a type, and adds it to the module if it is to be public. NULL with an
   exception set. */
static PyTypeObject *
make_type(PyObject *module, PyType_Spec *spec, bool publish)
{
    PyTypeObject *type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);

    check_type(type);
    if (type != NULL && publish && PyModule_AddType(module, type) < 0) {
        Py_CLEAR(type);
    }
    return type;
}

/* Makes the type Statistics: a struct sequence, with the _asdict() that a
   namedtuple has. NULL with an exception set. */
static PyTypeObject *
make_statistics_type(void)
{
    PyTypeObject *type =
        check_type(PyStructSequence_NewType(&Statistics_desc));
    PyObject *method;

    if (type == NULL) {
        return NULL;
    }
    method = PyDescr_NewMethod(type, &Statistics_asdict_method);
    if (method == NULL
        || PyObject_SetAttrString((PyObject *)type, "_asdict", method) < 0) {
        Py_CLEAR(type);
    }
    Py_XDECREF(method);
    return type;
}

static int
rawmmsg_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    const struct {
        PyTypeObject **type;
        PyType_Spec *spec;
        bool publish;
    } types[] = {
        {&state->memory_type, &BatchMemory_spec, false},
        {&state->window_type, &Window_spec, false},
        {&state->batch_type, &PacketBatch_spec, true},
        {&state->socket_type, &RawSocket_spec, true},
        {&state->guest_type, &GuestRings_spec, true},
        {&state->sorter_type, &FrameSorter_spec, true},
        {&state->finder_type, &RecordFinder_spec, true},
        {&state->writer_type, &RecordWriter_spec, true},
    };
    size_t i;

    if (begin_counting_forks() < 0) {
        return -1;
    }
    for (i = 0; i < Py_ARRAY_LENGTH(types); i++) {
        *types[i].type = make_type(module, types[i].spec, types[i].publish);
        if (*types[i].type == NULL) {
            return -1;
        }
    }
    state->statistics_type = make_statistics_type();
    if (state->statistics_type == NULL
        || PyModule_AddType(module, state->statistics_type) < 0) {
        return -1;
    }
    return 0;
}

static int
rawmmsg_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);

    Py_VISIT(state->memory_type);
    Py_VISIT(state->window_type);
    Py_VISIT(state->batch_type);
    Py_VISIT(state->socket_type);
    Py_VISIT(state->guest_type);
    Py_VISIT(state->sorter_type);
    Py_VISIT(state->finder_type);
    Py_VISIT(state->writer_type);
    Py_VISIT(state->statistics_type);
    return 0;
}

static int
rawmmsg_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    Py_CLEAR(state->statistics_type); /* first: see state_of() */
    Py_CLEAR(state->memory_type);
    Py_CLEAR(state->window_type);
    Py_CLEAR(state->batch_type);
    Py_CLEAR(state->socket_type);
    Py_CLEAR(state->guest_type);
    Py_CLEAR(state->sorter_type);
    Py_CLEAR(state->finder_type);
    Py_CLEAR(state->writer_type);
    return 0;
}

static void
rawmmsg_free(void *module)
{
    rawmmsg_clear((PyObject *)module);
}

static PyModuleDef_Slot rawmmsg_slots[] = {
    {Py_mod_exec, rawmmsg_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef rawmmsg_module = {
    PyModuleDef_HEAD_INIT,          .m_name = "rawmmsg._rawmmsg",
    .m_doc = rawmmsg_doc,           .m_size = sizeof(module_state),
    .m_methods = rawmmsg_functions, .m_slots = rawmmsg_slots,
    .m_traverse = rawmmsg_traverse, .m_clear = rawmmsg_clear,
    .m_free = rawmmsg_free,
};

PyMODINIT_FUNC
PyInit__rawmmsg(void)
{
    return PyModuleDef_Init(&rawmmsg_module);
}
