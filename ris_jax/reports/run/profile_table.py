"""Time profile of a run as a plain table."""

import pathlib
import shlex

from ris_jax.reports import tables
from ris_jax.reports.run import html_page
from ris_jax.training import profiling

_HEADER = ("part of an epoch", "calls", "ms a call", "s", "fraction")


def _rows(found: profiling.Measured) -> list[tuple[str, int, str, str, str]]:
    total = sum(part.seconds for part in found.parts)
    ordered = sorted(found.parts, key=lambda part: -part.seconds)
    return [
        (
            part.name,
            part.calls,
            _short(1e3 * part.seconds_a_call),
            _short(part.seconds),
            f"{part.seconds / total:.1%}",
        )
        for part in ordered
    ]


def _short(value: float) -> str:
    """Format with three digits or more, without a power of ten for large values."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _summary(found: profiling.Measured) -> list[str]:
    """Return lines with the bottleneck and the compiled step's demands on the device."""
    total = sum(part.seconds for part in found.parts)
    longest = max(found.parts, key=lambda part: part.seconds)
    lines = [
        f"bottleneck: {longest.name}, {longest.seconds / total:.0%} of an epoch of {total:.3g} s, "
        f"host and device synchronised; compilation {found.compilation_seconds:.1f} s"
    ]
    step = next(part for part in found.parts if part.name.startswith("forward"))
    if found.step_flops and found.step_bytes:
        lines.append(
            f"a step is {found.step_flops / 1e9:.3g} Gflop and {found.step_bytes / 1e6:.3g} MB "
            f"read and written ({found.step_flops / found.step_bytes:.2g} flop a byte) by XLA's "
            f"count: {found.step_flops / step.seconds_a_call / 1e9:.3g} Gflop/s and "
            f"{found.step_bytes / step.seconds_a_call / 1e9:.3g} GB/s on {found.device}"
        )
    if found.argument_bytes is not None and found.temporary_bytes is not None:
        lines.append(
            f"its memory: {found.argument_bytes / 1e6:.3g} MB of state and scenes, "
            f"{found.temporary_bytes / 1e6:.3g} MB temporary"
        )
    if found.operations:
        named = ", ".join(f"{name} {share:.0%}" for name, share in found.operations)
        lines.append(f"longest operations of the trace: {named}")
    return lines


def as_text(found: profiling.Measured) -> str:
    """Return the table and its summary."""
    return "\n".join([tables.as_text(_HEADER, _rows(found)), *_summary(found)])


def as_html(workdir: pathlib.Path) -> str:
    """Return a run's last profile as HTML; empty if there is none."""
    found = profiling.read(workdir)
    return (
        ""
        if found is None
        else html_page.table(_HEADER, _rows(found)) + html_page.listed(_summary(found))
    )


def how_to_look(folder: pathlib.Path) -> str:
    """Return the path of the trace and the commands that open it."""
    where = shlex.quote(str(folder))
    return (
        f"trace: {where}; `pip install xprof` and `xprof --logdir={where} --port=8791` show it, or "
        "open its perfetto_trace.json.gz at https://ui.perfetto.dev"
    )
