/* The loop with a packet ring at the receiving end. */

#include "receive_ring.h"
#include "loop.h"
