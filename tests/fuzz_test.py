"""A few hundred of the thousands of cases of experiments/fuzz.py."""

import fuzz
import fuzz_cases
import fuzz_configurations
import fuzz_recordings
import pytest

CASES = {"configurations": 200, "recordings": 100, "records": 40}


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_a_correct_result_or_one_line(name, tmp_path):
    import fuzz_folders

    known = {
        "configurations": fuzz_configurations.Configurations,
        "recordings": fuzz_recordings.Recordings,
        "records": fuzz_folders.Records,
    }[name](tmp_path / "home")
    numbers = [n for n in range(10_500) if fuzz.surface_of(n) == name][: CASES[name]]
    found = [fuzz.run_case({name: known}, 0, n, tmp_path / f"case{n}") for n in numbers]
    assert [case for case in found if case["kind"] == fuzz_cases.WRONG] == []
    assert {case["kind"] for case in found} == {fuzz_cases.RIGHT, fuzz_cases.REFUSED}


def _case(run):
    return fuzz_cases.Case("damage", run, ("file.npz",), ())


def _raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda: "", fuzz_cases.RIGHT),
        (lambda: "something is lost", fuzz_cases.WRONG),
        (_raising(OSError("file.npz: no such file")), fuzz_cases.REFUSED),
        (_raising(OSError("no such file")), fuzz_cases.WRONG),
        (_raising(OSError("file.npz: MemoryError")), fuzz_cases.WRONG),
        (_raising(OSError("file.npz" * 1000)), fuzz_cases.WRONG),
        (_raising(TypeError("file.npz")), fuzz_cases.WRONG),
    ],
)
def test_classification(run, kind):
    assert fuzz_cases.classify(_case(run)).kind == kind


@pytest.mark.parametrize(
    ("status", "complaint", "kind"),
    [
        (1, "ris-jax: file.npz: damaged\n", fuzz_cases.REFUSED),
        (2, "warning: old\nris-jax: file.npz: damaged\n", fuzz_cases.REFUSED),
        (0, "", fuzz_cases.RIGHT),
        (1, "ris-jax: damaged\n", fuzz_cases.WRONG),
        (1, "", fuzz_cases.WRONG),
        (0, "file.npz\n", fuzz_cases.WRONG),
        (1, "Traceback (most recent call last):\n", fuzz_cases.WRONG),
        (-11, "", fuzz_cases.WRONG),
    ],
)
def test_classification_of_a_command(status, complaint, kind):
    assert fuzz_cases.classify_command(_case(None), status, complaint).kind == kind
