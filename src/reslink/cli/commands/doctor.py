"""``reslink doctor``: checks this installation and gives advice."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reslink import __version__
from reslink.cli.cluster_options import cluster_address
from reslink.cli.console import Console
from reslink.cli.options import Json
from reslink.cores import available_cores
from reslink.errors import UsageError, counted, listed
from reslink.files import TELEMETRY_MODULES, TELEMETRY_PACKAGES, install_command, optional_import

if TYPE_CHECKING:
    from reslink.cluster.connection import ClusterAddress
    from reslink.cluster.inspection import NodeState

EXAMPLES = (
    "reslink doctor",
    "reslink doctor --out runs --json",
    "reslink doctor --ray",
    "reslink doctor --on ray://head.example.org:10001 --out /shared/runs",
)

_LIBRARY = re.compile(r"^\"?([^,\"\n]*\.(?:so|dylib|dll)(?:\.[^,\"\n]*)?)\"?,", re.MULTILINE)
"""A file of machine code in the list of files of a package."""

_DECODERS = {"openjpeg": "dicom", "jpeg_ls": "dicom", "rle": "dicom", "gdcm": "gdcm"}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: The name of the check.
        status: ``ok``, ``warning`` (works with a limitation) or ``failed``.
        details: The result in words.
        advice: The next step for the user; empty if none is needed.
    """

    name: str
    status: Literal["ok", "warning", "failed"]
    details: str
    advice: str = ""


def doctor(
    console: Console,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for runs, to be checked.")] = Path(),
    json: Json = False,
    ray: Annotated[bool, typer.Option("--ray", help="Also check Ray: start a cluster on this machine once.")] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="CLUSTER", help="Also check a running cluster: ray://HOST:PORT or HOST:PORT.", show_default=False
        ),
    ] = None,
) -> None:
    """Check Python, packages, torch, threads, memory, disk and DICOM decoders. Exit code 1 if a check failed.

    With --ray or --on, also check Ray, and that all nodes have this version of reslink and share the folder of --out.
    """
    address = cluster_address(on or "ray") if on is not None or ray else None
    functions = [_python, _packages, _torch]
    if find_spec("torch") is not None:
        functions += [_threads, _arithmetic]
    libraries = native_libraries()
    checks = [
        *(function() for function in functions),
        _memory(),
        _decoders(),
        _telemetry(),
        _libraries(libraries),
        _writing(out),
        _space(out),
        *([] if address is None else _cluster(address, out)),
    ]
    failed = any(check.status == "failed" for check in checks)
    if json:
        rows = [asdict(library) for library in libraries]
        console.json({"ok": not failed, "checks": [asdict(check) for check in checks], "native_libraries": rows}, indent=2)
    else:
        console.table(("check", "status", "details", "advice"), [(c.name, c.status, c.details, c.advice) for c in checks])
    if failed:
        raise typer.Exit(1)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", version)
    return Check("python", "warning", version, "reslink is tested on Python 3.11, 3.12 and 3.13")


def _missing(names: tuple[str, ...]) -> dict[str, str]:
    missing = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = str(error)
    return missing


def _required() -> tuple[str, ...]:
    """Returns one module of each package that reslink requires; the name of the package if it is missing."""
    modules: dict[str, str] = {}
    for module, packages in metadata.packages_distributions().items():
        for package in packages:
            if _normalized(module) == _normalized(package) or (
                _normalized(package) not in modules and not module.startswith("_")
            ):
                modules[_normalized(package)] = module
    required = [text for text in metadata.requires("reslink") or [] if "extra ==" not in text]
    names = [re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in required]
    return tuple(modules.get(_normalized(name), name) for name in names)


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _packages() -> Check:
    required = _required()
    missing = _missing(required)
    if not missing:
        return Check("packages", "ok", f"{len(required)} required packages can be imported")
    advice = f"Run: python -m pip install {' '.join(missing)}"
    return Check("packages", "failed", "; ".join(f"{name}: {why}" for name, why in missing.items()), advice)


def _torch() -> Check:
    if find_spec("torch") is None:
        return Check("torch", "ok", "not installed", f"Needed only to train and to explain. Run: {install_command('train')}")
    import torch

    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        return Check("torch", "ok", f"{version}, CUDA {torch.version.cuda}: {torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return Check("torch", "ok", f"{version}, Apple GPU (--device mps)")
    if torch.version.cuda is not None:
        advice = "Update the NVIDIA driver, or install the smaller CPU build of torch"
        return Check("torch", "warning", f"{version} is a CUDA build, but no GPU is available; the CPU is used", advice)
    return Check("torch", "ok", f"{version}, CPU build")


def _threads() -> Check:
    import torch

    threads, cores = torch.get_num_threads(), available_cores()
    details = f"{threads} threads on {cores} cores"
    if threads > cores:
        return Check("threads", "warning", details, f"More threads than cores slow training: set OMP_NUM_THREADS={cores}")
    return Check("threads", "ok", details)


def _arithmetic() -> Check:
    import torch

    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, 8, 64, 64, generator=generator), torch.randn(8, 8, 3, 3, generator=generator)
    began = time.perf_counter()
    difference = (torch.nn.functional.conv2d(x, w) - torch.nn.functional.conv2d(x.double(), w.double())).abs().max().item()
    milliseconds = (time.perf_counter() - began) * 1000
    if difference > 1e-3:
        return Check("convolution", "failed", f"fp32 differs from fp64 by {difference:.1e}", "Reinstall torch")
    return Check("convolution", "ok", f"fp32 agrees with fp64 to {difference:.0e} ({milliseconds:.0f} ms)")


