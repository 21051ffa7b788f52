r"""Covariance network followed by a subspace method, after SubspaceNet and DCD-MUSIC.

Shmuel, Merkofer, Revach, van Sloun & Shlezinger, *SubspaceNet: deep learning-aided subspace methods
for DoA estimation*, IEEE Trans. Veh. Technol. 74(3), 2025 (arXiv:2306.02271); Gast, Le Magoarou &
Shlezinger, *Near-field localization via AI-aided subspace methods*, 2025 (arXiv:2504.00599).

A convolutional network maps the snapshots to a surrogate covariance :math:`KK^H + \epsilon I`. In
the papers, the training loss is the error of the positions that MUSIC finds in it (RMSPE), without
a true covariance. Here a second, main term is the fraction of the true steering vectors inside the
signal subspace, which has a gradient far from any peak. Coherent sources, whose snapshot covariance
has rank one, are decorrelated.

The papers use a linear array and convolve over delays and antenna pairs. Here the field estimates
from the snapshots are first matched with the package's grid in (u, w, 1/r), where every source is a
local pattern. The network convolves over u and w; ranges are channels. It returns a cleaned image z
of the sources on the same grid. The columns of the factor are that image under random phase ramps,

.. math:: K_j = \sum_g a_g\, z_g\, e^{i\kappa_j^T p_g / \delta}

so that :math:`KK^H` preserves coherence within a beam and removes it between beams. A ramp over
directions is a shift of the aperture; at initialization, when z is the matched image, this is
spatial smoothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation.baselines import subspace
from ris_jax.networks import differentiable_music, losses, pursuit_features
from ris_jax.physics import arrays, linear, scenes
from ris_jax.physics import covariance as cov
from ris_jax.physics import measurement as measurement_lib

# Slope of the random ramps [rad per unit of resolution]: cells within a beam stay coherent.
_RAMP = 0.7
_RAMP_SEED = 20230602
_DILATIONS = (1, 2, 4)
_RESIDUAL_INIT = nnx.initializers.variance_scaling(0.02, "fan_in", "normal")
_HEAD_INIT = nnx.initializers.variance_scaling(0.01, "fan_in", "normal")
_TINY = 1e-20


def _patches(x: Float[Array, "B U W D"], dilation: int) -> Float[Array, "B U W 9D"]:
    """Stack every cell with its eight neighbours at a distance; zero beyond the grid."""
    rows, columns = x.shape[1:3]
    padded = jnp.pad(x, [(0, 0), (dilation, dilation), (dilation, dilation), (0, 0)])
    shifts = [(i * dilation, j * dilation) for i in range(3) for j in range(3)]
    return jnp.concatenate([padded[:, i : i + rows, j : j + columns] for i, j in shifts], axis=-1)


def _highest(x: Float[Array, "B U W D"]) -> Float[Array, "B D"]:
    """Return the maximum over cells.

    The derivative of `jnp.max` searches for the equal entry. It is NaN if the compiler recomputes x
    with other rounding.
    """
    flat = x.reshape(len(x), -1, x.shape[-1])
    index = jnp.argmax(flat, axis=1, keepdims=True)
    return jnp.take_along_axis(flat, index, axis=1)[:, 0]


class ResidualBlock(nnx.Module):
    """3 x 3 convolution combined with the scene mean, and a two-layer perceptron."""

    def __init__(self, model: config_lib.ModelConfig, dilation: int, *, rngs: nnx.Rngs):
        width, dtype = model.width, jnp.dtype(model.compute_dtype)
        self.dilation = dilation
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.near = nnx.Linear(9 * width, width, dtype=dtype, rngs=rngs)
        self.far = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.mlp_in = nnx.Linear(width, model.mlp_ratio * width, dtype=dtype, rngs=rngs)
        self.mlp_out = nnx.Linear(
            model.mlp_ratio * width, width, kernel_init=_RESIDUAL_INIT, dtype=dtype, rngs=rngs
        )
        self.dropout = nnx.Dropout(model.dropout)

    def __call__(
        self, x: Float[Array, "B U W D"], *, rngs: nnx.Rngs | None
    ) -> Float[Array, "B U W D"]:
        normed = self.norm(x)
        mean = self.far(jnp.mean(normed, axis=(1, 2), keepdims=True))
        near = jax.nn.relu(self.near(_patches(normed, self.dilation)) + mean)
        update = self.mlp_out(jax.nn.relu(self.mlp_in(near)))
        return x + self.dropout(update, deterministic=rngs is None, rngs=rngs)


def input_columns(config: config_lib.Config) -> int:
    """Return the number of field estimates that the network reads."""
    system = config.system
    signals = 1 if system.source_signal == "constant" else system.num_snapshots
    return min(signals, config.scene.max_sources, system.num_elements)


class SubspaceNetwork(nnx.Module):
    """Subspace network: cleaned matched images of the field, and their surrogate covariance."""

    def __init__(self, config: config_lib.Config, *, rngs: nnx.Rngs):
        model = config.model
        width, dtype = model.width, jnp.dtype(model.compute_dtype)
        ranges = pursuit_features.search_context(config).grid.shape[2]
        self.config = config

        def linear(inputs, outputs, **options):
            return nnx.Linear(inputs, outputs, dtype=dtype, rngs=rngs, **options)

        self.embed = linear(3 * ranges * input_columns(config) + 3, width)
        dilations = (_DILATIONS[i % len(_DILATIONS)] for i in range(model.depth))
        self.blocks = nnx.List([ResidualBlock(model, d, rngs=rngs) for d in dilations])
        self.final_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.head_image = linear(width, 3 * ranges, kernel_init=_HEAD_INIT)
        self.head_count = linear(2 * width, config.scene.max_sources, kernel_init=_HEAD_INIT)

    def __call__(
        self, measurement: scenes.Measurement, *, rngs: nnx.Rngs | None = None
    ) -> losses.Prediction:
        """Predict a batch.

        Args:
          measurement: a batch of B scenes with known noise variance.
          rngs: randomness of dropout; None disables dropout.

        Returns:
          A `Prediction`, float32 and complex64 whatever the compute dtype; its sources are the
          highest peaks, as many as the most probable number of sources.
        """
        image, snr = self._read(measurement)
        cleaned, count_logits = self._clean(image, snr, rngs)
        factor = self._factor(cleaned)
        peaks = peaks_of(self.config, factor, 1 + jnp.argmax(count_logits, axis=-1))
        return losses.Prediction(
            factor=factor,
            count_logits=count_logits,
            coordinates=peaks.coordinates,
            existence=peaks.active,
            decisions=None,
        )

    def _read(
        self, measurement: scenes.Measurement
    ) -> tuple[Complex[Array, "B C G"], Float[Array, "B"]]:
        """Return matched images of the fields, in units of their root mean square, and the SNR."""
        signal = self.config.system.source_signal
        fields = jax.vmap(lambda scene: measurement_lib.field_estimates(scene, signal))(measurement)
        nothing = cov.LowRankCovariance(fields, jnp.zeros(len(fields)))
        fields = subspace.compress(nothing, input_columns(self.config)).factor
        power = jnp.mean(jnp.sum(jnp.abs(fields) ** 2, axis=2), axis=1)
        fields = fields * jax.lax.rsqrt(power + _TINY)[:, None, None]
        grid = pursuit_features.search_context(self.config).grid
        image = jax.vmap(lambda columns: grid.matched(columns.T))(fields)
        # A covariance ignores the phases of its columns: the largest entry of each is made real.
        highest = jnp.argmax(jnp.abs(image), axis=-1, keepdims=True)
        highest = jnp.take_along_axis(image, highest, axis=-1)
        image = image * (highest.conj() / (jnp.abs(highest) + _TINY))
        return image, jax.vmap(measurement_lib.signal_to_noise)(measurement)

    def _clean(
        self, image: Complex[Array, "B C G"], snr: Float[Array, "B"], rngs: nnx.Rngs | None
    ) -> tuple[Complex[Array, "B G"], Float[Array, "B K"]]:
        """Apply the network: cleaned image on the grid, and logits of the number of sources."""
        context = pursuit_features.search_context(self.config)
        shape, dtype = context.grid.shape, self.embed.dtype
        level = jnp.abs(image)
        squeezed = image / (1.0 + level)
        features = jnp.stack([squeezed.real, squeezed.imag, jnp.log1p(level**2)], axis=1)
        batch = len(features)
        features = features.reshape(batch, -1, *shape)
        features = jnp.moveaxis(features, 1, -1).reshape(batch, *shape[:2], -1)
        places = context.scaled(context.grid.points).reshape(*shape, 3)[:, :, 0, :2]
        scene = jnp.log10(jnp.maximum(snr, 1e-3))[:, None, None, None]
        x = jnp.concatenate(
            [
                features,
                jnp.broadcast_to(places, (batch, *places.shape)),
                jnp.broadcast_to(scene, (batch, *shape[:2], 1)),
            ],
            axis=-1,
        )
        x = self.embed(x.astype(dtype))
        for block in self.blocks:
            x = block(x, rngs=rngs)
        x = self.final_norm(x)
        pooled = jnp.concatenate([jnp.mean(x, axis=(1, 2)), _highest(x)], axis=-1)
        image = self.head_image(x).astype(jnp.float32).reshape(batch, -1, 3)
        gate, real, imaginary = jnp.moveaxis(image, -1, 0)
        cleaned = squeezed[:, -1] * jax.nn.softplus(gate) + jax.lax.complex(real, imaginary)
        return cleaned, self.head_count(pooled).astype(jnp.float32)

    def _factor(self, cleaned: Complex[Array, "B G"]) -> Complex[Array, "B N r"]:
        """Return the surrogate's factor: the image under each ramp, at the array elements."""
        grid = pursuit_features.search_context(self.config).grid
        ramped = cleaned[:, :, None] * _ramps(self.config)
        return linear.einsum("gn,bgr->bnr", grid.conjugates.conj(), ramped)


