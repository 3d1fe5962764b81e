"""No connection leaves this machine while tests run, from their own process or from one they start."""

import sys

tried = []
"""Addresses that somebody tried to reach; raising alone could be swallowed by whoever tried."""


def is_here(host):
    """Whether a host is this machine, or none."""
    return host in (None, "", b"", "::1", "localhost", "0.0.0.0") or str(host).startswith("127.")


def hook(event, args):
    """Refuse connections and name look-ups that are not for this machine (Python's audit events)."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if not is_here(host):
        tried.append(host)
        raise ConnectionRefusedError(f"tests must not reach {host}")


sys.addaudithook(hook)
