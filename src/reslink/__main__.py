"""``python -m reslink`` is ``reslink``."""

from __future__ import annotations

from reslink.cli.main import main

if __name__ == "__main__":
    main()
