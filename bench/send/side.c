/* Sends a batch; does not use the receiver. With receive_calls.h it is the
   baseline: sendmmsg(2) with messages prepared once. */

#include RECEIVER
#include "exchange.h"

/* Sends the batch `times` times: 0, or -errno. */
int
side_run(struct side *s, unsigned times)
{
    int error = 0;

    for (; times > 0 && error == 0; times--) {
        error = exchange_send(s);
    }
    return error;
}
