"""`rawmmsg replay`: sends the packets of a recording."""

# A batch of the recording, whose packets are slices of the mapped file,
# becomes a load, and rawmmsg.pacing sends the load:
#
#     Reader  ->  Packets (skip, split, edit, place in time)  ->  send_loads()
#
# Nothing is copied, unless addresses or tags are edited, or packets merged.
