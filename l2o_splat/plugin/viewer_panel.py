"""The panel about the run in nerfstudio's viewer: numbers as a table, and a curve of PSNR."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from l2o_splat.plugin.run_estimate import spoken
from l2o_splat.progress import RunProgress

MOST_POINTS = 240
"""Points of a curve; where there are more, every second one is dropped."""
WIDTH, HEIGHT, LEFT, BOTTOM = 240, 110, 30, 16
"""Size of the picture, and of the margins that hold the labels of its axes, in its own units."""

STATES = {"reading": "reading the capture", "starting": "making the first scene", "saving": "saving"}
"""Phases of a run whose names say too little."""


@dataclass
class RunHistory:
    """PSNR by the share of the budget, as far as it was reported."""

    trained: list[tuple[float, float]] = field(default_factory=list)
    """Share and PSNR of steps, dB."""
    held_out: list[tuple[float, float]] = field(default_factory=list)
    """Share and PSNR of evaluations, dB."""

    def add(self, progress: RunProgress) -> None:
        """Remember what a report says, if it is new."""
        if progress.psnr is not None and (not self.trained or progress.share > self.trained[-1][0]):
            self.trained.append((progress.share, progress.psnr))
            if len(self.trained) > MOST_POINTS:
                del self.trained[1:-1:2]
        known = self.held_out[-1][1] if self.held_out else None
        if progress.psnr_held_out not in (None, known):
            self.held_out.append((progress.share, progress.psnr_held_out))


def panel(progress: RunProgress, history: RunHistory) -> str:
    """Markdown for viser: a table, and the curve as a picture inside the text."""
    steps = f"{progress.step}" if progress.last_step is None else f"{progress.step} of {progress.last_step}"
    state = STATES.get(progress.phase, progress.phase)
    rows = [
        ("budget", f"{progress.share:.0%}, {steps} steps"),
        ("time left", _number(progress.seconds_left, spoken) if not progress.is_over else "none"),
        ("PSNR", _number(progress.psnr, "{:.2f} dB".format)),
        ("held out", _number(progress.psnr_held_out, "{:.2f} dB".format)),
        ("loss", _number(progress.loss, "{:.4f}".format)),
        ("Gaussians", _number(progress.num_gaussians, "{:,}".format)),
        ("rule", progress.rule or "-"),
        ("step time", _number(progress.step_seconds, "{:.3f} s".format)),
    ]
    table = "\n".join([f"| state | {state} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    if len(history.trained) < 2:
        return table
    picture = base64.b64encode(curve(history).encode()).decode()
    return f"{table}\n\n![PSNR by share of the budget](data:image/svg+xml;base64,{picture})"


def curve(history: RunHistory) -> str:
    """PSNR by share of the budget as an SVG: a line for the steps, dots for held-out photographs."""
    values = [psnr for _, psnr in (*history.trained, *history.held_out)]
    low, high = min(values), max(values)
    span = max(high - low, 1e-6)

    def place(share: float, psnr: float) -> str:
        x = LEFT + share * (WIDTH - LEFT - 4)
        y = 6 + (high - psnr) / span * (HEIGHT - BOTTOM - 12)
        return f"{x:.1f},{y:.1f}"

    line = " ".join(place(*point) for point in history.trained)
    dots = ""
    for point in history.held_out:
        x, y = place(*point).split(",")
        dots += f'<circle cx="{x}" cy="{y}" r="3" fill="#ffd369"/>'
    label = 'font-family="sans-serif" font-size="9" fill="#9aa0a6"'
    bottom = HEIGHT - BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<path d="M{LEFT},2 V{bottom} H{WIDTH - 4}" fill="none" stroke="#5c6066"/>'
        f'<polyline points="{line}" fill="none" stroke="#74c0fc" stroke-width="1.5"/>{dots}'
        f'<text x="2" y="12" {label}>{high:.1f}</text><text x="2" y="{bottom}" {label}>{low:.1f}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}" {label}>PSNR in dB: line steps, dots held out</text></svg>'
    )


def _number(value: float | None, shown) -> str:
    return "-" if value is None else shown(value)
