"""Levenberg-Marquardt with bounds, against closed forms and SciPy."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from ris_jax.estimation import levenberg_marquardt

FAR = 1e6


class Local(NamedTuple):
    value: jax.Array
    gradient: jax.Array
    curvature: jax.Array


def of_residual(residual, point):
    """Return minus the squared residual, half its gradient, the curvature, the residual."""
    value, jacobian = residual(point), jax.jacfwd(residual)(point)
    return Local(-value @ value, -jacobian.T @ value, jacobian.T @ jacobian), value


@functools.partial(jax.jit, static_argnames=("residual", "iterations"))
def climb(start, lower, upper, *data, residual, iterations):
    """Maximise a batch of problems: starts [B, n], data with leading axis B, shared limits."""

    def one(start, *data):
        return levenberg_marquardt.ascend(
            lambda point: of_residual(lambda p: residual(p, *data), point),
            start,
            lower,
            upper,
            iterations,
        )

    return jax.vmap(one)(start, *data)


def linear(point, matrix, right):
    return right - matrix @ point


def rosenbrock(point):
    return jnp.stack([10.0 * (point[1] - point[0] ** 2), 1.0 - point[0]])


def linear_problems(count=24, size=3, rows=6, seed=0):
    """Draw columns of very different length, which need damping relative to the curvature."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(count, rows, size)) * np.array([0.1, 1.0, 10.0])[:size]
    return matrix.astype("f4"), random.normal(size=(count, rows)).astype("f4")


class StepTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 0.5)
    def test_solves_the_damped_equations(self, damping):
        """Without damping one step solves a linear problem."""
        matrix, right = linear_problems()
        start = np.random.default_rng(1).normal(size=(len(matrix), 3)).astype("f4")

        @jax.jit
        @jax.vmap
        def one(point, matrix, right):
            local, _ = of_residual(lambda p: linear(p, matrix, right), point)
            limit = jnp.full(3, FAR)
            return levenberg_marquardt.step(point, local, jnp.float32(damping), -limit, limit)

        found = one(start, matrix, right)
        for index in range(len(matrix)):
            m = matrix[index].astype(float)
            normal = m.T @ m
            normal += damping * np.diag(np.diag(normal))
            move = np.linalg.solve(normal, m.T @ (right[index] - m @ start[index]))
            np.testing.assert_allclose(found[index], start[index] + move, rtol=1e-3, atol=1e-3)

    def test_coordinates_without_effect_are_kept(self):
        curvature = jnp.diag(jnp.array([2.0, 0.0, 0.0]))
        local = Local(jnp.zeros(()), jnp.array([1.0, 0.0, 0.0]), curvature)
        point, limit = jnp.array([0.0, 5.0, -5.0]), jnp.full(3, 10.0)
        found = jax.jit(levenberg_marquardt.step)(point, local, jnp.zeros(()), -limit, limit)
        np.testing.assert_allclose(found, [0.5, 5.0, -5.0], rtol=1e-6)

    def test_limits(self):
        """At a limit, outward gradients fix a coordinate, inward gradients release it."""
        local = Local(jnp.zeros(()), jnp.array([-1.0, 1.0, 1.0, 9.0]), jnp.eye(4))
        lower, upper = jnp.full(4, -2.0), jnp.full(4, 2.0)
        point = jnp.array([-2.0, 2.0, -2.0, 0.0])
        found = jax.jit(levenberg_marquardt.step)(point, local, jnp.zeros(()), lower, upper)
        np.testing.assert_allclose(found, [-2.0, 2.0, -1.0, 2.0], rtol=1e-6)


