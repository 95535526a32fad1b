"""Builds a shipped bundle of the package from a finished run.

    python benchmarks/make_bundles.py ct RUN --data DATA --audit audit.json

RUN is a folder of `reslink train` and DATA its training data: the decision is then fitted on the validation split of the run,
and the model is evaluated on the test split. Without --data, RUN is a run or bundle that is already calibrated and evaluated on
held-out data. The texts of the card come from benchmarks/shipped.yaml. Nothing is written unless the decision is complete,
the metrics come from a split without leakage, the stated command gives the recipe of the run, the bundle is smaller than
10 MB, and none of its files reveals a path, a host or a user.
"""

from __future__ import annotations

import argparse
import csv
import getpass
import json
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslink.api.data_argument import open_manifest
from reslink.api.train import read_leaked_cases, read_splits
from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.pretrained import (
    MAX_BUNDLE_BYTES,
    DataSource,
    OutsideEvaluation,
    PretrainedInfo,
    find_private_strings,
    missing_components,
    summarize_audit,
)
from reslink.bundles.record import first_error
from reslink.bundles.scope import Scope
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import leakage_groups
from reslink.datasets.public.registry import get_public_dataset
from reslink.errors import BundleError, ReslinkError, UsageError, suggest
from reslink.evaluation.calibrate import calibrate_bundle
from reslink.evaluation.cases import RunOptions
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle
from reslink.evaluation.fitting import CalibrationData, DecisionOptions, fit_ood_detector
from reslink.evaluation.leakage import EXCLUDED, NONE
from reslink.export.onnx import check_parity, to_onnx
from reslink.imaging.input_statistics import input_statistics
from reslink.labels import Labels
from reslink.metrics.operating_point import OperatingPoint
from reslink.training.recipe.differences import differences
from reslink.training.recipe.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "benchmarks" / "ledger.csv"
LEDGER_NUMBERS = ("auroc", "accuracy", "ece", "coverage", "silent_errors")
CLEAN = (NONE, EXCLUDED)
"""The leakage status of an evaluation without leaked cases."""

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class Calibration(BaseModel):
    """Options of `reslink calibrate`."""

    model_config = _STRICT

    method: Literal["temperature", "isotonic"] = "temperature"
    operating_point: str = "default"
    coverage: float = 0.95
    per_class: bool = False
    per_source: bool = False

    def decision_options(self) -> DecisionOptions:
        """Returns the options in the form that the fit takes."""
        point = OperatingPoint.parse(self.operating_point)
        return DecisionOptions(self.method, point, self.coverage, self.per_class, per_source=self.per_source)


class Texts(BaseModel):
    """An entry of benchmarks/shipped.yaml; `source` is a name of `reslink data list`, the others as in `PretrainedInfo`.

    A model of several data sets names the others, which need not be in that list, under `other_sources`.
    """

    model_config = _STRICT

    title: str
    usage_notes: str
    task: str
    modality: str
    source: str
    other_sources: list[DataSource] = []
    data_processing: str = ""
    license: str = Field(min_length=1)
    limitations: list[str]
    missing_components: list[str] = []
    scope: dict[str, Any] = {}
    calibrate: Calibration = Calibration()
    reproduce: list[str]

    @property
    def bundle_scope(self) -> Scope:
        """The images that the bundle is for."""
        return Scope.model_validate_json(json.dumps(self.scope))

    def pretrained_info(self, audit: Path | None, ledger: list[OutsideEvaluation]) -> PretrainedInfo:
        """Returns the description of the bundle."""
        dataset = get_public_dataset(self.source)
        source = DataSource(
            name=dataset.name, title=dataset.title, page=dataset.page, license=dataset.terms, known_issues=dataset.known_issues
        )
        texts = self.model_dump(exclude={"source", "license", "calibrate", "scope"})
        findings = [] if audit is None else summarize_audit(_read_json(audit))
        return PretrainedInfo(source=source, audit_findings=findings, ledger=ledger, **texts)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error})", "--audit takes audit.json", "Run reslink audit DATA") from error


