"""Configuration: frozen dataclasses, validated when they are built.

Fields in degrees and dB have the unit in their name, on the command line as well; all others are
SI, radians or linear.
"""

import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import dacite

from ris_jax import errors

SPEED_OF_LIGHT = 299_792_458.0  # [m/s]
LOWEST_FREQUENCY = 1e6  # [Hz]; lower values are in MHz or GHz

# "spherical" is exact; "spherical_phase" has its phases and the same modulus on all elements.
Wavefront = Literal["spherical", "spherical_phase", "fresnel", "parabolic", "planar"]
SourceSignal = Literal["constant", "independent"]
StaticPath = Literal["auto", "on", "off"]
Coherence = Literal["incoherent", "coherent"]
CodebookName = Literal["dft2d", "dft1d", "random", "hadamard", "mixed"]
PathLoss = Literal["inverse_square", "none"]
ComputeDtype = Literal["float32", "bfloat16"]
OptimizerMethod = Literal["muon", "adamw"]
Architecture = Literal["learned_pursuit", "subspace_network"]

# Version of configurations in files. In version 1, "spherical" meant what "spherical_phase" does.
FORMAT_VERSION = 2

# Fraction of scenes with a false source if the number of sources is unknown. This low rate misses
# few weak sources. It is defined here because the commands use it before they import JAX.
DEFAULT_FALSE_ALARM_RATE = 1e-3


class ConfigError(ValueError):
    """A configuration is invalid; the message names the field."""


def _require(condition: bool, field: str, needed: str, got: Any) -> None:
    if not condition:
        raise ConfigError(f"{field}: need {needed}; got {errors.brief(repr(got))}")


def _require_choice(field: str, choices: Any, got: str) -> None:
    _require(got in get_args(choices), field, "one of " + ", ".join(get_args(choices)), got)


def _require_positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{section}.{name}", "a value above zero", value)


def _require_nonnegative(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 0, f"{section}.{name}", "a value of zero or more", value)


def _require_fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0 <= value < 1, f"{section}.{name}", "0 <= value < 1", value)


def response_problem(
    exponent: float, angles: Sequence[float] | None, amplitudes: Sequence[float] | None
) -> tuple[str, str, str] | None:
    """Return what is wrong with the response of elements: field, expected and found.

    Args:
      exponent: of the cosine, used without a table.
      angles: [A] of a table [rad]; None without one.
      amplitudes: [A] at these angles, linear.
    """
    if not (math.isfinite(exponent) and exponent >= 0):
        return "exponent", "a finite number of 0 or more", f"{exponent}"
    if angles is None and amplitudes is None:
        return None
    if angles is None or amplitudes is None:
        absent = "angles" if angles is None else "amplitudes"
        return absent, "angles and amplitudes, or neither", "none"
    if exponent > 0:
        return "exponent", "an exponent or a table of angles and amplitudes", "both"
    if len(angles) != len(amplitudes) or len(angles) < 2:
        lengths = f"{len(angles)} angles and {len(amplitudes)} amplitudes"
        return "amplitudes", "two or more, one for each angle", lengths
    if not all(map(math.isfinite, (*angles, *amplitudes))):
        return "amplitudes", "finite angles and amplitudes", "NaN or infinity"
    if angles[0] != 0 or any(b <= a for a, b in itertools.pairwise(angles)):
        return "angles", "radians ascending from 0", f"{errors.brief(list(angles))}"
    if angles[-1] > math.pi + 1e-6:
        return "angles", "radians, at most pi", f"{angles[-1]:g}; degrees?"
    if angles[-1] < math.pi / 2 - 1e-3:
        return (
            "angles",
            "angles up to pi / 2 or more (append the amplitude in the plane of the elements)",
            f"a last angle of {angles[-1]:g}",
        )
    if min(amplitudes) < 0 or amplitudes[0] == 0:
        return (
            "amplitudes",
            "linear amplitudes of 0 or more, above 0 at the first angle",
            f"{min(amplitudes):g}" + ("; decibels?" if min(amplitudes) < 0 else ""),
        )
    return None


