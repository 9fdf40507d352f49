"""Imports go one way: a module stands on those of lower levels alone."""

import ast
from pathlib import Path

import hf_rec

LEVELS = [
    {"columns", "configuration_bert4rec", "loss_bert4rec", "optimization", "ranking_bert4rec", "sampler", "shop"},
    {"tokenization_items", "metrics", "pipeline_bert4rec"},
    {"modeling_bert4rec", "collator", "data"},
    {"baselines", "hub", "arguments", "export"},
    {"training"},
    {"__init__"},
]
TRAVELS = {
    "configuration_bert4rec",
    "loss_bert4rec",
    "optimization",
    "ranking_bert4rec",
    "modeling_bert4rec",
    "pipeline_bert4rec",
}
FILES = {path.stem: ast.parse(path.read_text()) for path in Path(hf_rec.__file__).parent.glob("*.py")}


def imports(tree: ast.AST, relative: bool) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and bool(node.level) == relative:
            found.add(node.module or "")
        elif isinstance(node, ast.Import) and not relative:
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_has_a_level():
    assert set().union(*LEVELS) == FILES.keys()


def test_imports_go_down():
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    upward = {
        (name, other) for name, tree in FILES.items() for other in imports(tree, True) if level[other] >= level[name]
    }
    assert not upward


def test_what_travels_to_the_hub_needs_nothing_but_stock_packages():
    for name in TRAVELS:
        assert imports(FILES[name], relative=True) <= TRAVELS, name
        packages = {module.split(".")[0] for module in imports(FILES[name], relative=False)}
        assert packages <= {
            "torch",
            "transformers",
            "huggingface_hub",
            "array",
            "collections",
            "contextlib",
            "datetime",
            "functools",
            "itertools",
            "math",
            "numbers",
            "operator",
            "typing",
        }, name
