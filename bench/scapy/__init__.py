"""Scapy with its own sockets and functions, and with those of rawmmsg."""