@dataclasses.dataclass(frozen=True)
class SystemConfig:
    """The surface, the base station and the phase codes."""

    wavelength: float = 0.3  #: [m]
    rows: int = 12  #: elements along y
    columns: int = 12  #: elements along x, the fastest index
    spacing: float = 0.15  #: [m]
    centered: bool = True  #: False: offsets -columns/2 ... columns/2 - 1, as the reference has
    #: Any other array, [N][3] in metres; replaces rows, columns and spacing.
    element_positions: tuple[tuple[float, float, float], ...] | None = None
    num_antennas: int = 16  #: M, base-station antennas
    num_snapshots: int = 16  #: L, phase codes
    codebook: CodebookName = "dft2d"
    #: File (.npz) with `codes` [L, N], as `design` writes it, in place of the codebook.
    codes_file: str | None = None
    phase_bits: int | None = 3  #: None: continuous phases
    wavefront: Wavefront = "spherical"
    source_signal: SourceSignal = "constant"
    #: q of elements whose amplitude is cos(angle to the normal)^q; 0: the same in all directions.
    response_exponent: float = 0.0
    #: Angles [rad] of a table of amplitudes in place of the exponent, ascending from 0.
    response_angles: tuple[float, ...] | None = None
    response_amplitudes: tuple[float, ...] | None = None  #: linear, at these angles

    def __post_init__(self):
        _require_positive("system", self, "wavelength", "rows", "columns", "spacing")
        _require_positive("system", self, "num_antennas", "num_snapshots")
        _require_choice("system.codebook", CodebookName, self.codebook)
        _require_choice("system.wavefront", Wavefront, self.wavefront)
        _require_choice("system.source_signal", SourceSignal, self.source_signal)
        for name in ("response_angles", "response_amplitudes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        problem = response_problem(
            self.response_exponent, self.response_angles, self.response_amplitudes
        )
        if problem is not None:
            raise ConfigError(
                f"system.response_{problem[0]}: need {problem[1]}; got {errors.brief(problem[2])}"
            )
        bits = self.phase_bits
        _require(bits is None or 1 <= bits <= 16, "system.phase_bits", "1 to 16, or null", bits)
        if self.element_positions is not None:
            # Lists and NumPy arrays are accepted and stored as hashable tuples.
            rows = tuple(tuple(map(float, position)) for position in self.element_positions)
            object.__setattr__(self, "element_positions", rows)
            shapes = {len(position) for position in self.element_positions}
            _require(shapes == {3}, "system.element_positions", "rows of 3 metres", shapes)
            metres = [metre for position in self.element_positions for metre in position]
            finite = all(map(math.isfinite, metres))
            _require(finite, "system.element_positions", "finite metres", self.element_positions)
            # Smoothing windows grow until they cover all elements; coincident ones never would.
            distinct, given = len(set(self.element_positions)), len(self.element_positions)
            _require(distinct == given, "system.element_positions", f"{given} places", distinct)

        beams = {"dft2d": 1.0, "dft1d": 1.0, "mixed": 0.5}.get(self.codebook, 0.0)
        beams = 0.0 if self.codes_file is not None else beams
        _require(
            beams * self.num_snapshots <= self.num_elements,
            "system.num_snapshots",
            f"no more DFT beams than elements (N={self.num_elements}) in codebook {self.codebook}",
            self.num_snapshots,
        )

    @property
    def num_elements(self) -> int:
        """Number of elements of the surface, N."""
        if self.element_positions is not None:
            return len(self.element_positions)
        return self.rows * self.columns


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """Distribution of the scenes."""

    min_sources: int = 1
    max_sources: int = 5  #: K_max, also the width of the network's output
    azimuth_max_deg: float = 60.0  #: azimuth is uniform within plus or minus this
    elevation_max_deg: float = 30.0
    range_min: float = 0.5  #: [m]
    range_max: float = 10.0  #: [m]
    snr_min_db: float = -5.0
    snr_max_db: float = 20.0
    path_loss: PathLoss = "inverse_square"  #: in power
    #: Power of a path past the surface, the same under all codes, over that of the clean snapshots
    #: through the surface; null: none. Needs constant signals. The SNR does not include it.
    static_path_db: float | None = None
    #: Line-of-sight over scattered power of an entry of H, linear. The reference states factors of
    #: 0.5 to 10, but its line-of-sight matrix has unit norm. The factor per entry is therefore
    #: 0.5 / 144 to 10 / 144, as here; see docs/guide/arrays.md.
    rician_factor_min: float = 0.0035
    rician_factor_max: float = 0.07

    def __post_init__(self):
        _require_positive("scene", self, "min_sources", "range_min")
        _require_choice("scene.path_loss", PathLoss, self.path_loss)
        _require_nonnegative("scene", self, "rician_factor_min")
        for low, high in (
            ("min_sources", "max_sources"),
            ("range_min", "range_max"),
            ("snr_min_db", "snr_max_db"),
            ("rician_factor_min", "rician_factor_max"),
        ):
            least, most = getattr(self, low), getattr(self, high)
            _require(least <= most, f"scene.{high}", f"at least {low}={least}", most)
        for name in ("azimuth_max_deg", "elevation_max_deg"):
            value = getattr(self, name)
            _require(0 < value < 90, f"scene.{name}", "0 < value < 90", value)


