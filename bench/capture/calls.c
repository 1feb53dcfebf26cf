/* Receiving by recvmmsg(2): the baseline. */

#include "receive_calls.h"
#include "receive.h"
