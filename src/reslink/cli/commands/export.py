"""``reslink export``: a bundle in another party's format, once it was found to give the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reslink.cli.command import refuse_earlier
from reslink.cli.console import Console
from reslink.cli.options import BundleFolder, Json, Overwrite

EXAMPLES = (
    "reslink export ct --format onnx --out ct-onnx",
    "reslink export runs/first/bundle --format openvino --data images/ --out here --json",
    "reslink export runs/first/bundle --format hf --out here",
)


def export(
    console: Console,
    bundle: BundleFolder,
    form: Annotated[
        Literal["onnx", "openvino", "torch-export", "monai", "hf"],
        typer.Option("--format", "-f", help="What is written.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the export.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Images for the parity gate; synthetic heads if not given.", show_default=False
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Images that the gate compares on.")] = 32,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option("--precision", help="Under what OpenVINO is compared.")
    ] = "fp32",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export a bundle to another runtime; a gate compares its answers with the package's and says no (3) if they differ.

    The folder holds the files of the format, manifest.json, parity.json, labels, licence, model card and a NumPy reference of
    the preprocessing.
    """
    refuse_earlier(out, "manifest.json", "an export", overwrite)
    from reslink.bundles.bundle import Bundle
    from reslink.export.folder import export as write
    from reslink.export.parity import Inputs

    loaded = Bundle.load(bundle)
    inputs = Inputs.synthetic(images) if data is None else Inputs.read(data, images)
    for reason in inputs.failed:
        console.warn(f"Warning: the gate leaves out {reason}")
    if data is None:
        console.note("The gate compares on synthetic heads; --data FOLDER takes real images.")
    report = write(loaded, form, out, inputs, precision=precision)
    if json:
        console.json(report | {"out": str(out)})
    else:
        _say(console, report)
        console.note(f"Written to {out}; manifest.json says what goes in and what comes out.")
        console.research_use_only()


def _say(console: Console, report: dict[str, Any]) -> None:
    rows = [
        (name, str(found["images"]), f"{found['probabilities']:.2g}", f"{report['tolerance']:g}", str(found["labels"]))
        for name, found in report["files"].items()
    ]
    columns = ("file", ">images", ">largest difference of a probability", ">allowed", ">other labels")
    console.table(columns, rows, title=f"Read back by {report['loader']}")
