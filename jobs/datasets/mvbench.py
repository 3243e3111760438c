"""MVBench: 20 tasks of 200 questions each on short clips (arXiv 2311.17005).

Annotations: the folder json/ of the data set `OpenGVLab/MVBench`, a file per task with video, question, candidates and
answer (a candidate). Rules: tasks/mvbench/utils.py (which folder a task's videos are in, the prompt) and
_default_template_yaml. As there, the folders hold clips that are cut already, and `start` and `end` are not used; of
episodic_reasoning they hold folders of pictures in the first release, and videos in the one that lmms-eval uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jobs.datasets.annotations import files_of, read_rows, text, texts
from jobs.datasets.converter import Benchmark, Source, Tables, lettered, literal, unique_videos
from pipeline.errors import InputTableError

_FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("object_interaction", "action_sequence", "action_prediction"), "star/Charades_segment"),
        **dict.fromkeys(
            ("moving_count", "moving_direction", "moving_attribute", "counterfactual_inference", "object_existence"),
            "clevrer/video_validation",
        ),
        **dict.fromkeys(("character_order", "object_shuffle", "state_change", "action_count"), "perception/videos"),
        "action_localization": "sta/sta_video_segment",
        "fine_grained_pose": "nturgbd_convert",
        "egocentric_navigation": "vlnqa",
        "episodic_reasoning": "tvqa/video_fps3_hq_segment",
        "fine_grained_action": "Moments_in_Time_Raw/videos",
        "scene_transition": "scene_qa/video",
        "action_antonym": "ssv2_video_mp4",
        "unexpected_action": "FunQA_test/test",
    }
)


def convert(source: Source) -> Tables:
    """Rows of both tables; the category is the task."""
    videos, questions = [], []
    for file in files_of(source.annotations):
        task = file.stem
        if task not in _FOLDERS:
            raise InputTableError(
                f"is named after no task of MVBench; these are {', '.join(sorted(_FOLDERS))}", str(file)
            )
        for number, row in enumerate(read_rows(file), 1):
            name = f"{_FOLDERS[task]}/{text(row, 'video', file, number)}"
            options = texts(row, "candidates", file, number)
            right = text(row, "answer", file, number)
            if right not in options:
                raise InputTableError(f"the answer {right!r} is none of {options}", f"{file}, row {number}")
            asked = f"Question:{text(row, 'question', file, number)}"
            lines = [asked, "Option:", *lettered(options, "({}) {}"), "Only give the best option."]
            videos.append({"video_id": name, "video_path": str(source.videos / name)})
            questions.append(
                {
                    "question_id": f"{task}-{number}",
                    "question": literal("\n".join(lines)),
                    "answer": chr(ord("A") + options.index(right)),
                    "video_id": name,
                    "category": task,
                }
            )
    return Tables(unique_videos(videos), tuple(questions))


MVBENCH = Benchmark(
    name="mvbench",
    title="MVBench",
    convert=convert,
    letters="any-case",
    categories=("category",),
    max_new_tokens=16,
    counted="The mean over the 20 tasks, which have as many questions each.",
)
