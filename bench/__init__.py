"""Measurements of packet I/O, run by `python -m bench`.

One file per measurement; each takes its sides in turns, in slices of a few
milliseconds (slices.py), and asserts in every slice that no frame was lost or
changed (link.py). The limit is C (limit.c), compiled when it runs.
"""
