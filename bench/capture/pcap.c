/* Receiving with libpcap. */

#include "receive_pcap.h"
#include "receive.h"
