"""The command ``python -m reslink``, the same as ``reslink``."""

from __future__ import annotations

from reslink.cli.main import main

if __name__ == "__main__":
    main()