def _ramps(config: config_lib.Config) -> Complex[Array, "G r"]:
    """Return fixed random phase ramps over the grid."""
    grid = pursuit_features.search_context(config).grid
    rng = np.random.default_rng(_RAMP_SEED)
    slopes = _RAMP * rng.standard_normal((config.model.columns, 3))
    places = np.asarray(grid.points) / np.asarray(grid.unit)
    return jnp.asarray(np.exp(1j * places @ slopes.T) / np.sqrt(len(slopes)), jnp.complex64)


def peaks_of(
    config: config_lib.Config, factor: Complex[Array, "B N r"], num_sources: Int[Array, "B"]
) -> differentiable_music.SoftPeaks:
    """Run differentiable MUSIC on the covariances of a batch, in a configuration's region.

    Args:
      config: array and region.
      factor: [B, N, r].
      num_sources: [B] dimension of each signal subspace.
    """
    context = pursuit_features.search_context(config)

    def one(factor, count):
        return differentiable_music.soft_peaks(
            factor,
            count,
            context.grid,
            lambda points: arrays.normalized(context.problem.jet(points)[:, 0]),
            (context.problem.lower, context.problem.upper),
            config.scene.max_sources,
        )

    return jax.vmap(one)(factor, num_sources)


def signal_factor(
    factor: Complex[Array, "B N r"], num_sources: Int[Array, "B"], config: config_lib.Config
) -> Complex[Array, "B N K"]:
    """Return an orthonormal basis of the signal subspace, the only part that MUSIC uses."""
    return cov.signal_basis(factor, num_sources, config.scene.max_sources)


def loss_terms(
    prediction: losses.Prediction, target: losses.Target, config: config_lib.Config
) -> dict[str, Float[Array, "B"]]:
    """Return the weighted loss terms of every scene; a term of weight zero is not computed.

    The dimension of the signal subspace is the true number of sources, as in the papers.

    Args:
      prediction: the network's output.
      target: the truth; its factor is orthonormal, see `signal_factor`.
      config: weights, array and region.

    Returns:
      Term names to [B] values; their sum is the loss.
    """
    weights, terms = config.loss, {}
    if weights.subspace > 0:
        missed = losses.subspace_missed(prediction.factor, target.factor, target.num_sources)
        terms["subspace"] = weights.subspace * missed
    if weights.position > 0:
        peaks = peaks_of(config, prediction.factor, target.num_sources)
        unit = pursuit_features.resolution(config.system)
        error = losses.position_error(
            peaks.coordinates / unit, peaks.active, target.coordinates, target.active
        )
        terms["position"] = weights.position * error
    if weights.count > 0 and prediction.count_logits.shape[-1] > 1:  # a single class has no loss
        error = losses.count_cross_entropy(prediction.count_logits, target.num_sources)
        terms["count"] = weights.count * error
    return terms
