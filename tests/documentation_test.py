"""README and guide: Python runs as printed, commands accept their flags."""

import importlib
import inspect
import pathlib
import re
import shlex
import typing

import jax
import numpy as np
import pytest

import ris_jax
from ris_jax.accuracy import metrics
from ris_jax.cli import common_flags, main
from ris_jax.data.recordings import reader
from ris_jax.tuning import space

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def run(page, names=None):
    """Run the Python of a page from top to bottom; return its names."""
    names = {} if names is None else names
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), names)
    return names


def commands(text):
    """Return the command lines in the code of a text as words after `ris-jax`."""
    text = text.replace("\\\n", " ")
    program = r"(?:ris-jax|python -m ris_jax)"
    lines = re.findall(rf"^ {{2,}}(?:.*&& )?{program} (.*)$", text, re.MULTILINE)
    for line in (*lines, *re.findall(rf"`{program}\s([^`]+)`", text)):
        words = shlex.split(re.sub(r" {2,}\(.*\)$", "", line), comments=True)
        if words[0] in main._COMMANDS and words[1:] != ["--help"]:
            yield words


def parse(words):
    """Parse the flags of a command line as the command does."""
    command, *flags = words
    module = importlib.import_module(f"ris_jax.cli.commands.{main._MODULES.get(command, command)}")
    module.FLAGS.unparse_flags()
    assert module.FLAGS([command, *flags])[1:] == []
    return module.FLAGS


class TestCommands:
    CASES = tuple((page.name, words) for page in PAGES for words in commands(page.read_text()))

    def test_commands_are_found(self):
        assert {words[0] for _, words in self.CASES} >= set(main._COMMANDS)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{' '.join(case[1])}")
    def test_flags_are_valid(self, case):
        _, words = case
        flags = parse(words)
        if "set" in flags and not ("config" in flags and flags.config):
            common_flags.configuration(flags, {})


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_images_and_links_to_files_exist(page):
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text().replace("\n", " ")):
        assert (page.parent / target.strip()).exists(), target


def test_json_of_hyper_parameters_is_a_search_space(tmp_path):
    page = ROOT / "docs" / "guide" / "hyper_parameters.md"
    (block,) = re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "space.json").write_text(block)
    assert space.read(tmp_path / "space.json")