@dataclasses.dataclass(frozen=True)
class ImpairmentConfig:
    """Hardware errors unknown to the estimator; all off by default."""

    position_jitter: float = 0.0  #: [m], uniform within plus or minus this, each axis of the array
    phase_error: float = 0.0  #: [rad], standard deviation, per element
    amplitude_error_db: float = 0.0  #: standard deviation, per element
    dead_fraction: float = 0.0  #: fraction of elements that reflect nothing
    #: Phase-dependent reflection (Abeywickrama et al., IEEE Trans. Commun. 68(9), 2020, Eq. 5).
    beta_min: float = 1.0
    beta_phase: float = 1.35  #: [rad]
    beta_exponent: float = 1.6
    channel_error: float = 0.0  #: channel estimate error over channel, in power
    varied: bool = False  #: strength of all of these is uniform from zero to full, per scene

    def __post_init__(self):
        _require_nonnegative("impairments", self, "position_jitter", "phase_error")
        _require_nonnegative("impairments", self, "amplitude_error_db", "channel_error")
        _require_nonnegative("impairments", self, "beta_exponent")
        _require_fraction("impairments", self, "dead_fraction")
        _require(0 <= self.beta_min <= 1, "impairments.beta_min", "0 to 1", self.beta_min)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Network architecture and size."""

    #: `learned_pursuit`, or the baseline `subspace_network`: a surrogate covariance for MUSIC.
    architecture: Architecture = "learned_pursuit"
    rounds: int = 2  #: rounds of adding sources in the pursuit
    candidates: int = 12  #: peaks of the residual that are scored per round
    iterations: int = 2  #: of refinement after each round
    columns: int = 12  #: of the factor of the subspace network's covariance
    width: int = 64
    depth: int = 3
    num_heads: int = 4  #: of the pursuit's attention
    mlp_ratio: int = 4
    dropout: float = 0.0
    compute_dtype: ComputeDtype = "float32"  #: of the network; covariances and losses stay float32

    def __post_init__(self):
        _require_choice("model.architecture", Architecture, self.architecture)
        _require_positive("model", self, "rounds", "candidates", "iterations", "columns")
        _require_positive("model", self, "width", "depth", "num_heads", "mlp_ratio")
        _require_fraction("model", self, "dropout")
        _require_choice("model.compute_dtype", ComputeDtype, self.compute_dtype)
        _require(
            self.width % self.num_heads == 0,
            "model.num_heads",
            f"a divisor of model.width={self.width}",
            self.num_heads,
        )


@dataclasses.dataclass(frozen=True)
class CovarianceConfig:
    """Construction of the effective covariance, in training and inference."""

    blend: float = 0.0  #: beta: weight of the snapshots' covariance
    #: Weight of the identity at 0 dB SNR; divided by the linear SNR, at most 0.5.
    shrinkage: float = 0.01

    def __post_init__(self):
        _require_fraction("covariance", self, "blend")
        _require_nonnegative("covariance", self, "shrinkage")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; the logged terms are weighted and sum to the loss."""

    covariance: float = 1.0  #: NMSE of the effective covariance
    existence: float = 1.0  #: cross-entropy of every source and candidate, in every round
    offset: float = 0.1  #: position of added sources between the grid's cells
    count: float = 0.1  #: cross-entropy of the number of sources
    #: Missed fraction of the signal subspace of the surrogate covariance; subspace network only.
    subspace: float = 0.0
    position: float = 0.0  #: RMSPE of the peaks of its MUSIC spectrum; subspace network only

    def __post_init__(self):
        names = [field.name for field in dataclasses.fields(self)]
        _require_nonnegative("loss", self, *names)
        total = sum(getattr(self, name) for name in names)
        _require(total > 0, "loss", "at least one weight above zero", "all zero")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Options of the optimizer in `ris_jax.training.optimizer`, counted in updates."""

    method: OptimizerMethod = "muon"
    learning_rate: float = 2e-2  #: peak, of the backbone
    head_multiplier: float = 4.0  #: head learning rate over backbone learning rate
    warmup_fraction: float = 0.05  #: of all updates
    final_fraction: float = 0.01  #: of the peak, at the end of the cosine
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    accumulation: int = 1  #: microbatches an update; the last update of an epoch may have fewer
    ema_decay: float = 0.999
    max_consecutive_nonfinite: int = 20

    def __post_init__(self):
        _require_choice("optimizer.method", OptimizerMethod, self.method)
        _require_nonnegative("optimizer", self, "learning_rate", "weight_decay")
        _require_positive("optimizer", self, "head_multiplier", "clip_norm", "accumulation")
        _require_positive("optimizer", self, "max_consecutive_nonfinite")
        _require_fraction("optimizer", self, "warmup_fraction", "ema_decay")
        _require(0 <= self.final_fraction <= 1, "optimizer.final_fraction", "0 to 1",
                 self.final_fraction)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length and data of the training, and its output."""

    seed: int = 0
    #: Not compared: configurations that differ only here are equal, since a run can be extended.
    epochs: int = dataclasses.field(default=10, compare=False)
    steps_per_epoch: int = 100  #: microbatches
    batch_size: int = 64  #: scenes per microbatch
    fixed_scenes: int = 0  #: train on this many scenes repeatedly; 0: always new scenes
    validation_scenes: int = 2048
    validate_on_training_scenes: bool = False
    early_stopping_epochs: int = 0  #: epochs without a better val_nmse; 0: never stop early
    log_every: int = 20  #: microbatches between rows of metrics.jsonl
    keep_checkpoints: int = 2  #: newest ones, in addition to the best

    def __post_init__(self):
        _require_positive("training", self, "epochs", "steps_per_epoch", "batch_size")
        _require_positive("training", self, "validation_scenes", "log_every", "keep_checkpoints")
        _require_nonnegative("training", self, "fixed_scenes", "early_stopping_epochs")
        _require(0 <= self.seed < 2**32, "training.seed", "0 to 2**32 - 1", self.seed)
        _require(
            self.fixed_scenes == 0 or self.fixed_scenes >= self.batch_size,
            "training.fixed_scenes",
            f"0, or at least batch_size={self.batch_size}",
            self.fixed_scenes,
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """All inputs of a run; saved with its parameters."""

    system: SystemConfig = dataclasses.field(default_factory=SystemConfig)
    scene: SceneConfig = dataclasses.field(default_factory=SceneConfig)
    impairments: ImpairmentConfig = dataclasses.field(default_factory=ImpairmentConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    covariance: CovarianceConfig = dataclasses.field(default_factory=CovarianceConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self):
        for section in dataclasses.fields(self):
            for field in dataclasses.fields(getattr(self, section.name)):
                name = f"{section.name}.{field.name}"
                value = getattr(getattr(self, section.name), field.name)
                finite = not isinstance(value, float) or math.isfinite(value)
                _require(finite, name, "a finite number", value)
                # Python accepts booleans as numbers; a configuration does not.
                truth_value = isinstance(value, bool) and not isinstance(field.default, bool)
                _require(not truth_value, name, "no truth value", value)
        _require(
            self.scene.max_sources < self.system.num_elements,
            "scene.max_sources",
            f"fewer sources than elements (N={self.system.num_elements})",
            self.scene.max_sources,
        )
        _require(
            self.scene.static_path_db is None or self.system.source_signal == "constant",
            "scene.static_path_db",
            "null for independent signals, with which the path changes in every snapshot",
            self.scene.static_path_db,
        )
        self._require_own_losses()

        training, accumulation = self.training, self.optimizer.accumulation
        _require(
            accumulation <= training.steps_per_epoch,
            "optimizer.accumulation",
            f"at most steps_per_epoch={training.steps_per_epoch}",
            accumulation,
        )
        on_training = training.validate_on_training_scenes and training.fixed_scenes > 0
        _require(
            not on_training or training.validation_scenes <= training.fixed_scenes,
            "training.validation_scenes",
            f"at most fixed_scenes={training.fixed_scenes} to validate on training scenes",
            training.validation_scenes,
        )

    def _require_own_losses(self) -> None:
        """Require zero weights of terms that the architecture does not have."""
        foreign = {
            "learned_pursuit": ("subspace", "position"),
            "subspace_network": ("covariance", "existence", "offset"),
        }[self.model.architecture]
        needed = f"0 with model.architecture={self.model.architecture}"
        for name in foreign:
            weight = getattr(self.loss, name)
            _require(weight == 0, f"loss.{name}", needed, weight)
        if self.model.architecture == "subspace_network":
            most, columns = self.scene.max_sources, self.model.columns
            _require(columns >= most, "model.columns", f"max_sources={most} or more", columns)

    @property
    def total_updates(self) -> int:
        """Optimizer updates of a whole run, the schedule's length."""
        windows = math.ceil(self.training.steps_per_epoch / self.optimizer.accumulation)
        return self.training.epochs * windows


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested plain dictionaries, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> Config:
    """Build a configuration from nested dictionaries.

    Raises:
      ConfigError: a key is unknown, or a value has a wrong type or is invalid; it is named.
    """
    _require(isinstance(values, dict), "configuration", "an object of sections", values)
    _check_rows(values)
    options = dacite.Config(strict=True, cast=[tuple], type_hooks={float: _as_float})
    try:
        return dacite.from_dict(Config, values, options)
    except dacite.UnexpectedDataError as error:
        known, unknown = sorted(flatten(to_dict(Config()))), sorted(map(str, error.keys))
        raise ConfigError(
            f"unknown configuration key: {errors.brief(', '.join(unknown))}"
            f"{_suggestion(unknown[0])}; known: {', '.join(known)}"
        ) from error
    except dacite.WrongTypeError as error:
        if get_origin(error.field_type) is Literal:
            _require_choice(str(error.field_path), error.field_type, error.value)
        raise ConfigError(f"configuration: {errors.brief(error)}") from error
    except dacite.DaciteError as error:
        raise ConfigError(f"configuration: {errors.brief(error)}") from error


def to_stored(config: Config) -> dict[str, Any]:
    """Return the configuration as `from_stored` reads it from a file: `to_dict` and a version."""
    return {"format_version": FORMAT_VERSION} | to_dict(config)


def from_stored(values: dict[str, Any]) -> Config:
    """Build a configuration from the content of a file.

    Files of format version 1 are read with `upgraded`. They have no `format_version`, but all
    sections; a file without either was written by hand and uses the present terms.

    Raises:
      ConfigError: an unknown version, or as `from_dict`.
    """
    _require(isinstance(values, dict), "configuration", "an object of sections", values)
    values = dict(values)
    complete = all(field.name in values for field in dataclasses.fields(Config))
    version = values.pop("format_version", 1 if complete else FORMAT_VERSION)
    known = not isinstance(version, bool) and version in (1, FORMAT_VERSION)
    _require(known, "format_version", f"{FORMAT_VERSION} or 1", version)
    return from_dict(upgraded(values) if version == 1 else values)


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Return sections of format version 1 in present terms.

    Their spherical waves had the same modulus on all elements: `spherical_phase`.
    """
    system = values.get("system", {})
    if not isinstance(system, dict) or system.get("wavefront", "spherical") != "spherical":
        return values
    return values | {"system": system | {"wavefront": "spherical_phase"}}


def _suggestion(name: str) -> str:
    """Return the closest dotted name for the end of a message; empty if none is similar.

    A name without its section is compared with the fields of all sections.
    """
    known = list(flatten(to_dict(Config())))
    fields = {full.rpartition(".")[2]: full for full in reversed(known)}
    last = name.rpartition(".")[2]
    if last in fields:
        return f" (did you mean {fields[last]}?)"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    close += [fields[field] for field in difflib.get_close_matches(last, fields, cutoff=0.75)]
    return f" (did you mean {close[0]}?)" if close else ""


def _check_rows(values: dict[str, Any]) -> None:
    """Check the shape of element positions, on which dacite would fail."""
    system = values.get("system")
    positions = system.get("element_positions") if isinstance(system, dict) else None

    def is_list(value):
        return isinstance(value, Iterable) and not isinstance(value, (str, Mapping))

    rows = positions is None or (is_list(positions) and all(map(is_list, positions)))
    _require(rows, "system.element_positions", "rows of 3 metres, or null", positions)


def _as_float(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # rejected by name when the configuration is built
    return value


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to dotted names: ``{"model.width": 128}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"unknown configuration key: {errors.brief(name)}{_suggestion(name)}")


def override(config: Config, values: dict[str, Any]) -> Config:
    """Return the configuration with dotted names replaced: ``{"model.width": 96}``."""
    nested = to_dict(config)
    for name, value in values.items():
        node, *rest = name.split(".")
        target = nested
        while rest:
            target = target.get(node)
            if not isinstance(target, dict):
                raise _unknown(name)
            node, *rest = rest
        if node not in target:
            raise _unknown(name)
        target[node] = value
    return from_dict(nested)


def difference(ours: Config, theirs: Config) -> list[str]:
    """List the fields in which two configurations differ, one readable entry each."""
    left, right = flatten(to_dict(ours)), flatten(to_dict(theirs))
    brief = {k: [errors.brief(repr(values[k])) for values in (left, right)] for k in left}
    return [f"{k}={brief[k][0]} (there {brief[k][1]})" for k in left if left[k] != right[k]]
