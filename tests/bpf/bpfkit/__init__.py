"""Shared by the tests of ``rawmmsg.bpf``: the corpus, packets, libpcap's
answers, and a virtual machine that counts.
"""
