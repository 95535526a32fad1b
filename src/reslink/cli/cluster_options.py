"""Options of the commands that run on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from reslink.cli.offline import allow_loopback, check_sockets
from reslink.errors import UsageError

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
SHARD_FILES: Final = 2000
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size",
        metavar="N",
        min=1,
        help=f"Number of files per task of --on; default: {SHARD_FILES}.",
        show_default=False,
    ),
]


def shard_files(shard_size: int | None, on: str | None) -> int:
    """Returns the number of files per task.

    Raises:
        UsageError: If it was given without a cluster.
    """
    if shard_size is not None and on is None:
        raise UsageError(
            "--shard-size was given without --on",
            "Only tasks of a cluster have a size",
            "Remove it, or add --on, such as --on ray",
        )
    return shard_size or SHARD_FILES


def check_address(on: str | None) -> str | None:
    """Returns what was given to ``--on`` after the checks of :func:`cluster_address`."""
    return None if on is None else cluster_address(on).text


def cluster_address(on: str) -> ClusterAddress:
    """Returns the cluster that ``--on`` names.

    Raises:
        UsageError: If it is not an address; or if it is on another machine, and ``--offline`` was given or there is no token.
    """
    from reslink.cluster.connection import LOCAL, check_token, parse_address

    address = parse_address(on)
    if address.text != LOCAL:
        check_sockets(f"--on {on}", "The cluster may have other machines")
    check_token(address)
    allow_loopback()
    return address
