"""The house: thirteen folders in order, no import that goes up, no circle of files, short functions and lines."""

import ast
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tgt_ray

PACKAGE = Path(tgt_ray.__file__).parent
TESTS = Path(__file__).parent
#: Data goes through them from the last to the first; each imports from itself and from those before it.
FOLDERS = (
    "core",
    "data",
    "models",
    "tasks",
    "objectives",
    "teacher",
    "results",
    "experiment",
    "training",
    "inference",
    "distributed",
    "sweeps",
    "entrypoints",
)
#: What may lie beside the folders: the doors that `python -m` opens.
DOORS = {"tgt_ray", "tgt_ray.__main__", "tgt_ray.sweep", "tgt_ray.train"}
FIRST_FOLDER_WITH_RAY = "distributed"
LONGEST_FUNCTION = 60
LONGEST_LINE = 120

TREES = {
    ".".join(["tgt_ray", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = sorted(TREES)


def folder(module: str) -> str | None:
    """The folder of a module; None for what lies beside them."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(tree: ast.AST, at_module_level: bool = False, for_types: bool = False) -> set[str]:
    """Names of all modules a tree imports when it runs; with `for_types` also those only for type checkers."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node) and not for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in TREES else str(node.module) for name in inside}
        elif not (at_module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            found |= imports(node, at_module_level, for_types)
    return found


def of_package(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def own_imports(module: str, for_types: bool = False) -> set[str]:
    return {name for name in imports(TREES[module], for_types=for_types) if of_package(name, "tgt_ray")}


def test_every_file_is_in_a_folder():
    assert {module for module in MODULES if folder(module) is None} <= DOORS
    assert {each.name for each in PACKAGE.iterdir() if each.is_dir() and each.name != "__pycache__"} == set(FOLDERS)


@pytest.mark.parametrize("module", [module for module in MODULES if module not in DOORS])
def test_no_import_goes_up(module):
    here = FOLDERS.index(folder(module) or "")
    above = {name for name in own_imports(module) if name in DOORS or FOLDERS.index(folder(name) or "") > here}
    assert above == set()


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, in order; empty where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            found = walk(other, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def test_there_is_no_circle_of_files():
    # Also not of imports that only type checkers follow: whoever reads one of two files must read the other.
    files = [module for module in MODULES if module not in DOORS]
    assert circle({module: own_imports(module, for_types=True) - {module} for module in files}) == []


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    long = {
        node.name: length
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert long == {}


LINES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
LINES |= {f"tests/{path.relative_to(TESTS)}": path for path in sorted(TESTS.rglob("*.py"))}


@pytest.mark.parametrize("path", LINES.values(), ids=LINES)
def test_lines_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, start=1) if len(line) > LONGEST_LINE] == []


BELOW_RAY = FOLDERS[: FOLDERS.index(FIRST_FOLDER_WITH_RAY)]


@pytest.mark.parametrize("module", [m for m in MODULES if folder(m) in BELOW_RAY])
def test_the_lower_folders_do_not_know_ray(module):
    assert not [name for name in imports(TREES[module]) if of_package(name, "ray")]


#: Without torch at import, in whole or file by file: what configs, records and reports need.
WITHOUT_TORCH = [
    "core", "data", "tasks", "experiment", "results", "sweeps", "entrypoints", "distributed",
    "models.backbones", "models.students", "models.hub", "models.text.vocabulary",
    *(f"objectives.{path.stem}" for path in sorted((PACKAGE / "objectives").glob("[a-z]*.py"))),
    "teacher.config", "teacher.labelers", "teacher.generators", "teacher.explorers", "teacher.pretraining.config",
    "teacher.fingerprints", "teacher.cache", "teacher.transfer_set",
    "training.files", "training.fit_check", "training.preparation",
]  # fmt: skip
#: Of these also without ray: reports and help texts need no cluster.
WITHOUT_RAY = [*BELOW_RAY, "sweeps.config", "sweeps.space", "sweeps.table", "entrypoints"]


@pytest.mark.parametrize("what", WITHOUT_TORCH)
def test_what_is_light_does_not_import_torch(what):
    assert heavy("torch", what) == {}


@pytest.mark.parametrize("what", WITHOUT_RAY)
def test_what_needs_no_cluster_does_not_import_ray(what):
    assert heavy("ray", what) == {}


def heavy(package: str, what: str) -> dict[str, list[str]]:
    """The modules of a folder, or a module, that import a package when they are imported."""
    mine = [module for module in MODULES if of_package(module, f"tgt_ray.{what}")]
    assert mine
    found = {
        module: [name for name in imports(TREES[module], at_module_level=True) if of_package(name, package)]
        for module in mine
    }
    return {module: names for module, names in found.items() if names}


def loaded_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def modules_of(*parts: str) -> list[str]:
    return [module for module in MODULES for part in parts if of_package(module, f"tgt_ray.{part}")]


def test_configs_and_results_really_load_without_torch_and_ray():
    light = set(modules_of(*WITHOUT_TORCH)) & set(modules_of(*WITHOUT_RAY))
    loaded = loaded_by(*sorted(light))
    assert "tgt_ray.experiment.experiment" in loaded
    assert not loaded & {"torch", "ray", "timm", "optuna", "transformers"}


def test_the_package_itself_loads_nothing():
    assert not {name for name in loaded_by("tgt_ray") if of_package(name, "tgt_ray")} - {"tgt_ray"}


def test_the_ray_side_loads_without_torch():
    assert "torch" not in loaded_by(*modules_of("distributed"))


@pytest.mark.parametrize("command", [["--help"], ["--schema"]])
@pytest.mark.parametrize("door", ["train", "sweep"])
def test_help_does_not_import_ray(door, command):
    code = (
        f"import runpy, sys; sys.argv[1:] = {command}\ntry: runpy.run_module('tgt_ray.{door}', run_name='__main__')\n"
        "finally: print('ray' in sys.modules, 'torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr.split() == ["False", "False"]


def test_a_local_run_does_not_import_ray(tmp_path):
    quick = [
        "train.steps=2",
        "train.eval_every=2",
        *(f"teacher.{role}.pretrain.steps=2" for role in ("labeler", "generator")),
    ]
    arguments = ["--local", "--storage", str(tmp_path), *(part for each in quick for part in ("--set", each))]
    # With nothing in its place, importing ray is an ImportError.
    code = (
        f"import runpy, sys; sys.modules['ray'] = None; sys.argv[1:] = {arguments};"
        " runpy.run_module('tgt_ray.train', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "student, records and report.html: " in done.stdout


def test_the_public_names_are_there():
    for name in tgt_ray.__all__:
        assert getattr(tgt_ray, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = tgt_ray.nothing_like_this


def test_dir_lists_what_a_user_may_call():
    assert dir(tgt_ray) == sorted(tgt_ray.__all__)


#: A part of a dotted name of Ray's that is not documented, or the name of a logger or variable of its insides.
RAYS_OWN = re.compile(r"\bray(\.\w+)*\.(_\w+|v2|execution)\b|\bRAY_JOB_CONFIG\w+|\bray\.tune\.tune\b")


def test_private_names_of_ray_lie_in_one_file():
    using = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if RAYS_OWN.search(path.read_text())}
    assert using == {"distributed/ray_train.py"}


def test_ray_has_an_upper_bound_at_the_version_that_was_tried():
    from tgt_ray.distributed.ray_train import TRIED

    bounds = [Requirement(each) for each in requires("tgt-ray") if each.startswith("ray[")]
    assert len({each.specifier for each in bounds}) == 1, "the package's own, and those of extras"
    ray = bounds[0]
    newest = TRIED[-1]
    major, minor = map(int, newest.split("."))
    assert ray.specifier.contains(f"{newest}.5") and not ray.specifier.contains(f"{major}.{minor + 1}.0")


@pytest.mark.parametrize("module", MODULES)
def test_no_private_name_of_another_module_is_imported(module):
    taken = [
        each.name
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tgt_ray")
        for each in node.names
    ]
    assert not [name for name in taken if name.startswith("_")]


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
