"""Best-of-n over n: gold, proxy and KL, each a mean over problems with its 95 % interval."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from rlhf.evaluate.best_of import best_of, kl_of_best_of, measured_kl_of_best_of, powers_of_two
from rlhf.statistics import bootstrap, record


def curves(proxy: Float[Array, "b m"], gold: Float[Array, "b m"], *, largest_n: int, data: str) -> list[dict[str, Any]]:
    """eval.jsonl records with n as `of`, of the metrics

    gold     E[gold of the answer of n that the proxy prefers]: accuracy, where gold is 1 or 0
    proxy    E[what the proxy says of it]
    kl       KL(best-of-n || policy) of these answers, nats, with log n - (n-1)/n as `bound`

    Args:
        proxy, gold: of m answers to each of b problems.
    """
    b = len(proxy)
    found = []
    for n in powers_of_two(largest_n):
        values = {
            "gold": [best_of(*own, n) for own in zip(proxy, gold, strict=True)],
            "proxy": [best_of(own, own, n) for own in proxy],
            "kl": [measured_kl_of_best_of(own, n) for own in proxy],
        }
        for metric, of_problems in values.items():
            own = np.array(of_problems)
            estimate = bootstrap(lambda drawn, own=own: float(own[drawn].mean()), np.arange(b))
            bound = {"bound": kl_of_best_of(n)} if metric == "kl" else {}
            found.append({**record(estimate, data=data, metric=metric), "of": n, **bound})
    return found
