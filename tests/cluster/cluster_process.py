"""A Ray cluster of this machine, until its standard input ends.

python tests/cluster/cluster_process.py NODES      says its address, then obeys: add, kill ID
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

SMALL = {"object_store_memory": 80_000_000}


def patient(get: Callable[..., Any], within_s: float = 600) -> Callable[..., Any]:
    """Asks for a node until it is known: Ray itself, on a busy machine, gives up after 30 s."""

    def ask(*words: Any, **options: Any) -> Any:
        until = time.monotonic() + within_s
        while True:
            try:
                return get(*words, **options)
            except RuntimeError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.2)

    return ask


def main() -> None:
    import ray.cluster_utils
    from ray._private import services

    services.get_node = patient(services.get_node)
    made = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL}
    )
    nodes = [made.add_node(num_cpus=1, **SMALL) for _ in range(int(sys.argv[1]))]
    print(f"address {made.address}", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "add":
            nodes.append(
                made.add_node(wait=False, num_cpus=1, **SMALL)
            )  # the killed one still counts
        elif word == "kill":
            gone = next(node for node in nodes if node.node_id.startswith(rest[0]))
            nodes.remove(gone)
            made.remove_node(gone, allow_graceful=False)
        print("done", flush=True)
    made.shutdown()


if __name__ == "__main__":
    main()
