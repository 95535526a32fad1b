"""The HTML report of an audit: the verdict, then each check with example images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from reslink.audit.checks.shortcuts import probe_name
from reslink.audit.result import NO_SPLIT
from reslink.datasets.manifest import Manifest
from reslink.files import write_atomic
from reslink.printable_names import escape_name
from reslink.reports.audit.thumbnails import Pictures
from reslink.reports.formatting import start_sentence
from reslink.reports.jinja import load_template

PAIRS: Final = 12
MEMBERS: Final = 6
CASES: Final = 24

CHECKS: Final = {
    "group_leakage": "Train/test leakage: near duplicates or patients in more than one split",
    "label_conflicts": "Label conflicts: copies or near duplicates with different labels",
    "file_metadata": "Shortcut: file and header metadata",
    "outside_head": "Shortcut: pixels outside the head",
}
PROBES: Final = {
    "file_metadata": "File and header metadata",
    "outside_head": "Pixels outside the head",
    "histogram": "Gray histogram (uses brain pixels; never fails the audit)",
    "thumbnail": "Very small thumbnail (uses brain pixels; never fails the audit)",
}
KINDS: Final = {
    "corrupt": "Cannot be read",
    "blank": "Blank",
    "tiny": "Too small",
    "not_a_head": "Not a head",
    "wrong_orientation": "Different orientation",
    "other_modality": "Different modality",
    "mixed_windows": "Different window",
    "implausible_hu": "Implausible HU",
}
_TURNS: Final = ("as it is", "rotated by 90° clockwise", "rotated by 180°", "rotated by 90° counterclockwise")
_MIRRORED: Final = ("mirrored", "mirrored and rotated by 90°", "upside down", "mirrored and rotated by 90°")


def audit_report(audit: Mapping[str, Any], manifest: Manifest, folder: str | Path) -> Path:
    """Writes ``report.html`` into the folder of an audit.

    Args:
        audit: What ``audit.json`` holds.
        manifest: The data set. Its files are read again for the pictures; text in them is made illegible.
        folder: Output folder.

    Returns:
        The path of the page.

    Raises:
        StorageError: If the page cannot be written.
    """
    return write_atomic(Path(folder) / "report.html", render(audit, manifest))


def render(audit: Mapping[str, Any], manifest: Manifest) -> str:
    """Returns the HTML of the page."""
    pictures = Pictures.of(manifest, audit)
    labels = {case.name: case.label for case in manifest.cases}
    return load_template("audit.html.j2").render(
        name=escape_name(manifest.name),
        audit=audit,
        no_split=NO_SPLIT,
        labels=labels,
        checks=[check | {"title": _title(check["check"], CHECKS)} for check in audit["checks"]],
        skipped=[entry | {"title": _skipped_title(entry["check"])} for entry in audit["skipped_checks"]],
        duplicate_pairs=list(_duplicate_pairs(audit, pictures)),
        conflicts=list(_groups(audit["label_conflicts"], pictures)),
        leakage=list(_leakage(audit, pictures)),
        leakage_counts=Counter(entry["kind"] for entry in audit["group_leakage"]),
        probes=[_probe(probe, pictures) for probe in audit["shortcuts"]],
        source_conflicts=list(_source_conflicts(audit, pictures)),
        text=[_case(name, pictures) for name in audit["burned_in_text"][:CASES]],
        attributes=Counter(name for names in audit["identity"].values() for name in names).most_common(),
        errors=[error | _case(error["path"], pictures) for error in audit["suspected_label_errors"][:CASES]],
        kinds=list(_kinds(audit["files"], pictures)),
        all_file_checks=not any(skipped["check"].startswith("files: ") for skipped in audit["skipped_checks"]),
    )


def _source_conflicts(audit: Mapping[str, Any], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Yields images of two sources that are the same and have other labels, one of each kind in turn."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for pair in audit.get("source_conflicts") or ():
        kinds.setdefault((*pair["sources"], *pair["labels"]), []).append(pair)
    for pair in _interleave(kinds.values(), PAIRS):
        yield pair | {"shown": [_case(name, pictures) for name in pair["paths"]], "turned": turned(pair["orientation"])}


def _skipped_title(check: str) -> str:
    """Returns the title of a skipped check, such as ``files: not_a_head``."""
    group, _, name = check.partition(": ")
    known = name.partition(": ")[0] in KINDS | PROBES
    return start_sentence(f"{group}: {_title(name, KINDS | PROBES)}" if known else check.replace("_", " "))


def _title(name: str, titles: Mapping[str, str]) -> str:
    """Returns the title of a check or a probe; of one of several labels, with the label: ``outside_head: subdural``."""
    name, _, label = name.partition(": ")
    title, bracket, remark = titles[name].partition(" (")
    return f"{title}, label {label}{bracket}{remark}" if label else titles[name]


def _case(name: str, pictures: Pictures) -> dict[str, Any]:
    return {"name": name, "address": pictures.whole(name)}


def turned(orientation: int) -> str:
    """Describes how the second of two near duplicates is oriented relative to the first."""
    return _TURNS[orientation] if orientation < 4 else _MIRRORED[orientation - 4]


def _duplicate_pairs(audit: Mapping[str, Any], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Yields one pair per group, cycling through the orientations so that the page shows each one."""
    group_of = {name: number for number, names in enumerate(audit["near_duplicates"]) for name in names}
    by_turn: dict[int, list[dict[str, Any]]] = {}
    seen: set[int] = set()
    for pair in sorted(audit["near_duplicate_pairs"], key=lambda pair: (pair["orientation"] == 0, -pair["correlation"])):
        group = group_of[pair["paths"][0]]
        if group not in seen:
            seen.add(group)
            by_turn.setdefault(pair["orientation"], []).append(pair)
    for pair in _interleave(by_turn.values(), PAIRS):
        first, second = pair["paths"]
        shown = [_case(first, pictures), _case(second, pictures)]
        if pair["orientation"]:
            shown.append({"name": "second image, orientation undone", "address": pictures.whole(second, pair["orientation"])})
        yield pair | {"shown": shown, "turned": "the same file" if pair["same_file"] else turned(pair["orientation"])}


