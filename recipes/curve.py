"""Draw the loss curve of a training log as an SVG file.

python -m recipes.curve training.jsonl curve.svg
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 640, 320, 64, 32, 40, 28
TICKS = (0.03, 0.04, 0.06, 0.1, 0.2, 0.4)


def curve_svg(steps: Sequence[int], losses: Sequence[float], *, title: str) -> str:
    """Return an SVG picture of losses over steps, with a logarithmic loss axis."""
    low, high = math.log(min(losses)), math.log(max(losses))
    pad = 0.06 * (high - low) or 1.0
    low, high = low - pad, high + pad
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP

    def x(step: float) -> float:
        return LEFT + across * step / steps[-1]

    def y(log_loss: float) -> float:
        return TOP + down * (high - log_loss) / (high - low)

    line = " ".join(f"{x(s):.1f},{y(math.log(v)):.1f}" for s, v in zip(steps, losses, strict=True))
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(math.log(t)):.1f}" '
        f'y2="{y(math.log(t)):.1f}" stroke="#bbb" stroke-width="0.7"/>'
        f'<text x="{LEFT - 8}" y="{y(math.log(t)) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in TICKS
        if low < math.log(t) < high
    )
    marks = "".join(
        f'<text x="{x(steps[-1] * i / 4):.1f}" y="{HEIGHT - 20}" text-anchor="middle">'
        f"{round(steps[-1] * i / 4):,}</text>"
        for i in range(5)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#444">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="17" font-size="14">{title}</text>{grid}{marks}'
        f'<text x="{LEFT + across / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'
        f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/></svg>\n'
    )


def main() -> None:
    """Read the log, write the picture."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text("utf-8").splitlines()]
    title = "Mean squared error of the predicted noise (log scale)"
    picture = curve_svg([r["step"] for r in rows], [r["loss"] for r in rows], title=title)
    Path(sys.argv[2]).write_text(picture, "utf-8")


if __name__ == "__main__":
    main()
