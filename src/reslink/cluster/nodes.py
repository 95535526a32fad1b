"""What a node of a cluster must fulfill before it works."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import reslink
from reslink.bundles.bundle import Bundle
from reslink.errors import UsageError
from reslink.files import sha256
from reslink.inference.classifier import Classifier
from reslink.remote_paths import parse_remote


def bundle_digest(bundle: Bundle) -> str:
    """Returns the SHA-256 of all files of a saved bundle."""
    if bundle.folder is None:
        raise ValueError("the bundle is not saved")
    return sha256(" ".join(sha256(path) for path in sorted(bundle.folder.iterdir()) if path.is_file()))


def check_files(files: Sequence[Path]) -> None:
    """Runs on a node: checks that it sees at least one of some files.

    Raises:
        UsageError: If it sees none.
    """
    if files and not any(parse_remote(file) or os.path.lexists(file) for file in files):
        raise UsageError(
            f"A node of the cluster sees none of the {len(files)} files from {files[0]} on",
            "The files must be on storage that all nodes share under the same path",
            "Mount the storage on every node, and run the command there",
        )


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


@lru_cache(maxsize=1)
def load_classifier(bundle: str, digest: str, backend: str, sequence: str | None = None) -> Classifier:
    """Runs on a node: returns a classifier with one thread. A process loads it once.

    Args:
        bundle: Name or folder of the bundle.
        digest: From :func:`bundle_digest`.
        backend: The name of a backend.
        sequence: The MR sequence of the files; None takes what each file states.

    Raises:
        UsageError: If this machine has another bundle.
    """
    classifier = Classifier.load(bundle, device="cpu", backend=backend, threads=1, sequence=sequence)
    if bundle_digest(classifier.bundle) != digest:
        raise UsageError(
            f"The bundle {bundle} has other content on a node of the cluster",
            "All nodes need the same bundle",
            "Put it on storage that all nodes share, and give its folder",
        )
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    return classifier
