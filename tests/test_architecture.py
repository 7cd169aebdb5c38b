"""The rules of the house that a machine can check: who imports whom, what every op has, documentation, file length."""

import ast
import inspect
from pathlib import Path

import pytest

import transmamba_kernels

ROOT = Path(__file__).parents[1]
FOLDERS = ("csrc", "transmamba_kernels", "transmamba", "benchmarks", "tests", "docs")
PUBLIC = transmamba_kernels.__all__
OPS = [name for name in PUBLIC if not inspect.ismodule(getattr(transmamba_kernels, name))]
LONGEST = 320  # lines: "about 300"

# What a package may import at run time of this project, itself included. Imports run one way.
ALLOWED = {
    "transmamba_kernels": {"transmamba_kernels"},
    "transmamba.layers": {"transmamba.layers", "transmamba_kernels"},
    "transmamba.models": {"transmamba.models", "transmamba.layers", "transmamba.files", "transmamba_kernels"},
    "transmamba.teachers": {"transmamba.teachers"},
    "transmamba.distill": {
        "transmamba.distill",
        "transmamba.teachers",
        "transmamba.models",
        "transmamba.layers",
        "transmamba_kernels",
    },
}


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports_at_run_time(tree):
    """Dotted names of all imports, also inside functions, except below ``if TYPE_CHECKING``."""
    found, left = [], [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            left += node.orelse
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            # `from package import name` may name a module.
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        left += ast.iter_child_nodes(node)
    return found


def within(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    files = sources(package.replace(".", "/"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imports_at_run_time(ast.parse(path.read_text()))
        if any(within(name, ours) for ours in ("transmamba", "transmamba_kernels", "tests", "benchmarks"))
        and not any(within(name, allowed) for allowed in ALLOWED[package])
    ]
    assert not wrong


def test_the_import_rule_sees_a_violation():
    tree = ast.parse("def f():\n    from transmamba.distill import subclone\nif TYPE_CHECKING:\n    import a\n")
    assert imports_at_run_time(tree) == ["transmamba.distill.subclone"]


def test_nothing_shipped_imports_tests_or_benchmarks():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for folder in ("transmamba", "transmamba_kernels")
        for path in sources(folder)
        for name in imports_at_run_time(ast.parse(path.read_text()))
        if within(name, "tests") or within(name, "benchmarks")
    ]
    assert not wrong


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_rooms(op):
    assert (ROOT / f"transmamba_kernels/{op}/reference.py").is_file()
    assert list((ROOT / f"tests/transmamba_kernels/{op}").glob("test_*.py")), f"no tests of {op}"
    assert (ROOT / f"benchmarks/test_{op}.py").is_file()
    assert f"# {op}\n" in (ROOT / f"docs/{op}.md").read_text()


def test_every_kernel_folder_is_an_op():
    folders = {path.parent.name for path in (ROOT / "transmamba_kernels").glob("*/reference.py")}
    assert folders == set(OPS)


@pytest.mark.parametrize("module", sorted(set(PUBLIC) - set(OPS)))
def test_public_modules_are_tested_and_documented(module):
    assert (ROOT / f"tests/transmamba_kernels/test_{module}.py").is_file()
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    functions = inspect.getmembers(getattr(transmamba_kernels, module), inspect.isfunction)
    public = [name for name, function in functions if function.__module__.endswith(module) and name[0] != "_"]
    assert public
    assert [name for name in public if f"`{name}(" not in text] == []


@pytest.mark.parametrize("op", OPS)
def test_ops_document_every_argument(op):
    function = getattr(transmamba_kernels, op)
    text = inspect.getdoc(function) or ""
    documented = {name.strip() for line in text.splitlines() if ":" in line for name in line.split(":")[0].split(",")}
    missing = [name for name in inspect.signature(function).parameters if name not in documented]
    assert not missing, f"{op} does not document {missing}"
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in text, f"{op} has no section {section}"


def undocumented(tree):
    """Public modules, classes and functions without a docstring; overrides are documented where they are declared."""
    if ast.get_docstring(tree) is None:
        yield "the module"
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node.name
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if (
                    isinstance(method, ast.FunctionDef)
                    and not method.name.startswith("_")
                    and method.name not in ("forward", "backward", "setup_context", "extra_repr")
                    and ast.get_docstring(method) is None
                ):
                    yield f"{node.name}.{method.name}"


@pytest.mark.parametrize("folder", ["transmamba_kernels", "transmamba"])
def test_public_names_have_docstrings(folder):
    files = sources(folder)
    assert files
    missing = [
        f"{path.relative_to(ROOT)}: {name}" for path in files for name in undocumented(ast.parse(path.read_text()))
    ]
    assert not missing


def test_files_are_short():
    files = [
        p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".cpp", ".h", ".cu", ".cuh")
    ]
    assert len(files) > 50
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_catch_all_module():
    names = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert [str(p) for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.stem in names] == []
