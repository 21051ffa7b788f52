"""Error bars in double precision on the host, and what the removal of a static path cost."""

import numpy as np
from jaxtyping import Float, Int

from ris_jax.estimation.checks import residual_analysis, static_path_check
from ris_jax.estimation.checks.check_input import CheckInput, coordinates_of
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag

# Minimum noise over received power that error bars assume.
_LEAST_NOISE = 1e-10


def with_error_bars(
    estimate: Estimate, problem: CheckInput, flags: Int[np.ndarray, "B"]
) -> Estimate:
    """Recompute error bars in double precision where those of the estimator are invalid.

    These are scenes with noise below float32 resolution, and arrays that do not determine one
    coordinate.
    """
    region = problem.region
    fixed = [i for i, most in enumerate((region.u_max, region.w_max)) if most == 0.0]
    wanted = np.full(len(flags), bool(fixed)) | (flags & int(Flag.NOISE_FLOOR) != 0)
    wanted &= np.asarray(estimate.num_sources) > 0
    if not wanted.any():
        return estimate
    points, jets = coordinates_of(estimate), problem.steering_jets(estimate)
    covariance, noise = estimate.covariance.copy(), estimate.noise_variance.copy()
    for b in np.flatnonzero(wanted).tolist():
        count = int(estimate.num_sources[b])
        own, noise[b] = _scene_error_bars(jets[b, :count], points[b, :count], fixed, problem, b)
        covariance[b, :count] = own
    return estimate._replace(covariance=covariance, noise_variance=noise)


def with_static_path(estimate: Estimate, problem: CheckInput) -> Estimate:
    """Add the strength of a removed static path, and the increase of the variances."""
    counts = np.asarray(estimate.num_sources)
    strength, loss = np.full((2, len(counts)), np.nan, np.float32)
    if problem.static_path:
        jets = problem.steering_jets(estimate)
        for b, count in enumerate(counts.tolist()):
            scene = problem.scene(b)
            if np.isfinite(scene.snapshots).all() and scene.snapshots.any():
                strength[b], loss[b] = static_path_check.measured(scene, jets[b, :count])
    return estimate._replace(static_path_db=strength, static_path_loss_db=loss)


def _scene_error_bars(jets, points, fixed, problem: CheckInput, scene: int):
    r"""Return the Cramér-Rao bound at an estimate with some direction cosines known to be 0.

    .. math:: C^{-1} = \frac{2}{\sigma^2} \mathrm{Re}\, D^H (I - B B^+) D
    """
    snapshots, channel, codes = problem.fitted_scene(scene)
    constant = problem.signal == "constant"
    count = len(jets)
    seen = residual_analysis.images(jets.reshape(4 * count, -1), channel, codes)
    seen = seen.reshape(*seen.shape[:2], count, 4)
    fitted = residual_analysis.fit(snapshots, seen[..., 0], constant=constant)
    power = np.mean(np.abs(snapshots) ** 2)
    noise = np.sum(np.abs(fitted.residual) ** 2) / max(fitted.dof, 1.0)
    noise = max(noise, _LEAST_NOISE * power)
    information = 2.0 / noise * residual_analysis.information(fitted, seen)
    free = np.array([i % 3 not in fixed for i in range(3 * count)])
    full = residual_analysis.inverse_information(information, free)
    own = np.stack([full[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] for k in range(count)])
    return np.stack([_turned(c, p, fixed) for c, p in zip(own, points, strict=True)]), noise


def _turned(covariance, point, fixed) -> Float[np.ndarray, "3 3"]:
    """Transform a covariance of (u, w, 1/r) to azimuth, elevation and range."""
    u, w, rho = point
    cosine = np.sqrt(max(1.0 - w**2, 1e-12))
    ahead = np.sqrt(max(1.0 - u**2 - w**2, 1e-12))
    range_slope = -1.0 / rho**2 if rho > 0 else 0.0
    turn = np.array([[1.0 / ahead, u * w / (ahead * cosine**2), 0.0],
                     [0.0, 1.0 / cosine, 0.0],
                     [0.0, 0.0, range_slope]])  # fmt: skip
    known = np.isfinite(np.diagonal(covariance))
    found = turn @ np.where(np.outer(known, known), covariance, 0.0) @ turn.T
    known = known & np.array([True, True, rho > 0])
    # If the other angle is an assumption, azimuth has the variance at that fixed angle.
    known[0] &= known[1] or 1 in fixed
    known[1] &= 1 not in fixed
    known[0] &= 0 not in fixed
    return np.where(np.outer(known, known), found, np.where(np.eye(3, dtype=bool), np.inf, 0.0))
