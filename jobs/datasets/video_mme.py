"""VideoMME: 900 videos, 2,700 questions of four options (arXiv 2405.21075).

Annotations: the Parquet file of the data set `lmms-lab/Video-MME`, a row per question: videoID, duration, domain,
sub_category, question_id, task_type, question, options ("A. ..."), answer (a letter). Rules: tasks/videomme/utils.py
and videomme.yaml, its default prompt; with subtitles videomme_w_subtitle.yaml.
"""

import re
from pathlib import Path

from jobs.datasets.annotations import read_annotations
from jobs.datasets.converter import Row, Source, Tables, question_row
from pipeline.errors import InputTableError, UnreadableVideoError
from pipeline.video.probing import read_probe

# lmms-eval's prompt says "and the subtitles" even without subtitles.
_TASK = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
_CHOOSE = "\nAnswer with the option's letter from the given choices directly."
_WITH_SUBTITLES = "This video's subtitles are listed below: \n{subtitles}\n"
_NO_SUBTITLES = "No subtitles available"
_SUFFIXES = (".mp4", ".MP4", ".mkv")
_TIMES = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)")
_SPOKEN = re.compile(r'<font color="white" size=".72c">(.*?)</font>')
# How lmms-eval computes its one number.
COUNTED = "The share of right answers over all questions."


def convert(source: Source) -> Tables:
    """Return rows of both tables; subtitles are a column of the videos that every question uses."""
    rows = []
    for row in read_annotations(source.annotations):
        name, options, right = row.text("videoID"), row.texts("options"), row.get("answer")
        video: Row = {"video_id": name, "video_path": str(_video(source.videos, name))}
        video.update({column: row.get(column) for column in ("duration", "domain", "sub_category")})
        asked = [_TASK, row.text("question"), *options]
        answer = None if right is None else row.letter(right, len(options))
        end = _CHOOSE if source.subtitles is None else "The best answer is:"
        question = question_row(
            row.text("question_id"), name, "\n".join([*asked, end]), answer, category=row.get("task_type")
        )
        if source.subtitles is not None:
            question["question"] = _WITH_SUBTITLES + question["question"]
        rows.append((video, question))
    tables = Tables.of(rows)
    if source.subtitles is not None:
        for video in tables.videos:
            video["subtitles"] = _subtitles(source.subtitles / f"{video['video_id']}.srt", video, source.num_frames)
    return tables


def _video(folder: Path, name: str) -> Path:
    """Return the existing file with one of three suffixes."""
    return next((file for suffix in _SUFFIXES if (file := folder / f"{name}{suffix}").exists()), folder / f"{name}.mp4")


def _subtitles(file: Path, video: Row, num_frames: int) -> str:
    """Return the lines on screen at one of the sampled frames, one below the other."""
    if not file.exists():
        return _NO_SUBTITLES
    try:
        header = read_probe(video["video_path"]).header
    except (UnreadableVideoError, OSError) as error:
        raise InputTableError(f"choosing its subtitles needs the video: {error}", video["video_path"]) from None
    fps, total = header.fps or 0.0, header.num_frames
    frames = [int(index * (total - 1) / max(num_frames - 1, 1)) for index in range(num_frames)]
    shown = []
    for start, end, line in spoken_lines(file.read_text(encoding="utf-8")):
        first, last = int(start * fps), int(end * fps)
        if any(first <= frame < last for frame in frames) and (spoken := _SPOKEN.search(line)):
            shown.append(spoken[1])
    return "\n".join(shown)


def spoken_lines(srt: str) -> list[tuple[float, float, str]]:
    """Return start and end in seconds, and text, of each SRT entry; of two at the same time the later one."""
    lines: dict[tuple[float, float], str] = {}
    for entry in srt.split("\n\n"):
        parts = entry.split("\n")
        if len(parts) >= 3 and (times := _TIMES.findall(parts[1])):
            start, end = (int(hours) * 3600 + int(minutes) * 60 + float(f"{s}.{ms}") for hours, minutes, s, ms in times)
            lines[start, end] = " ".join(parts[2:])
    return [(start, end, text) for (start, end), text in lines.items()]
