"""The control plane of a vhost-user back end for network cards.

The protocol is specified by QEMU, in docs/interop/vhost-user.rst.
A front end, such as QEMU, connects to a UNIX stream socket, passes the guest's
memory and eventfds over it, and tells where the guest's two rings are. Nothing
here touches the guest's memory; Rings is what the code that does must offer.

    messages.py     formats of the messages
    features.py     what is offered
    connection.py   a socket: whole messages, with their descriptors
    descriptors.py  eventfds, and closing what may be anything
    memory.py       which files are accepted, and their mappings
    rings.py        the protocol class that works on the rings
    session.py      the state of one front end
    server.py       front ends that come and go

The parts that are new to most readers:

*Nothing waits.* Each call handles at most one message or one kick, and the
poll loop of the bridge calls again while there is more. Every socket and
eventfd is non-blocking. Closing a descriptor of unknown kind can wait as long
as another process likes, so a thread does that (descriptors.py).

*How a port fits in the bridge's loop.* Server.readers maps each descriptor to
watch (the listener, the connection, and the rings' kick eventfds) to the call
for its events. If a call returns that the dictionary has changed, the loop
sets its poll set anew. An event of a descriptor that was closed earlier in the
same round may reach its successor with the same number, so a call may find
nothing to do. After each call, the directions that begin or end in the guest
look at its rings again (rawmmsg/bridge/guests.py): so they find frames after a
kick, after a ring was started, and after SET_MEM_TABLE. Several times each
second, the port calls Server.tend(): it connects again, accepts again, and
polls again what a storm of kicks had stopped.

*What belongs to whom.* The session owns every descriptor and mapping, and
replaces one by first telling the rings of the new one, then closing the old
one. So there is one place where each is closed, in whatever order a peer sends
its messages.

*What happens to a bad request.* A message whose end cannot be found, or that
was never offered, ends the connection. A well-formed request that cannot be
carried out changes nothing: if the front end asked for the result (REPLY_ACK),
it gets 1 and the connection continues. If not, the connection ends, because
the front end would continue as if the request had succeeded. The reason is
reported to the user, at most a few times in each period.

*Restarts.* If the front end goes, its rings and memory go with it, and the
server accepts the next one. If the bridge is restarted, the front end connects
again (QEMU: reconnect=1) and passes everything again; SET_VRING_BASE tells
where the rings continue, and a ring starts at SET_VRING_KICK, not at the first
kick, because a guest that waits for frames does not kick again.
"""

from .features import OFFERED, Feature, ProtocolFeature
from .memory import MappedRegion
from .messages import Region, RingAddresses
from .rings import Rings
from .server import ConnectingServer, ListeningServer, Server
from .session import Session

__all__ = [
    "OFFERED",
    "ConnectingServer",
    "Feature",
    "ListeningServer",
    "MappedRegion",
    "ProtocolFeature",
    "Region",
    "RingAddresses",
    "Rings",
    "Server",
    "Session",
]
