"""The page about an audit: the verdict, then each check with the pictures that show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from reslink import __version__
from reslink.datasets.manifest import Manifest
from reslink.datasets.printable_names import printable
from reslink.files import write_atomic
from reslink.reports.audit.thumbnails import Pictures
from reslink.reports.jinja import template
from reslink.reports.run.page import RESEARCH_USE_ONLY
from reslink.reports.svg import COLOURS

PAIRS: Final = 12
MEMBERS: Final = 6
CASES: Final = 24

GATES: Final = {
    "leaks": "Leaks: copies or patients on two sides of the given split",
    "label_conflicts": "Label conflicts: one image under two labels",
    "file_facts": "Shortcut: facts of the file and its header",
    "outside_head": "Shortcut: pixels outside the head",
}
PROBES: Final = {
    "file_facts": "Facts of the file and its header",
    "outside_head": "Pixels outside the head",
    "histogram": "Grey histogram (sees the brain)",
    "thumbnail": "Very small thumbnail (sees the brain)",
}
KINDS: Final = {
    "corrupt": "Cannot be read",
    "blank": "Blank",
    "tiny": "Too small",
    "not_a_head": "Not a head",
    "wrong_orientation": "Turned against the others",
    "other_modality": "Another modality",
    "mixed_windows": "Another window",
    "implausible_hu": "Implausible HU",
}
_TURNS: Final = ("as it is", "rotated by 90° clockwise", "rotated by 180°", "rotated by 90° counterclockwise")
_MIRRORED: Final = ("mirrored", "mirrored and rotated by 90°", "upside down", "mirrored and rotated by 90°")


def audit_report(audit: Mapping[str, Any], manifest: Manifest, folder: str | Path) -> Path:
    """Writes ``report.html`` into the folder of an audit.

    Args:
        audit: What ``audit.json`` holds.
        manifest: The data set, whose files are read again for the pictures; letters found in them are made illegible.
        folder: Where to write.

    Returns:
        The page.

    Raises:
        StorageError: If the page cannot be written.
    """
    return write_atomic(Path(folder) / "report.html", render(audit, manifest))


def render(audit: Mapping[str, Any], manifest: Manifest) -> str:
    """Returns the page."""
    pictures = Pictures.of(manifest, audit)
    labels = {case.name: case.label for case in manifest.cases}
    return template("audit.html.j2", count=_count).render(
        name=printable(manifest.root.name),
        audit=audit,
        labels=labels,
        gates=[gate | {"title": GATES[gate["gate"]]} for gate in audit["gates"]],
        twins=list(_twins(audit, pictures)),
        conflicts=list(_sets(audit["label_conflicts"], pictures)),
        leaks=list(_leaks(audit, pictures)),
        leak_counts=Counter(leak["kind"] for leak in audit["leaks"]),
        probes=[_probe(probe, pictures) for probe in audit["shortcuts"]],
        text=[_case(name, pictures) for name in audit["burned_in_text"][:CASES]],
        attributes=Counter(name for names in audit["identity"].values() for name in names).most_common(),
        errors=[error | _case(error["path"], pictures) for error in audit["suspected_label_errors"][:CASES]],
        kinds=list(_kinds(audit["files"], pictures)),
        compared=not any(entry["check"].startswith("files: ") for entry in audit["not_done"]),
        notice=RESEARCH_USE_ONLY,
        version=__version__,
        colours={name: light for name, (_, light) in COLOURS.items()},
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _case(name: str, pictures: Pictures) -> dict[str, Any]:
    return {"name": name, "address": pictures.whole(name)}


def turned(orientation: int) -> str:
    """Returns in words how the second of two copies is turned against the first."""
    return _TURNS[orientation] if orientation < 4 else _MIRRORED[orientation - 4]


def _twins(audit: Mapping[str, Any], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """One pair of a group, every orientation in turn, so that the page shows each kind that there is."""
    group_of = {name: number for number, names in enumerate(audit["twins"]) for name in names}
    by_turn: dict[int, list[dict[str, Any]]] = {}
    seen: set[int] = set()
    for pair in sorted(audit["twin_pairs"], key=lambda pair: (pair["orientation"] == 0, -pair["correlation"])):
        group = group_of[pair["paths"][0]]
        if group not in seen:
            seen.add(group)
            by_turn.setdefault(pair["orientation"], []).append(pair)
    for pair in _dealt(by_turn.values(), PAIRS):
        first, second = pair["paths"]
        shown = [_case(first, pictures), _case(second, pictures)]
        if pair["orientation"]:
            shown.append({"name": "the second, turned back", "address": pictures.whole(second, pair["orientation"])})
        yield pair | {"shown": shown, "turned": "the same file" if pair["same_file"] else turned(pair["orientation"])}


def _dealt(piles: Iterable[list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """Takes one of each pile in turn."""
    rows = [list(pile) for pile in piles]
    dealt = [pile[i] for i in range(max(map(len, rows), default=0)) for pile in rows if i < len(pile)]
    return dealt[:count]


def _sets(groups: list[list[str]], pictures: Pictures) -> Iterator[list[dict[str, Any]]]:
    for names in groups[:PAIRS]:
        yield [_case(name, pictures) for name in names[:MEMBERS]]


def _leaks(audit: Mapping[str, Any], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Leaks of both kinds in turn, a case of each side first."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for leak in audit["leaks"]:
        kinds.setdefault(leak["kind"], []).append(leak)
    for leak in _dealt(kinds.values(), PAIRS):
        sided = list(zip(leak["paths"], leak["splits"], strict=True))
        first = list({split: (name, split) for name, split in reversed(sided) if split}.values())
        rest = [case for case in sided if case not in first]
        shown = [_case(name, pictures) | {"split": split} for name, split in [*first, *rest][:4]]
        yield leak | {"shown": shown}


def _probe(probe: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    value = probe["balanced_accuracy"]
    draw = pictures.outside_head if probe["probe"] == "outside_head" else pictures.whole
    shown = {label: [{"name": n, "address": draw(n)} for n in names] for label, names in probe["pictures"].items()}
    low, high = value["ci_low"], value["ci_high"]
    bar = None if low is None else {"x": round(100 * low, 2), "width": round(max(100 * (high - low), 0.8), 2)}
    dot = None if value["estimate"] is None else round(100 * value["estimate"], 2)
    return {**probe, "title": PROBES[probe["probe"]], "shown": shown, "bar": bar, "dot": dot}


def _kinds(files: Mapping[str, list[dict[str, str]]], pictures: Pictures) -> Iterator[dict[str, Any]]:
    for kind, items in files.items():
        if items:
            shown = items[:CASES] if kind == "corrupt" else items[: 2 * MEMBERS]
            cases = [item | {"address": "" if kind == "corrupt" else pictures.whole(item["path"])} for item in shown]
            yield {"title": KINDS[kind], "count": len(items), "cases": cases}