class AscendTest(parameterized.TestCase):
    def test_linear_least_squares(self):
        """The first damping is 0.01, so each step leaves at most that fraction of the error."""
        matrix, right = linear_problems()
        limit = np.full(3, FAR, "f4")
        point, local, residual = climb(
            np.zeros((len(matrix), 3), "f4"), -limit, limit, matrix, right,
            residual=linear, iterations=6,
        )  # fmt: skip
        for index in range(len(matrix)):
            wanted, energy, *_ = np.linalg.lstsq(
                matrix[index].astype(float), right[index].astype(float)
            )
            np.testing.assert_allclose(point[index], wanted, rtol=2e-3, atol=2e-4)
            np.testing.assert_allclose(-local.value[index], energy[0], rtol=1e-5)
        # The returned value belongs to the point.
        chex.assert_trees_all_close(
            residual, right - np.einsum("bij,bj->bi", matrix, point), atol=1e-4
        )

    def test_rosenbrock(self):
        start = np.array([[-1.2, 1.0], [2.0, -2.0], [0.0, 5.0], [-3.0, -3.0]], "f4")
        limit = np.full(2, 10.0, "f4")
        point, local, _ = climb(start, -limit, limit, residual=rosenbrock, iterations=60)
        np.testing.assert_allclose(point, np.ones((4, 2)), atol=1e-3)
        np.testing.assert_allclose(local.value, np.zeros(4), atol=1e-8)

    def test_never_falls(self):
        start = np.array([[-1.2, 1.0]], "f4")
        limit = np.full(2, 10.0, "f4")
        values = [
            climb(start, -limit, limit, residual=rosenbrock, iterations=count)[1].value[0]
            for count in (0, 1, 2, 5)
        ]
        self.assertTrue(np.all(np.diff(values) >= 0))
        self.assertGreater(values[-1], values[0])

    def test_box(self):
        """The optimum within the limits, on faces, edges and corners, equals SciPy's."""
        matrix, right = linear_problems(count=40, seed=3)
        matrix = matrix / np.array([0.1, 1.0, 10.0], "f4")
        lower, upper = np.full(3, -0.15, "f4"), np.array([0.1, 0.2, 0.05], "f4")
        start = np.random.default_rng(4).uniform(lower, upper, (40, 3)).astype("f4")
        point, local, _ = climb(start, lower, upper, matrix, right, residual=linear, iterations=40)
        self.assertTrue(np.all((point >= lower) & (point <= upper)))
        on_faces = 0
        for index in range(40):
            solved = scipy.optimize.lsq_linear(
                matrix[index].astype(float), right[index].astype(float), (lower, upper), tol=1e-12
            )
            np.testing.assert_allclose(-local.value[index], 2 * solved.cost, rtol=1e-5)
            np.testing.assert_allclose(point[index], solved.x, atol=2e-3)
            on_faces += np.any(solved.active_mask != 0)
        self.assertGreater(on_faces, 20)

    @parameterized.parameters(np.nan, np.inf, -np.inf)
    def test_non_finite_values_are_rejected(self, outside):
        """The optimum is at 2; beyond 1 the function is NaN."""

        def evaluate(point):
            local, residual = of_residual(lambda p: 2.0 - p, point)
            broken = jnp.any(point > 1.0)
            return jax.tree.map(lambda leaf: jnp.where(broken, outside, leaf), local), residual

        @jax.jit
        def run(start):
            limit = jnp.full(1, FAR)
            return levenberg_marquardt.ascend(evaluate, start, -limit, limit, 30)

        point, local, _ = run(jnp.array([0.0]))
        chex.assert_tree_all_finite((point, local))
        self.assertGreater(point[0], 0.5)
        self.assertLessEqual(point[0], 1.0)

    def test_non_finite_starts_are_kept(self):
        """They do not affect the other problems of the batch."""
        matrix, right = linear_problems(count=3)
        limit, start = np.full(3, FAR, "f4"), np.zeros((3, 3), "f4")
        run = functools.partial(climb, residual=linear, iterations=6)
        wanted = run(start, -limit, limit, matrix, right)
        right[1] = np.nan
        found = run(start, -limit, limit, matrix, right)
        np.testing.assert_array_equal(found[0][1], start[1])
        for index in (0, 2):
            chex.assert_trees_all_equal(
                jax.tree.map(lambda leaf, i=index: leaf[i], found),
                jax.tree.map(lambda leaf, i=index: leaf[i], wanted),
            )

    def test_no_iterations(self):
        start = np.array([[-1.2, 1.0]], "f4")
        limit = np.full(2, 10.0, "f4")
        point, local, residual = climb(start, -limit, limit, residual=rosenbrock, iterations=0)
        np.testing.assert_array_equal(point, start)
        np.testing.assert_allclose(residual, [[-4.4, 2.2]], rtol=1e-5)
        np.testing.assert_allclose(local.value, [-(4.4**2) - 2.2**2], rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
