"""Addresses of servers, as a setting may have them."""

from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def plain_address(url: str, *, like: str) -> str:
    """An address without the slash at its end.

    Args:
        like: an address as the setting takes it, for the message.

    Raises:
        ValueError: it is none, or holds a password or a query, which would end up in logs.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address; accepted: {like}, for example")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address holds no password and no '?': a key comes from the environment")
    return url.rstrip("/")


Address = Annotated[str, AfterValidator(partial(plain_address, like="http(s)://HOST:PORT"))]
ApiAddress = Annotated[str, AfterValidator(partial(plain_address, like="http(s)://HOST:PORT/v1"))]
