"""The address for which limits count a request."""

from functools import lru_cache
from ipaddress import IPv6Network, ip_address

from rest_framework.settings import api_settings

from web.parameters import HasMeta


def client_address(request: HasMeta) -> str:
    """Return the IPv4 address or the IPv6 /64 network of the client.

    That is the address of the connection, or the one that the last of `NUM_PROXIES` trusted
    proxies saw. IPv6 is counted by /64 because every customer of a provider has at least that many
    addresses. If a proxy reports something that is not an address, the request counts for the
    proxy.
    """
    connected: str = request.META.get("REMOTE_ADDR", "")
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR")
    if forwarded and api_settings.NUM_PROXIES:
        hops = forwarded.split(",")
        seen = _normalized(hops[-min(api_settings.NUM_PROXIES, len(hops))])
        if seen:
            return seen
    # A server on a Unix socket has no address of the connection.
    return _normalized(connected) or connected


@lru_cache(maxsize=1024)
def _normalized(text: str) -> str | None:
    """Return the address without port and zone, None if `text` is not an address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))