def _interleave(lists: Iterable[list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """Returns up to ``count`` entries, taking one of each list in turn."""
    columns = list(lists)
    entries = [column[i] for i in range(max(map(len, columns), default=0)) for column in columns if i < len(column)]
    return entries[:count]


def _groups(groups: list[list[str]], pictures: Pictures) -> Iterator[list[dict[str, Any]]]:
    for names in groups[:PAIRS]:
        yield [_case(name, pictures) for name in names[:MEMBERS]]


def _leakage(audit: Mapping[str, Any], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Yields leakage of both kinds in turn, starting with one case of each split."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for entry in audit["group_leakage"]:
        kinds.setdefault(entry["kind"], []).append(entry)
    for entry in _interleave(kinds.values(), PAIRS):
        cases = list(zip(entry["paths"], entry["splits"], strict=True))
        first_of_split = list({split: (name, split) for name, split in reversed(cases) if split}.values())
        others = [case for case in cases if case not in first_of_split]
        shown = [_case(name, pictures) | {"split": split} for name, split in [*first_of_split, *others][:4]]
        yield entry | {"shown": shown}


def _probe(probe: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    value = probe["balanced_accuracy"]
    draw = pictures.outside_head if probe["probe"] == "outside_head" else pictures.whole
    shown = {label: [{"name": n, "address": draw(n)} for n in names] for label, names in probe["examples"].items()}
    low, high = value["ci_low"], value["ci_high"]
    bar = None if low is None else {"x": round(100 * low, 2), "width": round(max(100 * (high - low), 0.8), 2)}
    dot = None if value["estimate"] is None else round(100 * value["estimate"], 2)
    title = _title(probe_name(probe["probe"], probe.get("label")), PROBES)
    return {**probe, "title": title, "shown": shown, "bar": bar, "dot": dot}


def _kinds(files: Mapping[str, list[dict[str, str]]], pictures: Pictures) -> Iterator[dict[str, Any]]:
    for kind, items in files.items():
        if items:
            shown = items[:CASES] if kind == "corrupt" else items[: 2 * MEMBERS]
            cases = [item | {"address": "" if kind == "corrupt" else pictures.whole(item["path"])} for item in shown]
            yield {"title": KINDS[kind], "count": len(items), "cases": cases}
