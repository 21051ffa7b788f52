"""Structure of the package: layers, unique names, folder sizes, and no cycles."""

import ast
import collections
import itertools
import pathlib

from absl.testing import absltest, parameterized

import ris_jax

ROOT = pathlib.Path(ris_jax.__file__).parent
# A module imports from its own layer and from the layers before it.
LAYERS = (
    ("errors", "_environment", "compilation", "compilation_cache", "files"),
    ("config", "config_files", "presets"),
    ("physics",),
    ("accuracy",),
    ("data",),
    ("estimation",),
    ("networks",),
    ("estimators", "localization", "wideband_localization"),
    ("training",),
    ("reports", "tuning"),
    ("benchmarks", "serving"),
    ("cli", "__main__"),
)
LAYER = {unit: level for level, units in enumerate(LAYERS) for unit in units}
# The package itself exports functions of every layer.
OUTSIDE = "__init__"
MOST_FILES = 14  # of a folder, besides __init__.py
ONE_EACH = ("cli/commands",)  # one file per command of the program


def unit_of(path):
    """Return the top-level module or folder of a file."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported_modules(tree):
    """Yield the dotted names under `ris_jax` that a module imports, at any place in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "ris_jax")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"need absolute imports; got a relative one in line {node.lineno}")
            if node.module == "ris_jax":
                yield from (f"ris_jax.{alias.name}" for alias in node.names)
            elif node.module.startswith("ris_jax."):
                yield node.module


def upward_imports(source, unit):
    """Return the units above `unit` that its source imports."""
    names = (name.split(".") for name in imported_modules(ast.parse(source)))
    found = {name[1] if len(name) > 1 else OUTSIDE for name in names}
    return sorted(name for name in found if LAYER.get(name, len(LAYERS)) > LAYER[unit])


def nearly_equal(one, other):
    """Return whether two names differ by one letter or a plural."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    if len(one) == len(other):
        return sum(a != b for a, b in zip(one, other, strict=True)) == 1
    short, long = sorted((one, other), key=len)
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


FILES = sorted(path for path in ROOT.rglob("*.py") if unit_of(path) != OUTSIDE)


class LayersTest(parameterized.TestCase):
    @parameterized.parameters(*(str(path.relative_to(ROOT)) for path in FILES))
    def test_imports_go_down(self, name):
        unit = unit_of(ROOT / name)
        self.assertIn(unit, LAYER, "a new unit: give it a place in LAYERS")
        self.assertEmpty(upward_imports((ROOT / name).read_text(), unit))

    @parameterized.parameters(
        ("from ris_jax.networks import losses", "physics", ["networks"]),
        ("from ris_jax.training import loop", "networks", ["training"]),
        ("def f():\n  import ris_jax.cli.main", "training", ["cli"]),
        ("import ris_jax", "physics", [OUTSIDE]),
        ("from ris_jax import config as c\nfrom ris_jax.networks import scorer", "training", []),
        ("import jax\nfrom jax import config", "physics", []),
    )
    def test_upward_imports_are_found(self, source, unit, found):
        self.assertEqual(upward_imports(source, unit), found)

    def test_relative_imports_are_refused(self):
        with self.assertRaisesRegex(ValueError, "absolute"):
            upward_imports("from . import arrays", "physics")

    def test_no_cycles(self):
        graph = {}
        for path in FILES:
            name = ".".join(("ris_jax", *path.relative_to(ROOT).with_suffix("").parts))
            names = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ris_jax"):
                    names |= {f"{node.module}.{alias.name}" for alias in node.names}
                    names.add(node.module)
            graph[name] = names - {name}
        self.assertNotEmpty(graph)
        while graph:
            ready = {name for name, needs in graph.items() if not needs & set(graph)}
            self.assertNotEmpty(ready, f"a cycle among {sorted(graph)}")
            graph = {name: needs for name, needs in graph.items() if name not in ready}

    @parameterized.parameters(
        ("orbax", ["training/saving/checkpoint.py"]),
        ("tensorboardX", ["training/saving/metrics_log.py"]),
        ("filelock", ["files.py"]),
        ("aiohttp", ["serving/service.py"]),
        ("chex", []),
        ("fcntl", []),  # not on Windows, like the two below
        ("pwd", []),
        ("resource", []),
    )
    def test_modules_that_import_a_library(self, library, modules):
        """Each library is used by one module, which a new release may change."""
        found = []
        for path in FILES:
            names = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add((node.module or "").partition(".")[0])
            if library in names:
                found.append(path.relative_to(ROOT).as_posix())
        self.assertEqual(found, modules)


class NamesTest(parameterized.TestCase):
    def test_class_names_are_unique(self):
        classes = collections.Counter(
            node.name
            for path in FILES
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef)
        )
        self.assertEmpty([name for name, count in classes.items() if count > 1])

    def test_module_names_are_unique_and_distinct(self):
        """A command may have the name of its module; every other name occurs once."""
        parts = [path.relative_to(ROOT).with_suffix("").parts for path in FILES]
        modules = [p[-1] for p in parts if p[-1] != "__init__" and "commands" not in p]
        self.assertLen(set(modules), len(modules), collections.Counter(modules).most_common(3))
        for names in (modules, ris_jax.__all__):
            pairs = itertools.combinations(sorted(names), 2)
            self.assertEmpty([pair for pair in pairs if nearly_equal(*pair)])

    @parameterized.parameters(
        ("record", "records", True), ("plan", "plane", True), ("scene", "scone", True),
        ("scenes", "scenes", False), ("channel", "cancel", False),
    )  # fmt: skip
    def test_nearly_equal(self, one, other, wanted):
        self.assertEqual(nearly_equal(one, other), wanted)

    def test_folders_are_small(self):
        folders = {path.parent for path in FILES} - {ROOT / folder for folder in ONE_EACH}
        counts = {str(f): len([*f.glob("*.py")]) - 1 for f in folders}
        self.assertEmpty([name for name, count in counts.items() if count > MOST_FILES])


if __name__ == "__main__":
    absltest.main()
