"""`rawmmsg bridge`: a switch with two ports.

command     the command line, signals, exit codes
loop        one thread, one poll(2), both directions
directions  one direction: receive, send, try again
drops       what is dropped, and why
outlets     how a batch leaves: as it is, or cut into segments
ports       how the command line names them
interfaces  Ethernet interfaces, and what the parent opened
unix, udp   datagram sockets
port        what is true of all of them
filters     pcap-filter expressions for each kind of port
console     statistics and the summary
"""
