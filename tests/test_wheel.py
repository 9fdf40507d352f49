"""The wheel holds the whole package, and the command `hf-rec` works where only the wheel is installed."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("hf_rec", "tests", "scripts", "pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


def run(*command, cwd: Path) -> str:
    """Output of a command that sees nothing of this repository."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-5000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources: a build leaves folders beside them."""
    sources = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, sources / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", sources / "dist", cwd=sources)
    (built,) = (sources / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel. Its dependencies are those of the environment of this test."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A folder that a .pth file names comes last in the search path, and .pth files in it are not read, so that the
    # editable installation of this repository is not found.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(environment, tmp_path_factory) -> Path:
    """A folder with what `hf-rec demo` wrote to it."""
    folder = tmp_path_factory.mktemp("work")
    output = run(environment / "bin" / "hf-rec", "demo", "--num_users", 200, "--max_steps", 20, cwd=folder)
    assert "Recommended:" in output
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    package = REPOSITORY / "hf_rec"
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"hf_rec/py.typed", "hf_rec/hub/card_template.md", "hf_rec/model/layers.py"} <= files
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    about = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - about == files
    assert {name.partition("/")[2] for name in about} >= {"METADATA", "entry_points.txt", "licenses/LICENSE"}


def test_the_package_is_that_of_the_wheel(environment, tmp_path):
    code = "import hf_rec, torch; print(hf_rec.__file__); print(torch.__file__)"
    package, torch = map(Path, run(environment / "bin" / "python", "-c", code, cwd=tmp_path).splitlines())
    assert package.is_relative_to(environment)
    assert not torch.is_relative_to(environment)


def test_help_names_the_commands(environment, tmp_path):
    output = run(environment / "bin" / "hf-rec", "--help", cwd=tmp_path)
    assert all(f"  {command} " in output for command in ("train", "evaluate", "recommend", "export", "demo"))


def test_demo_writes_its_log_and_a_model(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["demo"]
    demo = folder / "demo"
    assert sorted(path.name for path in demo.iterdir()) == ["items.parquet", "purchases.parquet", "shop-recommender"]
    assert (demo / "shop-recommender" / "config.json").is_file()


def test_a_model_is_trained_evaluated_asked_and_exported(environment, folder):
    def hf_rec(*arguments) -> str:
        return run(environment / "bin" / "hf-rec", *arguments, cwd=folder)

    data, model = ("--train_file", "demo/purchases.parquet"), ("--model_name_or_path", "model")
    trained = hf_rec("train", *data, "--output_dir", "model", "--max_steps", 20, "--hidden_size", 16)
    hf_rec("evaluate", *model, *data, "--output_file", "metrics.json")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics.keys() == {"popularity", "last-item Markov", "model"}
    assert f"{metrics['model']['ndcg@10']:.4f}" in trained

    history = ("--history", "sku-001", "sku-002", "--top_k", 3)
    (line,) = hf_rec("recommend", *model, *history).splitlines()
    recommended = json.loads(line)["recommended"]
    assert len({entry["item_id"] for entry in recommended} - {"sku-001", "sku-002"}) == 3

    hf_rec("export", *model, "--output_dir", "exported")
    (line,) = hf_rec("recommend", "--model_name_or_path", "exported", *history).splitlines()
    exported = json.loads(line)["recommended"]
    assert [entry["item_id"] for entry in exported] == [entry["item_id"] for entry in recommended]
    assert [entry["score"] for entry in exported] == pytest.approx([e["score"] for e in recommended], abs=1e-4)
