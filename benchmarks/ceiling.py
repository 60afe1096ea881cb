"""Ten times the training clips of `data=large`: how far infrared alone gets with enough films.

    make large-data && python -m benchmarks.ceiling
    python -m jax_irkd.main --config=configs/demo.py:data=large,method=baseline \
        --config.dataset.data_dir=runs/ceiling_data/tfds --workdir=runs/ceiling

The test clips are those of `large`. The 5,400 clips more are of other people, 20 for each of five
seeds of the generator, in NTU RGB+D's numbers under set-ups that `large` does not use.
"""

import shutil
from pathlib import Path

from jax_irkd.build import main as build
from jax_irkd.data.synthetic.filming import generate
from jax_irkd.tfds_builders.ntu_rgbd_ir.names import TRAIN_SUBJECTS

REPETITIONS = {10: 2, 11: 2, 12: 2, 13: 2, 14: 1}  # by seed: 4 x 1,200 clips and 600
FIRST_SETUP = 6  # `large` has 1 to 5


def gather(large: Path, out: Path) -> None:
    """The raw files of `large`, copied, and those of more people, filmed and renamed, in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(large, out)  # with the mark that they are generated
    for setup, (seed, repetitions) in enumerate(REPETITIONS.items(), FIRST_SETUP):
        films, kept = out.parent / f"films{seed}", out / f"s{setup:03d}"
        generate(films, subjects=TRAIN_SUBJECTS, repetitions=repetitions, seed=seed)
        kept.mkdir()
        for film in films.rglob("*.avi"):
            film.rename(kept / f"S{setup:03d}{film.name[4:]}")
        shutil.rmtree(films)


if __name__ == "__main__":
    folder = Path("runs/ceiling_data")
    gather(Path("runs/large_data/raw"), folder / "raw")
    build(["ntu_rgbd_ir/ten", f"--manual_dir={folder / 'raw'}", f"--data_dir={folder / 'tfds'}"])
