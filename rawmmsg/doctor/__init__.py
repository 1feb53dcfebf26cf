"""`rawmmsg doctor`: finds out why packets are not sent or received.

It looks at this machine, at one interface, and at the packet sockets on it,
and prints findings. It changes nothing that another program could notice: all
options are set on sockets of its own, which it closes again.

    command.py      the subcommand
    plan.py         which checks run, in which order
    finding.py      what a check returns
    quoting.py      names in commands and in Python
    printing.py     findings as text and as JSON
    acceptance.py   what a filter can accept
    checks/         one file for each kind of check
    kernel/         reads the kernel's tables: netlink, ethtool, /proc
"""
