"""Run a notebook from top to bottom in a temporary folder: `python docs/run_notebook.py docs/quickstart.ipynb`.

An error in a cell is an error of this script. The notebook itself is not changed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ExecutePreprocessor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--timeout", type=int, default=600, help="seconds for each cell")
    options = parser.parse_args()
    notebook = nbformat.read(options.notebook, as_version=4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ExecutePreprocessor(timeout=options.timeout).preprocess(notebook, {"metadata": {"path": folder}})
    print(f"{options.notebook} ran in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
