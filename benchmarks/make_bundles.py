"""Builds a bundle that ships with the package from a finished run.

    python benchmarks/make_bundles.py ct RUN --data DATA --audit audit.json

RUN is what `reslink train` wrote and DATA what it was trained on: the decision is then fitted on the validation part of the
run and the figures are those of its test part. Without --data, RUN is a run or bundle that was calibrated already and holds
the figures of its held-out part. The texts of the card come from benchmarks/shipped.yaml. Nothing is written unless
the decision is whole, the figures rest on a clean split, the stated command is the one that trained it, the bundle is
smaller than 10 MB, and no file of it tells a path, a host or a user.
"""

from __future__ import annotations

import argparse
import getpass
import json
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import MOST_BYTES, Origin, Shipping, audit_findings, missing_parts, traces
from reslink.bundles.record import first_fault
from reslink.cli.pipeline import linked, parts
from reslink.datasets.manifest import Manifest
from reslink.datasets.public.registry import source
from reslink.errors import BundleError, ReslinkError, UsageError, nearest
from reslink.evaluation.calibrate import calibrate_bundle
from reslink.evaluation.evaluate import evaluate_bundle
from reslink.evaluation.fitting import Wishes
from reslink.evaluation.leakage import LEFT_OUT, NONE
from reslink.export.onnx import check_parity, to_onnx
from reslink.metrics.operating_point import OperatingPoint
from reslink.training.loop import changes
from reslink.training.recipe.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
CLEAN = (NONE, LEFT_OUT)
"""What an evaluation says of links to the training images where its figures rest on none."""

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class Calibration(BaseModel):
    """What `reslink calibrate` is asked for."""

    model_config = _STRICT

    method: Literal["temperature", "isotonic"] = "temperature"
    operating_point: str = "default"
    coverage: float = 0.95
    per_class: bool = False

    def wishes(self) -> Wishes:
        """Returns them as the fit takes them."""
        return Wishes(self.method, OperatingPoint.parse(self.operating_point), self.coverage, self.per_class)


class Texts(BaseModel):
    """An entry of benchmarks/shipped.yaml; `source` is a name of `reslink data list`, the rest as in `Shipping`."""

    model_config = _STRICT

    title: str
    about: str
    tells_apart: str
    modality: str
    source: str
    copy_of_data: str = ""
    licence: str = Field(min_length=1)
    limits: list[str]
    lacks: list[str] = []
    calibrate: Calibration = Calibration()
    reproduce: list[str]

    def shipping(self, audit: Path | None) -> Shipping:
        """Returns what the bundle is to say of itself."""
        known = source(self.source)
        origin = Origin(name=known.name, title=known.title, page=known.page, licence=known.terms, faults=known.faults)
        own = self.model_dump(exclude={"source", "licence", "calibrate"})
        found = [] if audit is None else audit_findings(_read_json(audit))
        return Shipping(origin=origin, findings=found, **own)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error})", "--audit takes audit.json", "Run reslink audit DATA") from error


