"""Localise sources live: a service over HTTP and WebSocket, with a map in the browser.

Example:
  ris-jax serve --channel=recordings.npz
  ris-jax serve --channel=recordings.npz --calibration=surface.npz --port=8080 --static_path=on

Takes the array, the codes, the channel, the wavelength and the noise level (snr_db) from a
recordings file, compiles, prints "ready", and answers until SIGINT or SIGTERM:

  POST /localize   snapshots of one or a few scenes, JSON or .npz, to positions with error bars
  /stream          WebSocket: the same, one message each
  /feed            WebSocket: the answers to all clients
  GET /healthz     status 200 when the service is ready, else 503
  GET /            page with a live map

The answers are those of `ris-jax localize` for the same scenes, without likely causes of warnings.
The service listens on this machine only unless --host is another address. It has no passwords and
no encryption: in an open network, put it behind a proxy that has both. Requests are neither stored
nor unpickled. A flood of requests gets the status 429. Other clients, which differ by address or
the header X-Client, are still answered.
"""

import asyncio
import importlib.util
import math
import sys
from typing import TYPE_CHECKING

from absl import flags

from ris_jax import _environment, errors
from ris_jax import config as config_lib
from ris_jax.cli import common_flags, estimator_flags

if TYPE_CHECKING:
    from ris_jax.data.recordings.reader import Recordings

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "channel",
    None,
    "recordings file with the array, the codes, the channel, the wavelength and the noise level",
    flag_values=FLAGS,
)
estimator_flags.define(FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=FLAGS)
flags.DEFINE_integer(
    "port", 0, "port to listen on; 0: a free one, which is printed", lower_bound=0,
    upper_bound=65535, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float("max_body_mb", 1.0, "largest request [MB]", flag_values=FLAGS)
flags.DEFINE_integer(
    "max_queue", 32, "waiting requests of all clients", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("max_scenes", 8, "scenes of a request", lower_bound=1, flag_values=FLAGS)

COMPILES = "about 20 s, once per array"
_LARGEST_MB = 1024.0
_SMALL_ARRAY = 400  # elements; the operations of larger ones are worth several threads
_SAME_LEVEL_DB = 1.0  # noise levels of one receiver, from the SNR of several scenes


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.channel:
        raise config_lib.ConfigError("--channel: need a file, none given")
    if not 0.0 < FLAGS.max_body_mb <= _LARGEST_MB:
        raise config_lib.ConfigError(
            f"--max_body_mb: need 0 < value <= {_LARGEST_MB:g}; got {FLAGS.max_body_mb}"
        )
    if importlib.util.find_spec("aiohttp") is None:
        raise errors.RunError(
            "serve: expected the package aiohttp; found none: pip install 'ris-jax[serve]'"
        )
    estimator_flags.check(FLAGS)
    return f"serving the surface of {FLAGS.channel}"


def _require_shared(recordings: "Recordings") -> None:
    """Check that all scenes of a file share one channel and one set of codes.

    Raises:
      RunError: they do not.
    """
    for name in ("channel", "codes"):
        array = getattr(recordings, name)
        if len(array) > 1 and not (array == array[:1]).all():
            raise errors.RunError(
                f"{FLAGS.channel}: {name}: expected the same for all scenes; found different ones; "
                "give a file with the present one, such as its last scene"
            )


def _noise_level(recordings: "Recordings", source_signal: str) -> tuple[float, str]:
    """Return the noise variance of the receiver, NaN if unknown, and a line about it."""
    import numpy as np

    from ris_jax.data.recordings import reader

    if recordings.snr_db is None:
        return math.nan, "noise level: unknown, because the file has no snr_db"
    # A recorded static path is no noise; independent signals have none.
    several = recordings.codes.shape[1] > 1 and source_signal == "constant"
    path = several and FLAGS.static_path != "off"
    levels_db = 10.0 * np.log10(reader.measurement_of(recordings, static_path=path).noise_variance)
    if (spread := float(np.ptp(levels_db))) > _SAME_LEVEL_DB:
        return math.nan, (
            f"noise level: unknown, because snr_db gives levels that differ by {spread:.1f} dB; "
            "send snr_db with each request"
        )
    level = float(10.0 ** (np.median(levels_db) / 10.0))
    return level, f"noise level: {level:.3g} per sample"


def run() -> int:
    """Run the command; return the exit status."""
    from ris_jax.serving import prepared, service

    estimator_flags.check_options(FLAGS)
    network = common_flags.network(FLAGS)
    recordings = estimator_flags.recordings(FLAGS, FLAGS.channel)
    for note in recordings.notes:
        print(f"note: {note}", file=sys.stderr)
    _require_shared(recordings)
    options = estimator_flags.options(FLAGS, recordings)
    _, length, antennas = recordings.snapshots.shape
    searched = network is None and FLAGS.estimator in ("auto", "maximum_likelihood")
    if searched and len(recordings.positions) <= _SMALL_ARRAY:
        _environment.use_one_thread()
    localizer = prepared.PreparedLocalizer(
        recordings.channel[0],
        recordings.codes[0],
        recordings.positions,
        shape=(length, antennas),
        network=network,
        **options,
    )
    noise, line = _noise_level(recordings, options["source_signal"])
    print(f"{length} codes, {antennas} antennas, {len(recordings.positions)} elements; {line}")
    limits = service.ServiceLimits(int(FLAGS.max_body_mb * 1e6), FLAGS.max_queue, FLAGS.max_scenes)
    live = service.LiveService(localizer, noise_variance=noise, limits=limits)
    asyncio.run(service.run(live, FLAGS.host, FLAGS.port, lambda line: print(line, flush=True)))
    return 0
