"""Imports point down the floors: each module says its floor at its top, a package in its __init__."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tgt_ray

PACKAGE = Path(tgt_ray.__file__).parent
ENTRY_POINTS = {"tgt_ray.train", "tgt_ray.sweep"}  # a docstring for users, two lines of code
FIRST_FLOOR_WITH_RAY = 4
TREES = {
    ".".join(["tgt_ray", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = sorted(TREES.keys() - {"tgt_ray"})


def floor(module: str) -> int | None:
    """The floor a module or its package states."""
    while module != "tgt_ray":
        stated = re.match(r"Floor (\d+): ", ast.get_docstring(TREES[module]) or "")
        if stated:
            return int(stated[1])
        if module in ENTRY_POINTS:
            return 7
        module = module.rpartition(".")[0]
    return None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(tree: ast.AST, at_module_level: bool = False) -> set[str]:
    """Names of all modules a tree imports when it runs; those only for type checkers are left out."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in TREES else str(node.module) for name in inside}
        elif not (at_module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            found |= imports(node, at_module_level)
    return found


def of_package(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_its_floor(module):
    assert floor(module) is not None


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    here = floor(module)
    above = {name: floor(name) for name in imports(TREES[module]) if of_package(name, "tgt_ray") and name != "tgt_ray"}
    assert {name: f for name, f in above.items() if f is None or f > here} == {}


@pytest.mark.parametrize("module", [m for m in MODULES if (floor(m) or 0) < FIRST_FLOOR_WITH_RAY])
def test_low_floors_do_not_know_ray(module):
    assert not [name for name in imports(TREES[module]) if of_package(name, "ray")]


LIGHT = [
    "batch", "config", "experiment", "metrics", "prepared", "records", "search", "storage",
    "data", "explorers", "generators", "labelers", "objectives", "students", "tasks",
]  # fmt: skip


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[1] in LIGHT])
def test_configs_and_results_import_neither_torch_nor_ray(module):
    heavy = [n for n in imports(TREES[module], at_module_level=True) if of_package(n, "torch") or of_package(n, "ray")]
    assert heavy == []


def loaded_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def test_configs_and_results_really_load_without_torch_and_ray():
    loaded = loaded_by(*(f"tgt_ray.{name}" for name in LIGHT))
    assert "tgt_ray.experiment" in loaded
    assert not loaded & {"torch", "ray", "timm", "optuna"}


def test_the_package_itself_loads_nothing():
    assert not {name for name in loaded_by("tgt_ray") if of_package(name, "tgt_ray")} - {"tgt_ray"}


def test_the_ray_side_loads_without_torch():
    assert "torch" not in loaded_by("tgt_ray.stream", "tgt_ray.board", "tgt_ray.lane", "tgt_ray.trainer")


@pytest.mark.parametrize("command", [["--help"], ["--schema"]])
@pytest.mark.parametrize("door", ["train", "sweep"])
def test_help_does_not_import_ray(door, command):
    code = f"import runpy, sys; sys.argv[1:] = {command}\ntry: runpy.run_module('tgt_ray.{door}', run_name='__main__')\nfinally: print('ray' in sys.modules, 'torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr.split() == ["False", "False"]


def test_a_local_run_does_not_import_ray(tmp_path):
    sets = [
        "train.steps=2",
        "train.eval_every=2",
        "teacher.labeler.pretrain.steps=2",
        "teacher.generator.pretrain.steps=2",
    ]
    arguments = ["--local", "--storage", str(tmp_path), *(part for each in sets for part in ("--set", each))]
    # With nothing in its place, importing ray is an ImportError.
    code = f"import runpy, sys; sys.modules['ray'] = None; sys.argv[1:] = {arguments}; runpy.run_module('tgt_ray.train', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "student and records in" in done.stdout


def test_the_public_names_are_there():
    for name in tgt_ray.__all__:
        assert getattr(tgt_ray, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = tgt_ray.nothing_like_this


def test_no_function_has_the_name_of_a_module():
    """`import tgt_ray.sweep`, which `python -m tgt_ray.sweep` does, would put the module in the function's place."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert not modules & set(tgt_ray.__all__)


def test_the_functions_are_callable_after_the_doors_were_imported():
    code = "import tgt_ray, tgt_ray.sweep, tgt_ray.train; print(callable(tgt_ray.run), callable(tgt_ray.run_sweep))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "True"]