def read_texts(path: Path) -> dict[str, Texts]:
    """Returns the texts of every bundle by name.

    Raises:
        UsageError: If the file does not hold what it should.
    """
    try:
        return {name: Texts.model_validate(entry) for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
    except (ValidationError, yaml.YAMLError, AttributeError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"{path.name} cannot be used: {fault}", "It holds an entry a bundle", "Correct the file") from error


def halved(bundle: Bundle, folder: Path) -> Bundle:
    """Saves a bundle with its weights rounded to half precision, and the graph of the rounded network beside them.

    All that is fitted and judged afterwards is that of the rounded weights, whose answers torch and the graph share.
    """
    state = bundle.network().state_dict()
    small = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    saved = bundle.save(folder, small)
    graph = to_onnx(saved)
    check_parity(saved, graph)
    return saved.with_onnx(graph)


def decided(run: Path, data: Path, wanted: Calibration, place: Path) -> Bundle:
    """Fits the decision on the validation part of a run and judges the bundle on its test part."""
    if not (run / "splits.csv").is_file():
        raise UsageError(f"{run} holds no splits.csv", "--data goes with a run of reslink train", "Give the run itself")
    first = halved(Bundle.load(run), place / "halved")
    part = parts(run / "splits.csv")
    manifest = Manifest.open(data, labels=first.labels)

    def cases_of(split: Literal["validation", "test"]) -> Manifest:
        found = tuple(replace(case, split=split) for case in manifest.cases if part.get(case.name) == split)
        if len(found) != sum(side == split for side in part.values()):
            raise UsageError(f"{data} is not the data of {run}", "The run names its cases in splits.csv", "Give its DATA")
        return replace(manifest, cases=found)

    calibrated = place / "calibrated"
    told = calibrate_bundle(place / "halved", cases_of("validation"), calibrated, wishes=wanted.wishes(), split="validation")
    print(*told["notes"], sep="\n", end="\n" if told["notes"] else "")
    figures = evaluate_bundle(calibrated, cases_of("test"), place / "judged", split="test", linked=linked(run))
    return Bundle.load(calibrated).with_metrics(figures)


def check(bundle: Bundle, commands: Sequence[str], lacks: Sequence[str] = ()) -> None:
    """Refuses a bundle that lacks more than is said, was not judged on a clean split, or was trained otherwise than is said.

    Raises:
        BundleError: With all that is missing.
    """
    faults = [f"the decision has no {part}" for part in missing_parts(bundle.decision) if part not in lacks]
    leakage = bundle.metrics.get("leakage") or {}
    if bundle.metrics.get("split") != "test" or not bundle.metrics.get("metrics"):
        faults.append("it holds no figures of a test part")
    elif leakage.get("status") not in CLEAN:
        faults.append(f"its figures are not known to be clean: {leakage.get('message', 'nothing is said of leakage')}")
    faults += recipe_faults(commands, bundle.provenance.get("recipe") or {})
    if faults:
        raise BundleError(
            "The bundle cannot ship: " + "; ".join(faults),
            "A shipped bundle has a whole decision, figures of a clean test part, and the command that makes it again",
            "Give --data DATA to calibrate and judge it, or correct benchmarks/shipped.yaml",
        )


def recipe_faults(commands: Sequence[str], trained: dict[str, Any]) -> Iterator[str]:
    """Yields where the recipe of the stated training command differs from the one in the bundle."""
    stated = [list(dropwhile(lambda word: "=" in word, shlex.split(command))) for command in commands]
    training = next((words for words in stated if words[:2] == ["reslink", "train"]), None)
    if training is None:
        yield "reproduce names no 'reslink train'"
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seed")
    parser.add_argument("--epochs")
    known, _ = parser.parse_known_args(training[2:])
    own = {"seed": known.seed, "trainer.epochs": known.epochs}
    sets = [*known.set, *(f"{key}={value}" for key, value in own.items() if value is not None)]
    now = load_recipe(known.recipe and ROOT / known.recipe, sets).published()
    for change in changes(trained, _like(trained, now)):
        yield f"reproduce does not give the recipe of the run: {change}"


def _like(trained: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Returns of a tree the keys that another has: a recipe of an older version lacks keys that were added since."""
    return {
        key: _like(trained[key], value) if isinstance(value, dict) and isinstance(trained[key], dict) else value
        for key, value in now.items()
        if key in trained
    }


def build(name: str, run: Path, into: Path, texts: Path, *, audit: Path | None = None, data: Path | None = None) -> Path:
    """Builds a bundle and puts it into a folder of shipped bundles, in place of an older one.

    Returns:
        The folder of the bundle.

    Raises:
        ReslinkError: If it cannot ship; what stood there before still stands.
    """
    known = read_texts(texts)
    if name not in known:
        raise UsageError(f"{texts.name} has no entry {name!r}", f"It has {', '.join(known)}", nearest(name, known))
    wanted = known[name]
    with tempfile.TemporaryDirectory(prefix="reslink-ship-") as made:
        place = Path(made)
        bundle = Bundle.load(run) if data is None else decided(run, data, wanted.calibrate, place)
        check(bundle, wanted.reproduce, wanted.lacks)
        provenance = bundle.provenance | {"licence": wanted.licence, "shipped": wanted.shipping(audit).model_dump(mode="json")}
        told = replace(bundle, provenance=provenance)
        final = told.with_decision(bundle.decision, place / name).with_metrics(bundle.metrics)
        return put(final.folder or place / name, into / name)


def put(made: Path, target: Path) -> Path:
    """Moves a bundle to its place once its size and its files are found right.

    Raises:
        BundleError: If it is too large, or a file tells where or by whom it was made.
    """
    size = zoo.size_of(made)
    found = traces(made, {platform.node(), getpass.getuser(), Path.home().name})
    if size >= MOST_BYTES or found:
        raise BundleError(
            f"The bundle has {size:,} bytes and tells: {'; '.join(found) or 'nothing private'}",
            f"A shipped bundle has less than {MOST_BYTES:,} bytes and no path, host or user name",
            "Train a smaller network, or take the words out of benchmarks/shipped.yaml or the data's names",
        )
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(made, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


def main(args: Sequence[str] | None = None) -> int:
    """Builds one bundle and prints where it lies and how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the entry of benchmarks/shipped.yaml, such as ct")
    parser.add_argument("run", type=Path)
    parser.add_argument("--audit", type=Path, help="audit.json of the data")
    parser.add_argument("--data", type=Path, help="the data of the run: calibrate and judge it here")
    parser.add_argument("--into", type=Path, default=ROOT / "src" / "reslink" / "bundles" / "shipped", help="where bundles lie")
    parser.add_argument("--texts", type=Path, default=ROOT / "benchmarks" / "shipped.yaml", help="the texts of the cards")
    own = parser.parse_args(args)
    try:
        made = build(own.name, own.run, own.into, own.texts, audit=own.audit, data=own.data)
    except ReslinkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{made}: {zoo.size_of(made):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
