/* Returns each frame by send(2) and recv(2), until the caller stops it. */

#include "side.h"

/* The socket has a timeout (SO_RCVTIMEO), after which this checks whether it
   is `over`. 0, or -errno. */
int
echo_run(int fd, const int *over)
{
    char frame[2048];

    while (!__atomic_load_n(over, __ATOMIC_ACQUIRE)) {
        ssize_t n = recv(fd, frame, sizeof(frame), 0);

        if (n >= 0) {
            n = send(fd, frame, (size_t)n, 0);
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}
