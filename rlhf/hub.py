"""The Hugging Face Hub, asked only where it can be reached.

Without a network its client tries each request six times, for half a minute. So before the first request of a process a
connection is opened, once; where there is none, the client is told to work with its cache alone, as HF_HUB_OFFLINE=1
would.
"""

import os
import socket
import sys
import threading
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rlhf.errors import UserError

PATIENCE_S = 10.0  # without a network the answer comes at once; behind a firewall that drops everything it never comes


def use_cache_if_unreachable() -> str:
    """Have the Hub's client work with its cache alone if the Hub cannot be reached. Returns why, or ""."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return os.environ.get(_REASON, "HF_HUB_OFFLINE is set")
    reason = _why_unreachable(constants.ENDPOINT)
    if reason:
        os.environ.update({"HF_HUB_OFFLINE": "1", _REASON: reason})  # of what is loaded later, and of other processes
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return reason


_REASON = "RLHF_HUB_UNREACHABLE"


def refuse_unknown_model(name: str, label: str) -> None:
    """See that the Hub, or its cache, has a model of that name: its config.json is fetched.

    Args:
        label: what a message calls it: the key and its value.

    Raises:
        UserError: it has not, or may not be seen.
    """
    reason = use_cache_if_unreachable()
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, "config.json")
    except Exception as error:  # of many kinds: Hub, network, a name that no model can have
        why = f"the Hub: {reason}" if reason else str(error).strip().split("\n")[0]
        raise UserError(
            f"{label} is neither a folder here nor a model that the Hugging Face Hub or its cache has ({why})",
            hint="Check the id and the network (gated models need HF_TOKEN), or use 'embedded', which is always there.",
        ) from error


def may_be_cached(data_set: str) -> bool:
    """Whether the cache has something of that data set: its files, or its tables, which `datasets` keeps under a name
    that it makes of the owner's and the set's."""
    from huggingface_hub import constants

    owner, _, _ = data_set.rpartition("/")
    downloaded = Path(constants.HF_HUB_CACHE) / f"datasets--{data_set.replace('/', '--')}"
    tables = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    return downloaded.exists() or any(tables.glob(f"{owner}___*" if owner else "*"))


@cache
def _why_unreachable(endpoint: str) -> str:
    """Why the Hub, or the proxy on the way to it, takes no connection; "" if it does."""
    url = urlsplit(endpoint)
    if (proxy := getproxies().get(url.scheme)) and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (url.hostname or "", url.port or {"http": 80}.get(url.scheme, 443))
    found = [f"{address[0]} does not answer within {PATIENCE_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=PATIENCE_S).close()
            found.append("")
        except OSError as error:
            found.append(f"{address[0]}: {error.strerror or error}")

    # A thread, since looking a name up has no time limit of its own.
    asking = threading.Thread(target=connect, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return found[-1]
