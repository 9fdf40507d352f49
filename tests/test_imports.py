"""The rooms of the package and the direction of the imports between them."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_rec

PACKAGE = Path(hf_rec.__file__).parent
REPOSITORY = PACKAGE.parent
ROOMS = ["compat", "model", "data", "evaluation", "hub", "training", "cli"]  # each imports only from those before it
ALLOWED = {room: set(ROOMS[: number + 1]) for number, room in enumerate(ROOMS)} | {
    "model": {"model"},
    "prepare": {"compat", "model", "data", "hub", "prepare"},
    "serving": {"compat", "model", "data", "serving"},
    "explanation": {"compat", "model", "data", "explanation"},
    "space": {"compat", "model", "data", "hub", "space"},
    "compression": {*ROOMS[:-1], "compression"},
    "federated": {*ROOMS[:-1], "federated"},
    "cli": {*ROOMS, "compression", "explanation", "federated", "prepare", "serving", "space"},
}
MOVED = "arguments|baselines|collator|columns|export|loss_bert4rec|metrics|optimization|sampler|shop"
MOVED += "|configuration_bert4rec|modeling_bert4rec|pipeline_bert4rec|ranking_bert4rec|tokenization_items"
FLAT = "data|hub|training"  # files that became rooms
# Names that the package had before it got rooms.
OLD_NAMES = re.compile(
    "|".join(
        [
            r"time_gaps",
            r"\bhistory_ids=",
            r"[\"'`]history_ids",
            r"load_or_create",
            r"ranking_trainer",
            r"suitable_",
            r"loss_bert4rec",
            r"ranking_bert4rec",
            rf"hf_rec[./]({MOVED})\b",
            rf"hf_rec/({FLAT})\.py",
            rf"from hf_rec import (\([^)]*|[^(\n]*)\b({MOVED}|{FLAT})\b",
        ]
    )
)


def name_of(file: Path) -> str:
    """`model.layers`; a room itself for its `__init__.py`, and an empty name for that of the package."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


TREES = {name_of(file): ast.parse(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def package_of(module: str) -> list[str]:
    """Parts of the package that a relative import of a module starts from."""
    parts = module.split(".") if module else []
    return parts if module in ("", *ALLOWED) and module != "compat" else parts[:-1]


def imported_modules(module: str) -> set[str]:
    """Modules of the package that a module imports."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = package_of(module)
            base = package[: len(package) - node.level + 1]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            inner = {f"{target}.{alias.name}".strip(".") for alias in node.names} & TREES.keys()
            found |= inner or {target}
    return found


def imported_packages(module: str) -> set[str]:
    """Packages of others, and absolute imports of this one."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.partition(".")[0] for name in found}


def test_the_test_reads_relative_imports():
    assert imported_modules("data.collator") == {"model.configuration_bert4rec", "model.inputs"}
    assert imported_modules("") >= {"data.collator", "model.features"}
    assert imported_packages("data.sources") >= {"typing", "pyarrow", "datasets"}


def test_every_file_has_a_room():
    assert {room_of(module) for module in TREES if module} == ALLOWED.keys()
    assert [module for module in TREES if "." not in module] and "compat" in TREES
    assert all(module.count(".") <= 1 for module in TREES)
    assert {f"{room}/__init__.py" for room in ALLOWED if room != "compat"} == {
        file.relative_to(PACKAGE).as_posix() for file in PACKAGE.glob("*/__init__.py")
    }


def test_rooms_import_in_one_direction():
    wrong = {
        (module, other)
        for module in TREES
        if module
        for other in imported_modules(module)
        if room_of(other) not in ALLOWED[room_of(module)]
    }
    assert not wrong


def test_modules_import_other_rooms_by_the_module_that_defines_what_they_need():
    """Not by the room's `__init__.py`, which would load the whole room."""
    by_room = {(module, other) for module in TREES for other in imported_modules(module) if other in ALLOWED}
    assert by_room <= {(module, "compat") for module in TREES}


@pytest.mark.parametrize("room", ALLOWED)
def test_no_room_has_a_circle_of_imports(room):
    modules = {module for module in TREES if room_of(module) == room}
    graph = {module: imported_modules(module) & modules for module in modules}
    assert set(TopologicalSorter(graph).static_order()) == modules  # raises CycleError for a circle


def test_modules_of_the_package_are_imported_relatively():
    assert not {module for module in TREES if "hf_rec" in imported_packages(module)}


@pytest.mark.parametrize("module", sorted(module for module in TREES if room_of(module) == "model"))
def test_the_code_that_travels_to_the_hub_needs_only_flat_siblings_and_stock_packages(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
    stock = {"torch", "transformers", "huggingface_hub", "numpy", "safetensors"}
    assert imported_packages(module) <= stock | sys.stdlib_module_names


def test_only_commands_serving_explanation_and_the_page_use_the_pipeline():
    pipeline = "model.pipeline_bert4rec"
    users = {module for module in TREES if pipeline in imported_modules(module)}
    assert {room_of(module) for module in users} <= {"", "model", "serving", "explanation", "space", "cli"}
    stock = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "transformers"
        if {"pipeline", "Pipeline"} & {alias.name for alias in node.names}
    }
    assert {room_of(module) for module in stock} <= {"model", "serving", "space", "cli"}


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs the git repository")
    return listed.stdout.splitlines()


def test_no_file_has_a_name_of_the_old_layout():
    this = Path(__file__).resolve().relative_to(REPOSITORY).as_posix()
    found = []
    for name in tracked_files():
        file = REPOSITORY / name
        if name in ("CHANGELOG.md", this) or file.suffix == ".png" or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        for match in OLD_NAMES.finditer(text):
            found.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "from hf_rec import Bert4RecConfig, RecommendationCollator, training",
        "from hf_rec import (\n    Bert4RecConfig,\n    modeling_bert4rec,\n)",
        "from hf_rec.collator import RecommendationCollator",
        "Bert4RecConfig(use_time_gaps=True)",
        "model(input_ids, history_ids=ids)",
        "hf_rec/training.py",
    ],
)
def test_names_of_the_old_layout_are_found(text):
    assert OLD_NAMES.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "from hf_rec.data.collator import RecommendationCollator",
        "from hf_rec import Bert4RecConfig\nfrom hf_rec.data import build_sequences",
        "from hf_rec.training import fit",
        "history_ids = ids",
        'Feature("time_gap", "time_gap")',
    ],
)
def test_names_of_the_present_layout_are_allowed(text):
    assert not OLD_NAMES.search(text)