def read_texts(path: Path) -> dict[str, Texts]:
    """Returns the texts of every bundle by name.

    Raises:
        UsageError: If the file is not YAML, or an entry is invalid.
    """
    try:
        return {name: Texts.model_validate(entry) for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
    except (ValidationError, yaml.YAMLError, AttributeError) as error:
        fault = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"{path.name} cannot be used: {fault}", "It holds one entry per bundle", "Correct the file") from error


def read_ledger(name: str, table: Path = LEDGER) -> list[OutsideEvaluation]:
    """Returns the evaluations of a model on data that it was not trained on, in the order in which they were added."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as stream:
        return [_parsed(row) for row in csv.DictReader(stream) if row["model"] == name]


def _parsed(row: dict[str, str]) -> OutsideEvaluation:
    numbers = {key: float(row[key]) if row[key] else None for key in LEDGER_NUMBERS}
    counts = {key: int(row[key]) for key in ("n", "n_refused", "n_groups")}
    texts = {key: row[key] for key in ("data", "date", "sha256")}
    return OutsideEvaluation.model_validate(texts | counts | numbers | {"seen": row["seen"] == "yes"})


def half_precision(bundle: Bundle, folder: Path) -> Bundle:
    """Saves a bundle with its weights rounded to half precision, and the ONNX graph of the rounded network.

    The decision is fitted and evaluated after the rounding, so torch and the graph give the same answers.
    """
    state = bundle.network().state_dict()
    rounded = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    saved = bundle.save(folder, rounded)
    graph = to_onnx(saved)
    check_parity(saved, graph)
    return saved.with_onnx(graph)


def with_statistics_detector(bundle: Bundle, manifest: Manifest, work: Path) -> Bundle:
    """Adds an out-of-distribution detector of input statistics, where the validation split has too few patients for features.

    Args:
        bundle: A calibrated bundle.
        manifest: The training and validation cases.
        work: Folder for the pixel cache.
    """
    cache = PixelCache.open(manifest, bundle.preprocess, work / "cache")
    pixels = np.asarray(cache.pixels)
    statistics = input_statistics(pixels)
    refusals = bundle.scope.refusals(cache.stated, statistics, bundle.scope.brain_shares(pixels))
    cases = CalibrationData(
        logits=np.zeros((len(cache), len(bundle.labels))),
        features=np.zeros((len(cache), 1)),
        statistics=statistics,
        y_true=cache.targets,
        groups=leakage_groups(cache.manifest, cache.thumbnails),
    ).without_refused(bundle.scope, cache.stated, refusals)
    notes: list[str] = []
    detector, arrays = fit_ood_detector(cases, notes, ("statistics",))
    if detector is None or arrays is None or bundle.decision.arrays is None:
        raise UsageError("; ".join(notes) or "The bundle is not calibrated", "A detector needs 40 groups", "Add data")
    merged = DecisionArrays({**bundle.decision.arrays.by_name, **arrays.by_name})
    return bundle.with_decision(bundle.decision.model_copy(update={"ood": detector, "arrays": merged}))


@dataclass(frozen=True)
class RunData:
    """The data that a run was trained on.

    Attributes:
        folders: The data sets, as `reslink train` got them.
        corrections: The corrected labels that it got.
        map: The label map that it got.
    """

    folders: Sequence[Path]
    corrections: Path | None = None
    map: Sequence[str] = ()

    def open(self, labels: Labels) -> Manifest:
        """Returns the cases, with the classes of the bundle."""
        if len(self.folders) == 1 and self.corrections is None and not self.map:
            return Manifest.open(self.folders[0], labels=labels)
        return open_manifest(self.folders, map=self.map, corrections=self.corrections, class_order=labels.names)


def calibrate_and_evaluate(run: Path, data: RunData, calibration: Calibration, scope: Scope, work: Path) -> Bundle:
    """Fits the decision on the validation split of a run and evaluates the bundle on its test split."""
    if not (run / "splits.csv").is_file():
        raise UsageError(f"{run} holds no splits.csv", "--data goes with a run of reslink train", "Give the run itself")
    rounded = half_precision(replace(Bundle.load(run), scope=scope), work / "rounded")
    split_of = read_splits(run / "splits.csv")
    manifest = data.open(rounded.labels)

    def cases_of(*splits: Literal["train", "validation", "test"]) -> Manifest:
        named = [(case, split_of.get(case.name)) for case in manifest.cases]
        cases = tuple(replace(case, split=split) for case, split in named if split in splits)
        if len(cases) != sum(name in splits for name in split_of.values()):
            raise UsageError(
                f"{manifest.root} is not the data of {run}", "The run names its cases in splits.csv", "Give its DATA"
            )
        return replace(manifest, cases=cases)

    calibrated = work / "calibrated"
    options = calibration.decision_options()
    result = calibrate_bundle(
        work / "rounded", cases_of("validation"), calibrated, decision_options=options, options=RunOptions(split="validation")
    )
    for note in result["notes"]:
        print(note)
    decided = Bundle.load(calibrated)
    if decided.decision.ood is None:
        with_statistics_detector(decided, cases_of("train", "validation"), work)
    metrics = evaluate_bundle(
        calibrated, cases_of("test"), work / "evaluation", EvaluationOptions(split="test", leaked_cases=read_leaked_cases(run))
    )
    return _with_label_changes(Bundle.load(calibrated).with_metrics(metrics), manifest)


def _with_label_changes(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Records the label map and the corrections of the data, as a training does; older runs did not."""
    if not manifest.label_changes:
        return bundle
    data = bundle.provenance["data"] | {"label_changes": [dict(change) for change in manifest.label_changes]}
    return replace(bundle, provenance=bundle.provenance | {"data": data})


