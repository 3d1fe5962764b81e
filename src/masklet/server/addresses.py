"""Which addresses strangers may make the server connect to. Judges addresses, never the text they were written as."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

PRIVATE = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",  # carriers' NAT (RFC 6598), and some clouds' own services
            "::1/128",
            "fc00::/7",
            "fec0::/10",  # site-local, which Python counts as global
        ),
    )
)
"""This machine and its own network: allowed where the one who runs the server says so."""
NEVER = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments, some of which Python counts as global
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # Azure's own service for its machines, on a public address
            "fd00:ec2::/32",  # Amazon's likewise, metadata among it
            "2001::/23",  # Teredo and other protocols that carry addresses
            "2002::/16",  # 6to4
            "64:ff9b:1::/48",  # NAT64 for local use
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
        ),
    )
)
"""Addresses that carry or stand for others, and those of clouds that tell secrets to whoever is near."""
NAT64 = ip_network("64:ff9b::/96")
"""Networks without IPv4 reach all of it by these, so what is inside decides."""
ISATAP = {0x0000_5EFE, 0x0200_5EFE}
"""The upper half of an interface's id that carries an IPv4 address."""


def why_refused(text: str, *, private: bool = False) -> str | None:
    """Say why an address must not be connected to; None if it may be. `private`: this server's network may be, too."""
    address = _carried(ip_address(text))
    if any(address in network for network in NEVER) or _is_isatap(address):
        return "is an address that stands for another"
    if any(address in network for network in PRIVATE):
        return None if private else "is an address of a private network"
    if not address.is_global or address.is_multicast or address.is_reserved:
        return "is not a public address"
    return None


def _carried(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that is meant by an IPv6 one, where the network would reach it."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_isatap(address: IPv4Address | IPv6Address) -> bool:
    return isinstance(address, IPv6Address) and (int(address) >> 32) & 0xFFFF_FFFF in ISATAP