class TestPython:
    """Pages run in one process, so the search of 144 elements compiles once."""

    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_pages_with_python(self):
        """Each page has a test below."""
        names = {page.stem for page in PAGES if python_blocks(page)}
        assert names == {
            "README", "recordings", "arrays", "calibration", "element_response", "estimators",
            "live", "networks", "plain_arrays", "start_up", "wideband",
        }  # fmt: skip

    def test_start_up(self):
        """The tests have their own cache, which is kept."""
        before = jax.config.jax_compilation_cache_dir
        run(ROOT / "docs" / "guide" / "start_up.md")
        assert jax.config.jax_compilation_cache_dir == before

    def test_calibration(self):
        names = run(ROOT / "docs" / "guide" / "calibration.md")
        np.testing.assert_array_equal(names["codes"], np.ones((16, 144)))

    @pytest.mark.full
    def test_element_response(self):
        names = run(ROOT / "docs" / "guide" / "element_response.md")
        _assert_found(names["found"], names["scene"])

    @pytest.mark.full
    def test_plain_arrays(self):
        """Both sources are found."""
        names = run(ROOT / "docs" / "guide" / "plain_arrays.md", {})
        assert names["estimate"].num_sources.tolist() == [2]
        found = np.sort(np.degrees(names["estimate"].azimuth[0, :2]))
        np.testing.assert_allclose(found, [-30, 20], atol=0.5)

    def test_readme(self, tmp_path):
        """`localize` reads the saved file and finds the simulated sources."""
        generator = np.random.default_rng(0)

        def gaussian(*shape):
            return generator.normal(size=shape) + 1j * generator.normal(size=shape)

        q = np.array([[x, y, 0.0] for y in range(3) for x in range(3)]) * 0.15
        given = {"y": gaussian(4, 5, 6), "H": gaussian(6, 9), "C": gaussian(5, 9), "q": q}
        names = run(README, given)
        saved = reader.read(tmp_path / "recordings.npz")
        assert saved.snapshots.shape == (4, 5, 6)
        assert not saved.skipped
        _assert_found(names["found"], names["scene"])

    @pytest.mark.full
    def test_recordings(self):
        names = run(ROOT / "docs" / "guide" / "recordings.md")
        assert names["found"].truth is not None
        _assert_found(names["estimate"], names["scene"])

    @pytest.mark.full
    def test_arrays(self, capsys):
        names = run(ROOT / "docs" / "guide" / "arrays.md")
        _assert_found(names["found"], names["scene"])
        assert 0 < float(names["azimuth_deg"]) < 1
        assert float(names["metres"][0, 0]) < 1
        assert "first source of the first scene" in capsys.readouterr().out

    @pytest.mark.full
    def test_estimators(self):
        names = run(ROOT / "docs" / "guide" / "estimators.md")
        _assert_found(names["likely"], names["scene"])
        _assert_found(names["quick"], names["scene"])
        assert names["peaks"].num_sources.shape == (2,)

    @pytest.mark.full
    def test_wideband(self, tmp_path):
        """The sources of a smaller file than that of the page are counted."""
        fields = ("rows=8", "columns=8", "num_antennas=4", "num_snapshots=12")
        settings = [f"--set=system.{field}" for field in fields]
        settings += ["--set=scene.max_sources=2", "--set=scene.snr_min_db=19"]
        command = ["ris-jax", "simulate", "--out=wideband.npz", "--num_test=8", *settings]
        command += ["--frequencies=0.9e9:1.1e9:4", "--coherence=coherent"]
        assert main.main(command) == 0
        names = run(ROOT / "docs" / "guide" / "wideband.md")
        with np.load(tmp_path / "wideband.npz") as arrays:
            counts = arrays["num_sources"]
        assert np.mean(names["found"].num_sources == counts) >= 0.75

    @pytest.mark.full
    def test_live(self):
        """The exported file finds the sources of the prepared localiser."""
        names = run(ROOT / "docs" / "guide" / "live.md")
        np.testing.assert_array_equal(names["estimate"].num_sources, [3])
        np.testing.assert_array_equal(names["sources"]["num_sources"], [3])
        np.testing.assert_allclose(
            names["sources"]["azimuth"], names["estimate"].azimuth, atol=1e-4
        )

    @pytest.mark.full
    def test_networks(self, capsys):
        run(ROOT / "docs" / "guide" / "networks.md")
        assert capsys.readouterr().out.count("True") == 3


def _assert_found(found, scene):
    np.testing.assert_array_equal(found.num_sources, scene.truth.num_sources)
    assert float(metrics.gospa(found, scene.truth).total.max()) < 1.0


def test_the_citation_has_the_version():
    assert f"\nversion: {ris_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def _classes(hint):
    """Yield the names of the package's classes in a type; protocols are matched by structure."""
    ours = isinstance(hint, type) and hint.__module__.startswith("ris_jax")
    if ours and not getattr(hint, "_is_protocol", False):
        yield hint.__name__
    for part in typing.get_args(hint):
        yield from _classes(part)


def test_types_of_arguments_and_results_are_public():
    for name in ris_jax.__all__:
        function = inspect.unwrap(getattr(ris_jax, name))
        if inspect.isfunction(function):
            for hint in typing.get_type_hints(function).values():
                assert set(_classes(hint)) <= set(ris_jax.__all__), name


def test_public_names():
    assert set(ris_jax._EXPORTS) == set(ris_jax.__all__)
    for name in ris_jax.__all__:
        assert getattr(ris_jax, name).__name__ == name
    assert set(dir(ris_jax)) >= {*ris_jax.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ris_jax.nonsense  # noqa: B018