def check(bundle: Bundle, commands: Sequence[str], missing: Sequence[str] = ()) -> None:
    """Checks that a bundle is complete, evaluated without leakage, and trained with the stated recipe.

    Args:
        bundle: The bundle.
        commands: The stated commands that reproduce it.
        missing: Parts of the decision that the description names as missing.

    Raises:
        BundleError: With all faults.
    """
    faults = [f"the decision has no {name}" for name in missing_components(bundle.decision) if name not in missing]
    leakage = bundle.metrics.get("leakage") or {}
    if bundle.metrics.get("split") != "test" or not bundle.metrics.get("metrics"):
        faults.append("it holds no metrics of a test split")
    elif leakage.get("status") not in CLEAN:
        faults.append(f"its metrics may be affected by leakage: {leakage.get('message', 'leakage was not checked')}")
    faults += recipe_differences(commands, bundle.provenance.get("recipe") or {})
    if faults:
        raise BundleError(
            "The bundle cannot ship: " + "; ".join(faults),
            "It needs a complete decision, metrics of a test split without leakage, and the commands that reproduce it",
            "Give --data DATA to calibrate and evaluate it, or correct benchmarks/shipped.yaml",
        )


def recipe_differences(commands: Sequence[str], trained: dict[str, Any]) -> Iterator[str]:
    """Yields the differences between the recipe of the stated training command and the recipe in the bundle."""
    stated = [list(dropwhile(lambda word: "=" in word, shlex.split(command))) for command in commands]
    training = next((words for words in stated if words[:2] == ["reslink", "train"]), None)
    if training is None:
        yield "reproduce names no 'reslink train'"
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seed")
    parser.add_argument("--epochs")
    parser.add_argument("--allow-conflicts", action="store_const", const="true")
    options, _ = parser.parse_known_args(training[2:])
    named = {"seed": options.seed, "trainer.epochs": options.epochs, "data.allow_conflicts": options.allow_conflicts}
    sets = [*options.set, *(f"{key}={value}" for key, value in named.items() if value is not None)]
    recipe = load_recipe(options.recipe, sets).published()
    for change in differences(trained, _common_keys(trained, recipe)):
        yield f"reproduce does not give the recipe of the run: {change}"


