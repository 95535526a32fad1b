"""``reslink export``: converts a bundle to another format and checks that the outputs agree."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import BundleFolder, Json, OutFolder, Overwrite, OwnNetwork
from reslink.files import check_overwrite, check_replaceable

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
        typer.Option("--format", "-f", help="Output format.", show_default=False),
    ],
    out: OutFolder,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Images for the parity check; default: synthetic heads.", show_default=False
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Number of images (slices) for the parity check.")] = 32,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option("--precision", help="Precision of OpenVINO in the parity check.")
    ] = "fp32",
    network: OwnNetwork = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export a bundle to another runtime. A parity check compares the outputs; exit code 3 if they differ.

    The folder holds the files of the format, manifest.json, parity.json, labels, license, model card and a NumPy reference of
    the preprocessing.
    """
    check_overwrite(out, "manifest.json", "an export", overwrite)
    from reslink.bundles.bundle import Bundle

    loaded = Bundle.load(bundle, network)
    check_replaceable(out, "manifest.json", "export")
    from reslink.export.folder import check_form, parity_inputs  # slow imports, after typing errors were found
    from reslink.export.folder import export as write

    check_form(loaded, form, precision)
    inputs = parity_inputs(loaded, data, images)
    for reason in inputs.failed:
        console.warn(f"Warning: the parity check skips {reason}")
    if data is None:
        console.note("The parity check uses synthetic heads; use --data FOLDER for real images.")
    report = write(loaded, form, out, inputs, precision=precision)
    if json:
        console.json(report | {"out": str(out)})
    else:
        _print_report(console, report)
        console.note(f"Written to {out}; manifest.json describes inputs and outputs.")
        console.research_use_only()


def _print_report(console: Console, report: dict[str, Any]) -> None:
    series = (str(report["series"]),) if "series" in report else ()
    rows = [
        (name, *series, str(file["images"]), f"{file['probabilities']:.2g}", f"{report['tolerance']:g}", str(file["labels"]))
        for name, file in report["files"].items()
    ]
    counted = (">series", ">slices") if series else (">images",)
    columns = ("file", *counted, ">largest probability difference", ">tolerance", ">changed labels")
    console.table(columns, rows, title=f"Loaded with {report['loader']}")
