/* Returns each frame, by recv(2) and send(2), until it is told to stop. */

#include "loop.h"

#define LONGEST 2048

/* The socket has a timeout (SO_RCVTIMEO), after which this looks whether it is
   `over`. 0, or -errno. */
int
echo_run(int fd, const int *over)
{
    char frame[LONGEST];

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
