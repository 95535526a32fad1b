"""The trackers of Accelerate behind one interface: each writes files below a folder and opens no network connection.

A tracker records neither paths nor names of host and user.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import yaml
from PIL import Image as Picture

from reslink.errors import check_choice
from reslink.files import optional_import, write_atomic
from reslink.settings_text import read_yaml

PROJECT: Final = "reslink"

_FINISH_SECONDS: Final = 120


class Tracker(ABC):
    """Records one run.

    Args:
        folder: The folder that it writes to.
    """

    records: ClassVar[str]
    """Pattern of the files or folders in ``folder`` of which each attempt of the run has one."""

    _tracker: Any

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def earlier(self) -> list[Path]:
        """Returns the records of earlier attempts of the run."""
        return sorted(self._folder.glob(self.records))

    @abstractmethod
    def start(self, name: str, settings: Mapping[str, Any], epoch: int | None) -> None:
        """Opens the records of the run: those of earlier attempts, or new ones with the settings.

        Args:
            name: Name of the run.
            settings: Hyper-parameters by dotted name.
            epoch: The next epoch; None after the last one.
        """

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Records numbers of an epoch."""
        self._tracker.log(dict(values), step=step)

    def text(self, title: str, text: str, step: int) -> None:
        """Records a text in Markdown."""
        self._tracker.log({title: text}, step=step)

    @abstractmethod
    def image(self, title: str, path: Path, step: int) -> None:
        """Records a PNG."""

    @abstractmethod
    def finish(self, *, completed: bool) -> None:
        """Writes what is buffered and closes the records.

        Args:
            completed: Whether the run ended without an error or interruption.
        """


class TensorBoard(Tracker):
    """Event files for TensorBoard."""

    records = "events.out.tfevents.*"

    def start(self, name: str, settings: Mapping[str, Any], epoch: int | None) -> None:  # noqa: ARG002
        """Opens an event file; earlier records from the next epoch on are hidden."""
        from accelerate.tracking import TensorBoardTracker

        self._remove_host()
        earlier = self.earlier()
        self._tracker = TensorBoardTracker("", self._folder, purge_step=epoch if earlier else None)
        self._tracker.start()
        if not earlier:
            self._tracker.store_init_configuration({key: _scalar(value) for key, value in settings.items()})

    def image(self, title: str, path: Path, step: int) -> None:
        """Records a PNG."""
        self._tracker.log_images({title: _pixels(path)[None]}, step=step, dataformats="NHWC")

    def finish(self, *, completed: bool) -> None:  # noqa: ARG002
        """Closes the event file."""
        self._tracker.finish()
        self._remove_host()

    def _remove_host(self) -> None:
        """Renames closed event files, because TensorBoard puts the name of the host into theirs."""
        host = f".{platform.node()}."
        for path in self._folder.rglob(f"events.out.tfevents.*{host}*"):
            path.rename(path.with_name(path.name.replace(host, f".{PROJECT}.")))


class MLflow(Tracker):
    """A file store of MLflow. Its paths are relative, so the folder can be moved."""

    records = "*/*/meta.yaml"

    def start(self, name: str, settings: Mapping[str, Any], epoch: int | None) -> None:  # noqa: ARG002
        """Opens the store, which holds one run."""
        import mlflow
        from accelerate.tracking import MLflowTracker

        self._before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.environment_variables.MLFLOW_ALLOW_FILE_STORE.set(True)
        mlflow.set_tracking_uri(self._folder.as_uri())
        try:
            self._convert_paths(lambda path: path if "://" in path else f"{self._folder.as_uri()}/{path}")
            run_id = next((path.parent.name for path in self.earlier()), None)
            tags = {"mlflow.user": PROJECT, "mlflow.source.name": PROJECT}  # else those of the user and the path of the program
            self._tracker = MLflowTracker(PROJECT, run_id=run_id, run_name=name, tags=tags)
            self._tracker.start()
        except BaseException:
            mlflow.set_tracking_uri(self._before)
            raise
        if run_id is None:
            self._tracker.store_init_configuration({key: _scalar(value) for key, value in settings.items()})

    def text(self, title: str, text: str, step: int) -> None:  # noqa: ARG002
        """Writes the text to an artifact, which has no step."""
        import mlflow

        mlflow.log_text(text, f"{title}.md")

    def image(self, title: str, path: Path, step: int) -> None:  # noqa: ARG002
        """Copies the PNG to the artifacts."""
        self._tracker.log_artifact(str(path), str(Path(title).parent))

    def finish(self, *, completed: bool) -> None:
        """Ends the run, as killed if it is not complete."""
        import mlflow

        if completed:
            self._tracker.finish()
        else:
            mlflow.end_run("KILLED")
        mlflow.set_tracking_uri(self._before)
        self._convert_paths(lambda path: path.removeprefix(f"{self._folder.as_uri()}/"))

    def _convert_paths(self, convert: Callable[[str], str]) -> None:
        """Converts the paths of artifacts in the files of the store; MLflow works with absolute ones."""
        for path in [*self._folder.glob("*/meta.yaml"), *self.earlier()]:
            values = read_yaml(path)
            key = "artifact_uri" if "artifact_uri" in values else "artifact_location"
            write_atomic(path, yaml.safe_dump(values | {key: convert(values[key])}, allow_unicode=True))


