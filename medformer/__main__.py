"""The command line, which lies beside this package in a clone and inside of it in an installed wheel."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

_INSIDE = "medformer._pipelines"


def main() -> None:
    """Run the command line and leave with its exit code."""
    package = _INSIDE if find_spec(_INSIDE) else "pipelines"
    import_module(f"{package}.__main__").main()


if __name__ == "__main__":
    main()
