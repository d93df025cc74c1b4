"""Loaded by every Python process that has this folder on PYTHONPATH: refuses every address but loopback.

An audit hook sees each connection and each name lookup, whichever library asks, and cannot be taken off again.
"""

import socket
import sys

_LOCAL_NAMES = {"", "*", "localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"}
_HOST_EVENTS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}  # (host, ...)
_ADDRESS_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getnameinfo"}  # (..., (host, port))


def _is_local(host) -> bool:
    if host is None:
        return True
    name = (host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)).lower().rstrip(".")
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    import ipaddress

    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False  # any other name
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 means this machine


def _check_host(host) -> None:
    if not _is_local(host):
        raise OSError(f"this run is offline: {host!r} was refused, only loopback is allowed")


def _check_address(address) -> None:
    # Unix sockets have a string, netlink and others start with a number: none of them leaves the machine.
    if isinstance(address, tuple) and address and isinstance(address[0], str | bytes | bytearray):
        _check_host(address[0])


def _hook(event, arguments):
    if event in _HOST_EVENTS:
        _check_host(arguments[0])
    elif event in _ADDRESS_EVENTS:
        _check_address(arguments[-1])


def _before(method):
    def checked(self, *arguments):
        _check_address(arguments[-1] if arguments else None)
        return method(self, *arguments)

    return checked


sys.addaudithook(_hook)
# A name given to these is looked up by the C library before the hook hears of it: refused one step earlier.
for _name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, _name, _before(getattr(socket.socket, _name)))
