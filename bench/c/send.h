/* How bench/sides/senders.py calls the sides in C that only send. Each is a
   shared library of these functions, called through ctypes, which releases the
   GIL: a whole slice runs in C. Functions that can fail return -errno. */

#ifndef SEND_H
#define SEND_H

#include "loop.h"

struct sending;

/* NULL where it fails, which `error` tells why. Of the setup, what is said of
   `in` and `rx` is not used. */
struct sending *sending_open(const struct loop_setup *setup,
                             char error[ERROR_SIZE]);

/* When the frames have been written anew. */
void sending_prepare(struct sending *s);

/* Sends the batch `rounds` times. */
int sending_run(struct sending *s, unsigned rounds);

void sending_close(struct sending *s);

#endif