def _memory() -> Check:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        return Check("memory", "ok", "not known on this system")
    if free < 2:
        return Check(
            "memory",
            "warning",
            f"{free:.1f} GiB free",
            "Training needs up to 2 GB: close other programs or lower --batch-size",
        )
    return Check("memory", "ok", f"{free:.1f} GiB free")


def _writing(folder: Path) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".reslink-doctor-") as stream:
            stream.write(b"x")
    except OSError as error:
        return Check("writing", "failed", f"{folder.resolve()}: {error.strerror}", "Choose a folder with write permission")
    return Check("writing", "ok", f"{folder.resolve()} is writable")


def _space(folder: Path) -> Check:
    free = shutil.disk_usage(folder if folder.exists() else Path()).free / 2**30
    if free < 1:
        return Check("disk", "warning", f"{free:.1f} GiB free", "A run stores a copy of its images as a cache: free some space")
    return Check("disk", "ok", f"{free:.1f} GiB free")


def _decoders() -> Check:
    missing = _missing(tuple(_DECODERS))
    if not missing:
        return Check("DICOM decoders", "ok", "JPEG 2000, JPEG-LS, RLE and JPEG lossless")
    extras = sorted({_DECODERS[name] for name in missing})
    advice = f"Needed only for compressed DICOM files. Run: {install_command(*extras)}"
    return Check("DICOM decoders", "warning", f"missing: {', '.join(missing)}", advice)


def _telemetry() -> Check:
    """Imports the packages with a telemetry module as the other commands do, and looks whether that module is loaded."""
    installed = [name for name in TELEMETRY_PACKAGES if find_spec(name) is not None]
    for name in TELEMETRY_MODULES.keys() & set(installed):
        with suppress(UsageError):  # a broken installation is not a matter of telemetry
            optional_import(name, name)
    if sys.modules.get("openvino_telemetry") is not None:
        return Check("telemetry", "failed", "openvino_telemetry is loaded", "Report this, and remove openvino-telemetry")
    return Check("telemetry", "ok", f"off in {', '.join(installed)}" if installed else "no package that sends any")


@dataclass(frozen=True)
class NativeLibrary:
    """A library in machine code that the wheel of a package bundles.

    Attributes:
        package: Name of the package.
        version: Version of the package.
        file: Name of the file, which often holds the version of the library.
    """

    package: str
    version: str
    file: str


def native_libraries() -> list[NativeLibrary]:
    """Returns the libraries in the folders ``PACKAGE.libs`` and ``.dylibs``, and all others whose name begins with ``lib``."""
    found = []
    for package in metadata.distributions():
        for line in _LIBRARY.findall(package.read_text("RECORD") or ""):  # package.files is slow for large packages
            path = PurePosixPath(line)
            if path.parts[0].endswith(".libs") or ".dylibs" in path.parts or path.name.startswith("lib"):
                found.append(NativeLibrary(str(package.metadata["Name"]), package.version, path.name))
    return sorted(found, key=lambda library: (library.package.lower(), library.file))


def _libraries(libraries: Sequence[NativeLibrary]) -> Check:
    packages = {library.package for library in libraries}
    return Check("native libraries", "ok", f"{len(libraries)} bundled by {len(packages)} packages; --json lists them")


def _cluster(address: ClusterAddress, folder: Path) -> list[Check]:
    from reslink.cluster.connection import connect
    from reslink.cluster.inspection import inspect_nodes

    if find_spec("ray") is None:
        return [Check("Ray", "failed", "not installed", f"Run: {install_command('ray')}")]
    checks = [Check("Ray", "ok", metadata.version("ray"))]
    try:
        with connect(address):
            checks += _nodes(address, inspect_nodes(folder), folder)
    except UsageError as error:
        checks.append(Check("cluster", "failed", error.given, f"{error.allowed}. {error.next_step}"))
    except OSError as error:
        advice = "Choose a folder with write permission that all nodes share"
        checks.append(Check("shared folder", "failed", f"{folder.absolute()}: {error.strerror}", advice))
    return checks


def _nodes(address: ClusterAddress, nodes: Sequence[NodeState], folder: Path) -> list[Check]:
    size = f"{sum(node.cores for node in nodes)} cores, {sum(node.memory for node in nodes) / 2**30:.0f} GiB of memory"
    silent = [f"{node.address} ({node.error})" for node in nodes if node.error]
    others = [f"{node.address} has {node.version}" for node in nodes if node.version not in ("", __version__)]
    apart = [node.address for node in nodes if not node.error and not node.has_folder]
    checks = [
        Check("cluster", "ok", f"{address.text}: {counted(len(nodes), 'node')}, {size}"),
        Check("nodes", "ok", f"reslink {__version__} on every node"),
        Check("shared folder", "ok", f"every node sees {folder.absolute()}"),
        Check("token", "ok", "required by the cluster"),
    ]
    if silent or others:
        advice = f"Install reslink {__version__}, and the same versions of Python and Ray, on every node"
        checks[1] = Check("nodes", "failed", listed(silent + others), advice)
    if apart:
        advice = "Mount the storage under the same path on every node, and name a folder on it with --out"
        checks[2] = Check("shared folder", "failed", f"not on {listed(apart)}: {folder.absolute()}", advice)
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        advice = "Other users of this machine can run programs on the cluster: start it with RAY_AUTH_MODE=token"
        checks[3] = Check("token", "warning", "not required", advice)
    return checks
