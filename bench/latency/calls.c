/* There and back by packet sockets: sendmmsg(2) and recvmmsg(2), or
   (SIDE_ONE_BY_ONE) send(2) and recv(2). */

#include "receive_calls.h"
#define WAITS_FIRST 0
#include "ping.h"
