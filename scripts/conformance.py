"""Run the model tests of the installed Transformers against BERT4Rec: `python scripts/conformance.py`."""

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Names that the suite imports from files that the sdist lacks. The two mixins are empty: the suite's tests of export
# and of `generate` do not run, and `Bert4RecGenerationTest` has our own tests of `generate`. The kwargs are those that
# every configuration must accept.
NOT_IN_SDIST = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "is_encoder_decoder": True,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}
""",
}


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def fetch_suite(version: str, cache_dir: Path) -> Path:
    """A folder with the test suite of a Transformers version as the package `transformers_tests`, fetched once."""
    suite = cache_dir / f"transformers-tests-{version}"
    if suite.exists():
        return suite
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
        pip("download", "--no-deps", "--no-binary", "transformers", "--dest", scratch, f"transformers=={version}")
        with tarfile.open(Path(scratch, f"transformers-{version}.tar.gz")) as sdist:
            tests = [member for member in sdist if member.name.startswith(f"transformers-{version}/tests/")]
            sdist.extractall(scratch, tests, filter="data")
        unpacked = Path(scratch, "suite")
        pip("install", "--no-deps", "--target", str(unpacked), "parameterized")
        package = Path(scratch, f"transformers-{version}", "tests").rename(unpacked / "transformers_tests")
        for name, text in NOT_IN_SDIST.items():
            file = package / name
            if file.exists():
                raise FileExistsError(
                    f"the sdist of Transformers {version} has {name} now; remove it from NOT_IN_SDIST"
                )
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        return unpacked.rename(suite)


def main() -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description="Run the model tests of the installed Transformers, from its source distribution, on BERT4Rec.",
        epilog="Unknown arguments are passed on to pytest, for example: -k save_load -x",
    )
    parser.add_argument(
        "--cache_dir",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "hf_rec"),
        help="folder that keeps the suite (default: %(default)s)",
    )
    arguments, pytest_arguments = parser.parse_known_args()

    suite = fetch_suite(importlib.metadata.version("transformers"), arguments.cache_dir)
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(REPOSITORY), str(suite)]
    return pytest.main(
        [
            f"--rootdir={REPOSITORY}",
            f"--config-file={os.devnull}",  # the settings and fixtures of this repository are for its own tests
            "--noconftest",
            "-W ignore::pytest.PytestUnknownMarkWarning",
            str(REPOSITORY / "tests" / "conformance_bert4rec.py"),
            *pytest_arguments,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
