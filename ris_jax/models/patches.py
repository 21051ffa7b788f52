"""Which elements each token of the network reads and writes.

A configuration, not code, decides: windows over a grid, or neighbourhoods of any other array.
"""

import numpy as np

from ris_jax import config as config_lib


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Window starts that cover 0 ... length - 1, the last one flush with the end."""
    starts = list(range(0, length - size + 1, stride))
    if starts[-1] != length - size:
        starts.append(length - size)
    return starts


def _grid_windows(rows: int, columns: int, size: int, stride: int) -> np.ndarray:
    height, width = min(size, rows), min(size, columns)
    offsets = np.add.outer(columns * np.arange(height), np.arange(width)).ravel()
    return np.array(
        [
            columns * y + x + offsets
            for y in _starts(rows, height, stride)
            for x in _starts(columns, width, stride)
        ]
    )


def _neighbourhoods(positions: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Nearest elements of centres spread by farthest-point sampling, until all are covered."""
    count = min(size * size, len(positions))
    wanted = -(-len(positions) // (stride * stride))
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    centres = [int(np.argmin(distance.sum(axis=1)))]
    windows = [np.argsort(distance[centres[0]], kind="stable")[:count]]
    while len(centres) < wanted or len(np.unique(windows)) < len(positions):
        centres.append(int(np.argmax(distance[:, centres].min(axis=1))))
        windows.append(np.argsort(distance[centres[-1]], kind="stable")[:count])
    return np.array(windows)


def patch_indices(system: config_lib.SystemConfig, model: config_lib.ModelConfig) -> np.ndarray:
    """Elements of every patch, [T, P] int; each element is in at least one patch."""
    if system.element_positions is None:
        return _grid_windows(system.rows, system.columns, model.patch_size, model.patch_stride)
    positions = np.asarray(system.element_positions)
    return _neighbourhoods(positions, model.patch_size, model.patch_stride)
