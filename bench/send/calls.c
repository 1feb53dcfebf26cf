/* The baseline for sending: sendmmsg(2) with messages prepared once. */

#include "receive_calls.h"
#include "send.h"
