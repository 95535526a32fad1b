"""What is answered for the slices of a series; without slow imports, for the command line."""

from typing import Final, Literal, get_args

SeriesMode = Literal["auto", "each", "only"]
"""``each`` gives one answer per slice; ``auto`` adds one per series; ``only`` leaves out the slices of series."""

MODES: Final[tuple[str, ...]] = get_args(SeriesMode)
