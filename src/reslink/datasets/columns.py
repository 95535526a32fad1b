"""Which column of a table holds what: the spellings of each role, and the choice of the user."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from reslink.datasets.case import SPLIT_NAMES
from reslink.datasets.tables.rows import Table
from reslink.errors import UsageError, listed, suggest
from reslink.imaging.spellings import UNIT_NAMES, is_sequence
from reslink.labels import ABSENT, PRESENT, clean_text, is_missing, parse_state

Role = Literal["path", "label", "patient_id", "source", "mask", "split", "unit", "sequence"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
REQUIRED: Final[tuple[Role, ...]] = ("path", "label")

_SPELLINGS: Final[dict[Role, str]] = {
    "path": "path paths file files filename filenames filepath fullpath filelocation image images imagepath imagefile "
    "imagename imagefilename img imgpath imgfile imgname imgfilename relpath relativepath relativefilepath dicompath "
    "dicomfile slicepath uri",
    "label": "label labels labelname class classname classlabel classes target targets diagnosis diagnoses dx category "
    "categories groundtruth truelabel truth imagelabel pathology tumortype tumourtype",
    "patient_id": "patientid patient patients patientnumber patientnum patientno patientnr patientname patientkey patientcode "
    "patientindex patientuid patid pat pid ptid pt subject subjects subjectid subjectnumber subjectnum subjectno subjectnr "
    "subjectname subjectkey subjectcode subj subjid case caseid casenumber caseno casenr mrn medicalrecordnumber "
    "participant participantid participantnumber person personid individual individualid idpatient idsubject",
    "source": "source sourcename datasource site siteid sitename studysite hospital hospitalid hospitalname institution "
    "institutionid institutionname institute center centerid centre centreid clinic scanner scannerid scannername scannermodel",
    "mask": "mask masks maskpath maskfile maskname maskfilename segmentation segmentationpath segmentationfile seg segpath "
    "segfile lesionmask roi roipath roimask",
    "split": "split splits fold set subset partition dataset datasplit phase usage",
    "unit": "unit units pixelunit intensityunit",
    "sequence": "sequence sequences sequencename mrsequence mrisequence pulsesequence mrcontrast mricontrast weighting",
}
"""Headers that are understood, in lower case and without spaces and punctuation; the first is the name of the role."""

_FALLBACKS: Final[dict[Role, str]] = {"label": "y"}
"""Headers that count only where the table has no other candidate."""

_YES_OR_NO: Final = frozenset({"0", "1", "yes", "no", "y", "n", "true", "false", "case", "control"})


@dataclass(frozen=True)
class ColumnRoles:
    """The columns of a table that are used.

    Attributes:
        headers: Role to header, for the roles that the table has.
        inferred: A sentence about columns whose names are not those of their roles, or ''; without the final period.
        notes: Sentences about columns that are not used, without the final period.
    """

    headers: Mapping[Role, str]
    inferred: str = ""
    notes: tuple[str, ...] = ()


def header_key(header: str) -> str:
    """Returns a header in lower case without spaces and punctuation: ``Patient_ID`` and ``patient id`` are alike."""
    return "".join(char for char in unicodedata.normalize("NFKC", header).casefold() if char.isalnum())


def role_of(header: str) -> Role | None:
    """Returns what a header stands for, or None."""
    key = header_key(header)
    return next((role for role in ROLES if key in _SPELLINGS[role].split()), None)


def parse_columns(columns: Mapping[str, str] | Sequence[str] | None) -> dict[Role, str]:
    """Returns the columns that the user chose, by role.

    Args:
        columns: Role to header, or texts such as ``patient=MRN,label=Dx``. A role is spelled in any way that is understood as
            a header; an empty header means that the table has no such column.

    Raises:
        UsageError: If a text has no ``=``, a role is unknown, or a role is given two columns.
    """
    pairs = list(columns.items()) if isinstance(columns, Mapping) else [_parse_pair(pair) for pair in _split(columns)]
    chosen: dict[Role, str] = {}
    for name, header in pairs:
        role = role_of(name)
        if role is None:
            raise UsageError(f"--columns names the role {name!r}", f"The roles are {', '.join(ROLES)}", suggest(name, ROLES))
        if chosen.setdefault(role, header.strip()) != header.strip():
            raise UsageError(
                f"--columns gives {role} the columns {chosen[role]!r} and {header.strip()!r}",
                "A role has one column",
                "Remove one of them",
            )
    return chosen


def _split(texts: Sequence[str] | None) -> list[str]:
    listed = [texts] if isinstance(texts, str) else list(texts or ())
    return [pair for cells in csv.reader(listed, skipinitialspace=True) for pair in cells if pair.strip()]


def _parse_pair(pair: str) -> tuple[str, str]:
    role, equals, header = pair.partition("=")
    if not equals:
        raise UsageError(f"--columns {pair!r} has no '='", "The form is ROLE=COLUMN", "Use --columns patient=MRN,label=Dx")
    return role.strip(), header


def find_columns(table: Table, chosen: Mapping[Role, str], ignored: Sequence[Role] = ()) -> ColumnRoles:
    """Decides which columns of a table hold path, label, patient, source, mask, split, unit and sequence.

    A column that the user chose is used. Otherwise a column with the name of the role is used, or the only one with another
    spelling of it. Candidates with the same cells count as one.

    Args:
        table: The table.
        chosen: The choice of the user, by role (``parse_columns``).
        ignored: Roles that are not looked for.

    Raises:
        UsageError: If a required column is missing, a chosen one does not exist, or two columns may be meant.
    """
    headers: dict[Role, str] = {}
    notes: list[str] = []
    for role in (role for role in ROLES if role not in ignored):
        stated = role in chosen
        header = _chosen_header(table, role, chosen[role]) if stated else _guess(table, role, chosen.values(), notes)
        if header:
            headers[role] = header
        elif role in REQUIRED:
            raise _missing_column(table, role)
    if "split" not in headers and "split" not in chosen:
        notes += _unused_split_notes(table, headers.values())
    inferred = [
        f"{header!r} is used as {role}" for role, header in headers.items() if role in chosen or header.casefold() != role
    ]
    sentence = f"Columns of {table.name}: {', '.join(inferred)}. Change this with --columns" if inferred else ""
    return ColumnRoles(headers, sentence, tuple(notes))


def _chosen_header(table: Table, role: Role, name: str) -> str:
    if not name or name in table.headers:
        return name
    alike = [header for header in table.headers if header_key(header) == header_key(name)]
    if len(alike) != 1:
        raise UsageError(
            f"{table.name} has no column {name!r}, which --columns gives for {role}",
            f"Its columns are {', '.join(table.headers)}",
            suggest(name, table.headers),
        )
    return alike[0]


def _guess(table: Table, role: Role, taken: Collection[str], notes: list[str]) -> str:
    """Returns the header of a role, or '' if the table has none."""
    spelled = [header for header in table.headers if header_key(header) in _SPELLINGS[role].split() and header not in taken]
    spelled = spelled or [header for header in table.headers if header_key(header) in _FALLBACKS.get(role, "").split()]
    fitting = [header for header in spelled if _fits(table, role, header)]
    canonical = next((header for header in fitting or spelled if header.casefold() == role and role not in _BY_CONTENT), "")
    if (role in _CONTENT and not canonical) or (role == "patient_id" and not fitting and not canonical):
        notes += [_misfit_note(table, role, header) for header in spelled if header not in fitting]
    best = canonical or next(iter(fitting), "")
    others = [header for header in fitting if _cells(table, header) != _cells(table, best)]
    if others and (not canonical or _joins_patients(table, role, canonical, others)):
        raise _two_candidates(table, role, [best, *others])
    if others:
        notes.append(
            f"{', '.join(map(repr, others))} of {table.name} could also be the column {role}; {best!r} is used. "
            f"Choose another one with --columns {role}={others[0]}"
        )
    return best


_SPLIT_FLAG: Final = re.compile(r"(is|in|for)?(train(ing)?|val(id|idation)?|test(ing)?|holdout)(set|split|data|flag)?")


def _unused_split_notes(table: Table, used: Collection[str]) -> list[str]:
    """Returns sentences about columns that seem to state the split by their cells, or by yes and no."""
    notes = []
    for header in table.headers:
        cells = {cell.casefold() for cell in _cells(table, header) if not is_missing(cell)}
        if header in used or len(cells) < 2:
            continue
        if cells <= SPLIT_NAMES.keys():
            notes.append(
                f"The column {header!r} of {table.name} holds {' and '.join(sorted(cells))}, but is not used. If it is the "
                f"split, use --columns split={header}"
            )
        elif _SPLIT_FLAG.fullmatch(header_key(header)) and cells <= _YES_OR_NO | {"0.0", "1.0"}:
            notes.append(
                f"The column {header!r} of {table.name} seems to state a split by {' and '.join(sorted(cells))}, but is not "
                "used. Write train, validation or test into a column split to use it"
            )
    return notes


def _cells(table: Table, header: str) -> list[str]:
    return [clean_text(cell) for cell in table.column(header)]


_CONTENT: Final[Mapping[Role, Callable[[str], bool]]] = {
    "split": SPLIT_NAMES.__contains__,
    "unit": UNIT_NAMES.__contains__,
    "sequence": is_sequence,
}
"""Whether a cell, in lower case, is a word of a column that has one of these roles."""

_BY_CONTENT: Final = ("unit", "sequence")
"""Roles that a column has only with fitting cells, whatever its name."""


def _fits(table: Table, role: Role, header: str) -> bool:
    """Returns whether the cells of a column can be those of a role."""
    cells = {cell.casefold() for cell in _cells(table, header) if not is_missing(cell)}
    if role in _CONTENT:
        return bool(cells) and 2 * sum(map(_CONTENT[role], cells)) >= len(cells)  # a wrong word is an error of its row
    if role == "patient_id":
        return not cells <= _YES_OR_NO
    return bool(cells) or role in REQUIRED


def _misfit_note(table: Table, role: Role, header: str) -> str:
    cells = sorted({cell for cell in table.column(header) if cell})
    names = ", ".join(map(repr, cells[:3])) + (", …" if len(cells) > 3 else "")
    return f"The column {header!r} of {table.name} is not used as {role}: it holds {names or 'nothing'}"


def _joins_patients(table: Table, role: Role, canonical: str, others: Sequence[str]) -> bool:
    """Returns whether another column states a patient where ``patient_id`` states none, or joins several of its patients."""
    if role != "patient_id":
        return False
    patients = _cells(table, canonical)
    for header in others:
        seen: dict[str, str] = {}
        pairs = [(cell, patient) for cell, patient in zip(_cells(table, header), patients, strict=True) if not is_missing(cell)]
        if any(is_missing(patient) or seen.setdefault(cell, patient) != patient for cell, patient in pairs):
            return True
    return False


def _two_candidates(table: Table, role: Role, headers: Sequence[str]) -> UsageError:
    names = [repr(header) for header in headers]
    return UsageError(
        f"{table.name} has the columns {', '.join(names[:-1])} and {names[-1]}, and each could be {role}",
        "A role has one column",
        f"Choose with --columns {role}={headers[0]}" + ("" if role in REQUIRED else f", or --columns {role}= for none"),
    )


def _columns_of_states(table: Table) -> list[str]:
    """Returns the headers of the columns that hold 1 and 0, and may be empty in some rows."""
    columns = {header: {parse_state(cell) for cell in table.column(header)} for header in table.headers}
    return [header for header, states in columns.items() if None not in states and {PRESENT, ABSENT} <= states]


def _missing_column(table: Table, role: Role) -> UsageError:
    hint = suggest(role, table.headers) if table.headers else ""
    if hint.startswith("Did you mean"):
        hint = f"{hint} Rename it to {role!r}, or use --columns {role}=COLUMN"
    else:
        hint = f"Add the column {role!r}, or name it with --columns {role}=COLUMN"
    states = _columns_of_states(table) if role == "label" else []
    if len(states) > 1:
        hint = f"If {listed(states)} are several labels at once, name them with --labels. Or {hint[0].lower()}{hint[1:]}"
    return UsageError(
        f"{table.name} has no column {role!r}",
        f"The first row must name the columns {', '.join(REQUIRED)}; it is {', '.join(table.headers) or 'empty'}",
        hint,
    )
