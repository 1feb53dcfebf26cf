"""Private network namespaces and veth pairs, for tests that send frames.

A program moves into a network namespace of its own. This needs root, or a
kernel that allows user namespaces to everybody:

    enter_namespace()       moves this process, if it has only one thread
    exec_in_namespace()     restarts this program inside a new namespace
    run_in_namespace(argv)  runs a child process inside a new namespace

Inside, the program makes pairs of interfaces:

    with veth_pair() as veth:       # both ends are up, IPv6 is off
        RawSocket(veth.a), RawSocket(veth.b)

As a pytest plugin, `pytest_plugins = ["rawmmsg.testing"]` in the top conftest
(or `-p rawmmsg.testing`) moves the whole run into a private namespace before
the first test. With pytest-xdist, each worker gets a namespace of its own. If
threads are running already, or Scapy has read the host's interfaces, the
plugin restarts pytest inside. It offers the fixtures `veth` and
`veth_factory`.

If no namespace can be made, the plugin skips every test except those marked
`no_network`, so nothing touches the host's network. If the environment has
CI=true, or the ini option `rawmmsg_require_namespace` is set, those tests fail
instead.

Sockets that were opened before the move stay in the old namespace, and
/sys/class/net keeps showing the host's interfaces. In a user namespace the
process has uid 0 and every capability over its own network, and no additional
rights over the host.

veth pairs need the `ip` command (iproute2). No Python package is needed.
PYTEST_DONT_REWRITE
"""

from .namespace import (
    enter_namespace,
    exec_in_namespace,
    in_namespace,
    run_in_namespace,
)
from .veth import Veth, veth_pair

__all__ = [
    "Veth",
    "enter_namespace",
    "exec_in_namespace",
    "in_namespace",
    "run_in_namespace",
    "veth_pair",
]

# pytest loads the hooks and the fixtures from there; nobody else imports them.
pytest_plugins = ["rawmmsg.testing.plugin"]
