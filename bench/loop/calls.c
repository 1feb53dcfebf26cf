/* The baseline: a C program that does the same work with the same system calls
   in the same pattern, on the same sockets and frames. */

#include "receive_calls.h"
#include "loop.h"
