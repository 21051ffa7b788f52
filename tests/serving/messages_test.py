"""Requests and answers of the service."""

import io
import json

import chex
import numpy as np
import pytest
from serving import surfaces

from ris_jax.estimation.flags import Flag
from ris_jax.serving import messages

SNAPSHOTS = surfaces.simulated()[0].snapshots
LIMITS = {"max_scenes": 3, "max_bytes": 20_000}


def _parse(body):
    return messages.parse(body, surfaces.SHAPE, **LIMITS)


def _npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("scenes", [1, 3])
def test_json_and_npz_are_alike(scenes):
    given = SNAPSHOTS[0] if scenes == 1 else SNAPSHOTS[:scenes]
    bodies = (
        surfaces.as_json(given, snr_db=10, id=7),
        _npz(snapshots=given, snr_db=np.float64(10), id=7),
        _npz(snapshots=given.astype(np.complex128), snr_db=np.full(scenes, 10.0), id="7"),
    )
    for found in map(_parse, bodies):
        chex.assert_shape(found.snapshots, (scenes, *surfaces.SHAPE))
        chex.assert_type(found.snapshots, np.complex64)
        np.testing.assert_array_equal(found.snapshots, SNAPSHOTS[:scenes])
        np.testing.assert_array_equal(found.snr_db, [10.0] * scenes)
        assert found.name == "7"


def test_optional_fields():
    found = _parse(surfaces.as_json(SNAPSHOTS[0]))
    assert found.snr_db is None
    assert found.name is None


def _pair(real, imag):
    return json.dumps({"snapshots": {"real": real, "imag": imag}}).encode()


def _body(**fields):
    return surfaces.as_json(SNAPSHOTS[0], **fields)


ROW = [[0.0] * 8] * 8


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: expected JSON or .npz; found nothing"),
        (b"{", "body: expected JSON or .npz; found Expecting"),
        (b"\xff\xfe\x00", "body: expected JSON or .npz; found"),
        (b"[" * 10**5, "body: expected JSON or .npz; found"),
        (b"[1]", "body: expected a JSON object; found list"),
        (b"{}", r"snapshots: expected \[L, M\] or \[B, L, M\] complex numbers; found none"),
        (_body(snr=3), "body: expected the fields .*; found 'snr'; did you mean snr_db?"),
        (_body(other=3), "body: expected the fields snapshots, snr_db, id; found 'other'$"),
        (b'{"snapshots": 3}', "snapshots: expected an object with the parts real and imag"),
        (b'{"snapshots": null}', "snapshots: expected an object .*; found NoneType"),
        (b'{"snapshots": {}}', "snapshots: expected the parts real and imag; found none"),
        (b'{"snapshots": {"re": 1, "im": 1}}', "parts real and imag; found re, im"),
        (_pair([[1, 2], [1]], ROW), "snapshots.real: expected lists of equal lengths"),
        (_pair("abc", ROW), "snapshots.real: expected real numbers; found text"),
        (_pair(ROW, [[None] * 8] * 8), "snapshots.imag: expected real numbers; found null"),
        (_pair([[True] * 8] * 8, ROW), "snapshots.real: .* found truth values"),
        (_pair(ROW, ROW[:4]), r"snapshots: expected parts of one shape; found \[\[8, 8\], \[4"),
        (_pair(ROW[:4], ROW[:4]), r"snapshots: expected \[L, M\] = \[8, 8\] or .*; found \[1, 4"),
        (_pair([ROW] * 4, [ROW] * 4), "snapshots: expected 1 to 3 scenes; found 4; send several"),
        (_pair([], []), r"snapshots: expected \[L, M\] = \[8, 8\] or .*; found \[0\]"),
        (_pair([[1e300] * 8] * 8, ROW), r"snapshots: expected finite numbers; found \(1e\+300"),
        (_pair([[float("nan")] * 8] * 8, ROW), "snapshots: expected finite numbers; .* in scene 0"),
        (_body(snr_db="high"), "snr_db: expected real numbers; found text"),
        (_body(snr_db=[1, 2]), r"snr_db: expected a number or \[B\] = \[1\]; found \[2\]"),
        (_body(snr_db=1e9), "snr_db: expected finite dB, at most 200"),
        (_body(snr_db=float("nan")), "snr_db: expected finite dB"),
        (_body(id=True), "id: expected text or a whole number"),
        (_body(id=[1]), "id: expected text or a whole number"),
        (_body(id="x" * 101), "id: expected text or a whole number of at most 100 characters"),
        (b"PK\x03\x04", "body: expected an .npz archive of plain arrays; found body: cannot be"),
        (_npz(snapshots=SNAPSHOTS[0].real), "snapshots: expected complex numbers; found dtype f"),
        (_npz(snapshots=np.zeros(99_999, bool)), "found body: need at most 20000 bytes; got"),
        (_npz(snapshots=np.array([{}], object)), "found body: snapshots: need a plain numeric"),
    ],
)  # fmt: skip
def test_malformed_requests(body, message):
    with pytest.raises(messages.RequestError, match=message) as caught:
        _parse(body)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_transposed_axes_are_named():
    body = _pair([[0.0] * 8] * 4, [[0.0] * 8] * 4)
    with pytest.raises(messages.RequestError, match="axes look transposed"):
        messages.parse(body, (8, 4), **LIMITS)


