"""What a node of a cluster must fulfill before it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import reslink
from reslink.errors import UsageError


@dataclass(frozen=True)
class WorkingPlace:
    """Where the tasks of a job work: as the process that gives them does.

    Attributes:
        output: The folder of the results.
        folder: The working folder, from which relative paths start.
        version: The version of reslink.
    """

    output: str
    folder: str
    version: str

    @classmethod
    def here(cls, output: Path) -> WorkingPlace:
        """Returns the place of this process."""
        return cls(str(output.absolute()), str(Path.cwd()), reslink.__version__)

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Runs on a node: works in the folder while the block runs.

        Raises:
            UsageError: If the node has another version of reslink, or does not share the storage.
        """
        if reslink.__version__ != self.version:
            raise UsageError(
                f"A node of the cluster has reslink {reslink.__version__}, and this machine {self.version}",
                "All nodes need the same version, so that all parts of a result agree",
                f"Install reslink {self.version} on every node",
            )
        for path in (self.output, self.folder):
            if not Path(path).is_dir():
                raise UsageError(
                    f"A node of the cluster has no folder {path}",
                    "Data, bundle and results must be on storage that all nodes share under the same path",
                    "Mount the storage on every node, and run the command there",
                )
        with contextlib.chdir(self.folder):
            yield
