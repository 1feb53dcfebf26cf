"""What the commands `rawmmsg bridge`, `switch`, `record` and `replay` share.

arguments    values and options that several of them have
grammar      how interfaces and other ports are written
messages     messages to the user, and signals
privileges   what a process gives up once its sockets are open
terminal     lines on standard error
"""
