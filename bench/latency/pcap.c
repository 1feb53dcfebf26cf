/* There and back with libpcap in immediate mode. */

#include "receive_pcap.h"
#define WAITS_FIRST 1
#include "ping.h"