def _common_keys(trained: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Returns the recipe without the keys that were added after the training."""
    return {
        key: _common_keys(trained[key], value) if isinstance(value, dict) and isinstance(trained[key], dict) else value
        for key, value in recipe.items()
        if key in trained
    }


def build(name: str, run: Path, into: Path, texts: Path, *, audit: Path | None = None, data: RunData | None = None) -> Path:
    """Builds a bundle in a folder of shipped bundles; replaces an older one.

    Returns:
        The folder of the bundle.

    Raises:
        ReslinkError: If it cannot ship; an older bundle is then kept.
    """
    entries = read_texts(texts)
    if name not in entries:
        raise UsageError(f"{texts.name} has no entry {name!r}", f"It has {', '.join(entries)}", suggest(name, entries))
    entry = entries[name]
    with tempfile.TemporaryDirectory(prefix="reslink-ship-") as folder:
        work = Path(folder)
        bundle = (
            Bundle.load(run) if data is None else calibrate_and_evaluate(run, data, entry.calibrate, entry.bundle_scope, work)
        )
        check(bundle, entry.reproduce, entry.missing_components)
        info = entry.pretrained_info(audit, read_ledger(name)).model_dump(mode="json")
        described = replace(bundle, provenance=bundle.provenance | {"license": entry.license, "pretrained": info})
        rule = {"min_brain_share": bundle.scope.min_brain_share}  # the metrics are those of a bundle with or without it
        described = replace(described, scope=entry.bundle_scope.model_copy(update=rule))
        return ship(described, into / name)


def ship(bundle: Bundle, target: Path) -> Path:
    """Writes a saved bundle with its present texts to its target among the shipped ones.

    Raises:
        BundleError: As :func:`install`.
    """
    with tempfile.TemporaryDirectory(prefix="reslink-ship-") as folder:
        built = Path(folder) / target.name
        bundle.with_decision(bundle.decision, built).with_metrics(bundle.metrics)
        return install(built, target)


def install(built: Path, target: Path) -> Path:
    """Copies a bundle to its target after a check of its size and its texts.

    Raises:
        BundleError: If it is too large, or a file contains a path, a host or a user name.
    """
    size = zoo.folder_size(built)
    private = find_private_strings(built, {platform.node(), getpass.getuser(), Path.home().name})
    if size >= MAX_BUNDLE_BYTES or private:
        raise BundleError(
            f"The bundle has {size:,} bytes and private strings: {'; '.join(private) or 'none'}",
            f"A shipped bundle has less than {MAX_BUNDLE_BYTES:,} bytes and no path, host or user name",
            "Train a smaller network, or remove the words from benchmarks/shipped.yaml or the names of the data",
        )
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(built, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


def main(args: Sequence[str] | None = None) -> int:
    """Builds one bundle and prints its folder and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the entry of benchmarks/shipped.yaml, such as ct")
    parser.add_argument("run", type=Path)
    parser.add_argument("--audit", type=Path, help="audit.json of the data")
    parser.add_argument("--data", type=Path, nargs="+", help="the data of the run, to calibrate and evaluate the bundle")
    parser.add_argument("--corrections", type=Path, help="the corrected labels that the run was trained with")
    parser.add_argument("--map", action="append", default=[], help="the label map that the run was trained with")
    parser.add_argument(
        "--into", type=Path, default=ROOT / "src" / "reslink" / "bundles" / "shipped", help="folder of the shipped bundles"
    )
    parser.add_argument("--texts", type=Path, default=ROOT / "benchmarks" / "shipped.yaml", help="the texts of the cards")
    options = parser.parse_args(args)
    data = RunData(options.data, options.corrections, options.map) if options.data else None
    try:
        target = build(options.name, options.run, options.into, options.texts, audit=options.audit, data=data)
    except ReslinkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{target}: {zoo.folder_size(target):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
