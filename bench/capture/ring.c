/* Receiving by a packet ring. */

#include "receive_ring.h"
#include "receive.h"
