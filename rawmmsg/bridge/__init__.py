"""`rawmmsg bridge`: a switch with two ports.

Each module uses only those below it:

command     the command line, signals and exit codes
console     the lines of statistics and the summary
loop        one thread and one poll(2) for both directions
direction   one direction: receives batches and passes them on
sending     sends; full queues (ENOBUFS, EAGAIN) and refused frames
merging     the frames to be sent, merged into super-frames
outgoing    the frames to be sent, as they are or cut into segments
drops       the reasons for which frames are dropped
batches     the memory that both directions share
ports       interfaces and sockets, and their names on the command line
filters     pcap-filter expressions for each kind of port
"""