def test_npy_is_refused():
    buffer = io.BytesIO()
    np.save(buffer, SNAPSHOTS)
    with pytest.raises(messages.RequestError, match=r"body: expected JSON or \.npz"):
        _parse(buffer.getvalue())


def test_answer():
    estimate = surfaces.FixedLocalizer()(SNAPSHOTS[:2])
    estimate = estimate._replace(flags=np.array([0, Flag.MISFIT | Flag.STATIC_PATH]))
    found = messages.answer(estimate, name="a", time=3.0, elapsed_ms=1.23456)
    assert (found["id"], found["time"], found["elapsed_ms"]) == ("a", 3.0, 1.235)
    first, second = found["scenes"]
    assert (first["flags"], first["warnings"], first["residual_test"]) == ([], [], "passed")
    assert second["flags"] == ["misfit", "static_path"]
    assert second["warnings"] == [Flag.MISFIT.sentence]
    assert second["residual_test"] == "failed"
    (source,) = first["sources"]
    assert source["position_m"] == [0.0, 0.0, 5.0]
    assert source["range_std_m"] == pytest.approx(0.1)
    np.testing.assert_allclose(source["position_covariance_m2"], np.diag([25e-4, 25e-4, 1e-2]))
    assert json.loads(messages.as_text(found)) == found


def test_answer_without_range_or_error_bars():
    """JSON has no infinity."""
    estimate = surfaces.FixedLocalizer()(SNAPSHOTS[:1])
    unknown = np.where(np.eye(3, dtype=bool), np.inf, 0.0)[None, None]
    far = estimate._replace(source_range=np.array([[np.inf]]), covariance=unknown, flags=None)
    (scene,) = messages.answer(far, name=None, time=0.0, elapsed_ms=0.0)["scenes"]
    (source,) = scene["sources"]
    assert source["position_m"] is None
    assert source["position_covariance_m2"] is None
    assert source["covariance"][0] == [None, 0.0, 0.0]
    near = estimate._replace(covariance=unknown)
    (scene,) = messages.answer(near, name=None, time=0.0, elapsed_ms=0.0)["scenes"]
    assert scene["sources"][0]["position_m"] == [0.0, 0.0, 5.0]
    assert scene["sources"][0]["position_covariance_m2"] is None


def test_cartesian_derivatives():
    place, step = np.array([0.4, -0.3, 2.0]), 1e-6
    point, slopes = messages.cartesian(place)
    assert np.linalg.norm(point) == pytest.approx(2.0)
    numeric = [
        (messages.cartesian(place + step * axis)[0] - messages.cartesian(place - step * axis)[0])
        / (2 * step)
        for axis in np.eye(3)
    ]
    np.testing.assert_allclose(slopes, np.transpose(numeric), atol=1e-8)
