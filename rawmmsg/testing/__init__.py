"""Private network namespaces and veth pairs, for tests that send frames.

PYTEST_DONT_REWRITE
"""

from .namespace import (
    Veth,
    enter_namespace,
    exec_in_namespace,
    in_namespace,
    run_in_namespace,
    veth_pair,
)

__all__ = [
    "Veth",
    "enter_namespace",
    "exec_in_namespace",
    "in_namespace",
    "run_in_namespace",
    "veth_pair",
]

pytest_plugins = ["rawmmsg.testing.namespace"]
