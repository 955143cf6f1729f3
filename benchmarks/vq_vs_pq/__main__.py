"""VQ by codebook size, and VQ against PQ at equal true bits: where does which win.

    python -m benchmarks.vq_vs_pq [--parts sizes pairs] [--subjects NAME] [--wide FOLDER]
    python -m benchmarks.vq_vs_pq --calibrate 2500 [--wide FOLDER] [--share 0/2]
    python -m benchmarks.vq_vs_pq --export dpqlab/assets/fashion-dit-runs/vq-vs-pq.json

Before calibration, by the relative squared error of the weights. ``sizes``: a block of the bundled
model with VQ of 16 to 65,536 codewords, a codebook each layer, each kind of layer, or the model.
``pairs``: single layers of it, of a wider model and of a random DiT-XL/2 (iid Gaussian); each VQ
point beside the PQ codecs of at most 1024 codewords whose true bits are nearest, within 2 %. Bits
are exact; 16,384 codewords and more are made by k-means in two levels (5 % more error than plain
k-means at 4096), and searched for on a seeded draw of rows. About thirteen minutes on one CPU core.

With ``--calibrate`` the students of a few such pairs are calibrated for so many steps, with codes
fixed and with codes moving, and judged as ``benchmarks.fashion`` does: a minute each on one H100.
Those that are on record with as many steps are left out, unless ``--again`` is given.

``--export`` measures nothing: it writes what the notebooks draw of the records.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fashion import TEACHER
from benchmarks.record import RESULTS, append, latest, read
from benchmarks.vq_vs_pq import SUITE
from benchmarks.vq_vs_pq.codecs import PAIRED
from benchmarks.vq_vs_pq.points import SIZES, Point, pair_points, record_of, size_points
from benchmarks.vq_vs_pq.students import calibrated, students
from benchmarks.vq_vs_pq.subjects import KINDS, Subject, model_subject, random_subject
from dpqlab.diffusion import load_pipeline
from dpqlab.studies.codec_contest import contest_of


def measure_points(args: argparse.Namespace, subjects: Sequence[Subject]) -> None:
    """Measure points on the CPU; append their records."""
    written: set[str] = set()

    def write(point: Point, rivals: Sequence[Point] = ()) -> None:
        if point.row in written:
            return
        written.add(point.row)
        if not args.dry_run:
            append(record_of(point, rivals), args.results)
        bits, ratio = point.bits.true_bits, point.rows_per_codeword
        print(
            f"{point.row:56s} bits {bits:6.3f}  rows/codeword {ratio:9.1f}  "
            f"error {point.error:.4f}  {point.seconds:.1f} s",
            flush=True,
        )

    if "sizes" in args.parts:
        for point in size_points(subjects[0], SIZES[:2] if args.quick else SIZES):
            write(point)
    if "pairs" in args.parts:
        paired = {d: sizes[:1] for d, sizes in PAIRED.items()} if args.quick else PAIRED
        for subject in subjects:
            for kind in KINDS[:1] if args.quick else KINDS:
                for point, rivals in pair_points(subject, kind, paired):
                    write(point, rivals)
                    for rival in rivals:
                        write(rival)


def main() -> None:
    """Measure, and append the records."""
    title = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks.vq_vs_pq", description=title)
    parser.add_argument(
        "--parts", nargs="+", choices=("sizes", "pairs"), default=("sizes", "pairs")
    )
    parser.add_argument("--wide", type=Path, help="folder of a wider DiT, as diffusers lays it out")
    parser.add_argument("--subjects", nargs="+", metavar="NAME", help="such as wide-dit (all)")
    parser.add_argument("--quick", action="store_true", help="a few small points of each part")
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--calibrate", type=int, metavar="STEPS", help="measure students instead")
    parser.add_argument("--images", type=int, default=10_000, help="to judge a student by")
    parser.add_argument("--data", type=Path, help="the four idx.gz files")
    parser.add_argument("--share", default="0/1", help="I/N: every Nth student only, from the Ith")
    parser.add_argument("--again", action="store_true", help="students on record too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    parser.add_argument("--export", type=Path, metavar="FILE", help="of the records, for figures")
    args = parser.parse_args()
    if args.export is not None:
        contest_of(read(SUITE, args.results)).save(args.export)
        return
    folders: list[str | Path] = [TEACHER] if args.wide is None else [TEACHER, args.wide]
    if args.wide is None:
        print("no --wide FOLDER: the wider model is skipped")
    subjects = {
        folder: model_subject(Path(folder).name, load_pipeline(folder).transformer)
        for folder in folders
    }
    if args.subjects is not None:
        subjects = {folder: one for folder, one in subjects.items() if one.name in args.subjects}
    if args.calibrate:
        done = [] if args.again else latest(SUITE).values()
        recorded = {
            record["row"]
            for record in done
            if record["details"].get("calibration", {}).get("steps") == args.calibrate
        }
        wanted = students(subjects, args.calibrate, share=args.share, recorded=recorded)
        records = calibrated(subjects, wanted, images=args.images, data=args.data)
        for record in records:
            append(record, args.results)
    else:
        random = random_subject()
        drawn = [random] if args.subjects is None or random.name in args.subjects else []
        measure_points(args, [*subjects.values(), *drawn])


if __name__ == "__main__":
    main()
