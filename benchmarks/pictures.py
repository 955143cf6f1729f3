"""The README's pictures of records: ``python -m benchmarks.pictures`` draws them into ``docs/``.

Needs plotly's kaleido and a Chromium, as ``make gallery`` does.
"""

from __future__ import annotations

from benchmarks import record
from dpqlab.viz.roofline import roofline
from tools.gallery import write_picture
from tools.gallery_pictures import plot_picture

ROOFLINE = record.ROOT / "docs" / "roofline.png"


def main() -> int:
    """Draw and write."""
    # which fell back to a slow path in our set-up (see ``LOG.md``): that shows nothing
    records = [r for r in record.read("kernels") if "torchao int8" not in r["row"]]
    picture = plot_picture(roofline(records))
    size = write_picture(ROOFLINE, picture)
    print(f"{ROOFLINE.relative_to(record.ROOT)}: {size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
