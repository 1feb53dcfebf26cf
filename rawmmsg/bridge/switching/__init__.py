"""A switch with any number of ports.

Each module uses only those below it:

command    the command line of `rawmmsg switch`
display    statistics, JSON and the address table
output     text for a terminal or a pipe, written without waiting
switch     `Switch`, for programs: opens ports, and waits for missing ones
specs      the descriptions of ports
fabric     the ports that are open, and what they share
members    a port: receives frames and passes them to the sinks of others
recordings what enters and leaves a port, in files (--record)
sinks      the output of a port: frames wait in a queue if it is slow
queues     frames that wait, copied
forms      frames cut into segments, or merged
decisions  where the frames of a key go
limit      a limit on frames per second
vlans      the VLANs of a port
table      behind which port a station is
counts     the statistics of a port
"""
