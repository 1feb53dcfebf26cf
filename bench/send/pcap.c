/* Sending with libpcap. */

#include "receive_pcap.h"
#include "send.h"