class WandB(Tracker):
    """Files of Weights & Biases in its offline mode, which ``wandb sync`` can upload."""

    records = "wandb/offline-run-*-*"

    def start(self, name: str, settings: Mapping[str, Any], epoch: int | None) -> None:  # noqa: ARG002
        """Starts the process of wandb in its offline mode."""
        import wandb
        from accelerate.tracking import WandBTracker

        self._folder.mkdir(parents=True, exist_ok=True)
        run_id = next((path.name.rpartition("-")[2] for path in self.earlier()), None)
        unnamed = dict.fromkeys(("host", "username", "email", "program_abspath", "program_relpath"), "")
        finish = {"finish_timeout": _FINISH_SECONDS, "finish_timeout_raises": True}  # by default forever
        off = dict.fromkeys(("save_code", "symlink", "x_save_requirements"), False)
        disabled = dict.fromkeys(("disable_git", "x_disable_meta", "x_disable_machine_info", "x_disable_stats"), True)
        self._tracker = WandBTracker(
            PROJECT,
            mode="offline",
            dir=str(self._folder),
            id=run_id,
            name=name,
            settings=wandb.Settings(
                console="off", silent=True, reinit="create_new", program=PROJECT, **finish, **unnamed, **off, **disabled
            ),
        )
        self._logs = tempfile.TemporaryDirectory(prefix="reslink-wandb-")
        try:
            with _environment("WANDB_CACHE_DIR", self._logs.name):  # else its process keeps a log in the home folder
                self._tracker.start()
        except BaseException:
            self._logs.cleanup()
            raise
        if run_id is None:
            self._tracker.tracker.config.update(dict(settings))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Records numbers of an epoch; those of an earlier one at the last step, because wandb drops earlier steps."""
        super().metrics(values, max(step, self._tracker.tracker.step))

    def image(self, title: str, path: Path, step: int) -> None:
        """Records a PNG."""
        self._tracker.log_images({title: [_pixels(path)]}, step=step)

    def finish(self, *, completed: bool) -> None:
        """Ends the run and the process of wandb, and removes its logs, which hold absolute paths."""
        import wandb

        self._tracker.tracker.finish(exit_code=0 if completed else 1)
        if wandb.run is None:  # the caller has no run of his own
            wandb.teardown()  # ends its process
        for attempt in self.earlier():
            shutil.rmtree(attempt / "logs", ignore_errors=True)
        self._logs.cleanup()


_TRACKERS: Final[Mapping[str, type[Tracker]]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
"""The trackers by name. Package and extra have the same name."""


def make_tracker(name: str, folder: Path) -> Tracker:
    """Returns a tracker that writes below a folder.

    Raises:
        UsageError: If there is no such tracker, or its package is not installed.
    """
    check_choice("tracker", name, _TRACKERS)
    optional_import(name, name)
    return _TRACKERS[name](folder)


@contextmanager
def _environment(variable: str, value: str) -> Iterator[None]:
    """Sets an environment variable inside the block."""
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before


def _scalar(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Picture.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
