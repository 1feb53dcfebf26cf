"""`rawmmsg bridge`: a switch with two ports.

Each module uses only those below it:

command     the command line, signals and exit codes
console     the lines of statistics and the summary
loop        one thread and one poll(2) for both directions
directions  which kind of direction two ports need
guests      directions that begin or end in the memory of a guest
batched     a direction that receives batches and passes them on
direction   what the loop and the console know of a direction
receiving   receives batches, and finds frames that are not to be sent
sending     sends; full queues (ENOBUFS, EAGAIN) and refused frames
merging     the frames to be sent, merged into super-frames
outgoing    the frames to be sent, as they are or cut into segments
batches     the memory that both directions share
ports       interfaces, sockets and guests, and their names on the command line
drops       the reasons for which frames are dropped
filters     pcap-filter expressions for each kind of port
"""
