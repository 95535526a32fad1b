"""Options of the commands that run on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reslink.cli.offline import allow_loopback, check_sockets

if TYPE_CHECKING:
    from reslink.cluster.connection import ClusterAddress

On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="CLUSTER",
        help="Run on Ray: ray (this machine), ray://HOST:PORT or HOST:PORT; default: in one process.",
        show_default=False,
    ),
]
ShardSize = Annotated[int, typer.Option("--shard-size", metavar="N", min=1, help="Number of files per task of --on.")]


def check_address(on: str | None) -> str | None:
    """Returns what was given to ``--on`` after the checks of :func:`cluster_address`."""
    return None if on is None else cluster_address(on).text


def cluster_address(on: str) -> ClusterAddress:
    """Returns the cluster that ``--on`` names.

    Raises:
        UsageError: If it is no address; or if it is on another machine, and ``--offline`` was given or there is no token.
    """
    from reslink.cluster.connection import LOCAL, check_token, parse_address

    address = parse_address(on)
    if address.text != LOCAL:
        check_sockets(f"--on {on}", "The cluster may have other machines")
    check_token(address)
    allow_loopback()
    return address
