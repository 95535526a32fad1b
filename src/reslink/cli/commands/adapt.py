"""``reslink adapt``: adapts a bundle to the patients of another hospital."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reslink.cli.commands.calibrate import print_calibration
from reslink.cli.console import Console
from reslink.cli.options import (
    FOLDER,
    BatchSize,
    BundleFolder,
    Columns,
    Coverage,
    Data,
    Device,
    Json,
    OperatingPointText,
    Overwrite,
    OwnNetwork,
    PerClass,
    PerSource,
    Root,
    Split,
    Unit,
)

EXAMPLES = (
    "reslink adapt ct our-patients.csv --out ct-here",
    "reslink adapt ct our-patients.csv --out ct-here --head",
    "reslink adapt ct our-patients.csv --out ct-here --batch-norm --operating-point sensitivity=0.95",
)


def adapt(
    console: Console,
    bundle: BundleFolder,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="NEWBUNDLE", help="Folder of the new bundle.", show_default=False), FOLDER
    ],
    batch_norm: Annotated[
        bool,
        typer.Option("--batch-norm", help="Mix the statistics of BatchNorm layers with those of half of the local groups."),
    ] = False,
    head: Annotated[
        bool, typer.Option("--head", help="Fit the last dense layer to half of the local groups, near the weights of BUNDLE.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the division into halves.")] = 0,
    operating_point: OperatingPointText = "default",
    coverage: Coverage = 0.95,
    per_class: PerClass = False,
    per_source: PerSource = False,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    split: Split = "all",
    batch_size: BatchSize = 32,
    network: OwnNetwork = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Adapt a model to labeled patients of your hospital: its decision, and if wanted a part of its network.

    With --batch-norm or --head, half of the groups (patients, near duplicates together) adapt the network, and the other half
    fits the decision. Evaluate the new bundle on other patients.
    """
    from reslink.api.adapt import adapt as adapt_bundle
    from reslink.bundles.bundle import Bundle

    previous, progress = Bundle.load(bundle), console.progress()
    try:
        result = adapt_bundle(
            bundle,
            data,
            out,
            batch_norm=batch_norm,
            head=head,
            seed=seed,
            operating_point=operating_point,
            coverage=coverage,
            per_class=per_class,
            per_source=per_source,
            columns=columns,
            root=root,
            unit=unit,
            split=None if split == "all" else split,
            batch_size=batch_size,
            network=network,
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
    finally:
        progress.end()
    if result["adapted"] is not None:
        console.note(_adapted_text(result["adapted"]))
    print_calibration(console, previous, result, json=json)


def _adapted_text(adapted: dict[str, Any]) -> str:
    """Returns what was changed in the network, in sentences."""
    texts = [f"Adapted on {adapted['images']} images in {adapted['groups']} groups."]
    if "batch_norm_weight" in adapted:
        texts.append(f"BatchNorm: these images have the weight {adapted['batch_norm_weight']:.2f}.")
    if "head_strength" in adapted:
        strength, loss = adapted["head_strength"], adapted["head_cross_entropy"]
        change = "unchanged, no fit was better" if strength is None else f"fitted with penalty {strength:g}"
        texts.append(
            f"Head: {change}; cross-entropy on held-out groups {loss['before']:.3f} before, {loss['after']:.3f} after."
        )
    return " ".join(texts)
