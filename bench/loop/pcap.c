/* The loop with libpcap at the receiving end. */

#include "receive_pcap.h"
#include "loop.h"
