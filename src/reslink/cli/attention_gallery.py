"""The gallery of a run: where the network looked in some test cases, and whether its maps depend on what it learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reslink.files import write_json

if TYPE_CHECKING:
    from reslink.cli.console import Bar, Lines
    from reslink.datasets.manifest import Manifest

METHODS = ("final_attention", "grad_cam")
CHECKED = 16


def write_gallery(run: Path, cases: Manifest, device: str, progress: Bar | Lines) -> None:
    """Writes ``figures/gallery_*.png``, ``figures/gallery.json`` and ``figures/sanity.json``, which the page shows.

    Args:
        run: The run folder, with ``predictions.csv``, ``bundle/`` and ``cache/``.
        cases: The cases judged.
        device: Where the network runs.
        progress: Hears how far it is.
    """
    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.explain.run import randomisation_checks
    from reslink.inference.classifier import Classifier
    from reslink.reports.run.attention_gallery import attention_gallery

    progress.start(2, "Drawing where it looks")
    try:
        classifier = Classifier.load(run / "bundle", device=device)
        attention_gallery(classifier, cases, run / "predictions.csv", run / "figures")
        progress.step()
        cache = PixelCache.open(cases, classifier.bundle.preprocess, run / "cache")
        spread = range(0, len(cache), max(1, len(cache) // CHECKED))
        checks = randomisation_checks(classifier, [cache.pixels[row] for row in spread][:CHECKED], METHODS)
        write_json(run / "figures" / "sanity.json", [check.as_dict() for check in checks])
        progress.step()
    finally:
        progress.end()
