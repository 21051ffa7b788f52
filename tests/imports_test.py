"""Data flows one way: a room imports only from rooms above it in `ROOMS`."""

import ast
import pathlib

from absl.testing import absltest, parameterized

import ris_jax

ROOT = pathlib.Path(ris_jax.__file__).parent
ROOMS = (
    "errors", "_environment", "compilation_cache", "config", "config_files", "presets",
    "linear", "phasor", "draws", "arrays", "codebooks", "channel", "scenes", "measurement",
    "covariance",
    "bounds",
    "link_budget", "bound_maps", "code_design", "code_baselines", "mismatch",
    "estimators", "losses", "statistics", "counts", "metrics", "models", "data", "training",
    "networks", "reports",
    "benchmarks", "tuning", "cli", "__main__",
)  # fmt: skip
# The package itself offers every room's functions; it is above and below them all.
OUTSIDE = "__init__"


def room_of(path):
    """The room that a file of the package belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported_modules(tree):
    """Dotted names under `ris_jax` that a module imports, wherever in it."""
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


def misplaced_imports(source, room):
    """Rooms that `source`, standing in `room`, may not import."""
    names = (name.split(".") for name in imported_modules(ast.parse(source)))
    found = {name[1] if len(name) > 1 else OUTSIDE for name in names}
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    return sorted(found - allowed)


FILES = sorted(path for path in ROOT.rglob("*.py") if room_of(path) != OUTSIDE)


class RoomsTest(parameterized.TestCase):
    @parameterized.parameters(*(str(path.relative_to(ROOT)) for path in FILES))
    def test_imports_only_from_above(self, name):
        room = room_of(ROOT / name)
        self.assertIn(room, ROOMS, "a new room: give it its place in ROOMS")
        self.assertEmpty(misplaced_imports((ROOT / name).read_text(), room))

    @parameterized.parameters(
        ("from ris_jax import losses", "covariance", ["losses"]),
        ("from ris_jax.training import loop", "models", ["training"]),
        ("def f():\n  import ris_jax.cli.main", "training", ["cli"]),
        ("import ris_jax", "arrays", [OUTSIDE]),
        ("from ris_jax import config as c\nfrom ris_jax.models import judge", "training", []),
        ("import jax\nfrom jax import config", "arrays", []),
    )
    def test_the_test_sees(self, source, room, misplaced):
        self.assertEqual(misplaced_imports(source, room), misplaced)

    def test_relative_imports_are_refused(self):
        with self.assertRaisesRegex(ValueError, "absolute"):
            misplaced_imports("from . import arrays", "scenes")

    def test_no_cycles_within_a_room(self):
        """Modules of one folder can be put in an order, too."""
        graph = {}
        for path in FILES:
            name = ".".join(("ris_jax", *path.relative_to(ROOT).with_suffix("").parts))
            names = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ris_jax"):
                    names |= {f"{node.module}.{alias.name}" for alias in node.names}
                    names.add(node.module)
            graph[name] = names - {name}
        known = set(graph)
        while graph:
            ready = {name for name, needs in graph.items() if not needs & set(graph)}
            self.assertNotEmpty(ready, f"a cycle among {sorted(graph)}")
            graph = {name: needs for name, needs in graph.items() if name not in ready}
        self.assertNotEmpty(known)


if __name__ == "__main__":
    absltest.main()
