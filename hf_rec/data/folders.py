"""New folders that appear whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new(folder: str | Path) -> Path:
    """The path of a folder that may be filled.

    Raises:
        ValueError: for a file, or a folder that holds something.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no empty folder; give another")
    return folder


@contextmanager
def filling(folder: Path, last: str) -> Iterator[Path]:
    """A folder beside the contents to be, which move into `folder` when all are written, `last` as the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".staging-") as staging:
        yield Path(staging)
        for file in sorted(Path(staging).iterdir(), key=lambda file: file.name == last):
            os.replace(file, folder / file.name)


__all__ = ["check_new", "filling"]
