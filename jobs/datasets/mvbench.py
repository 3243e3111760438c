"""MVBench: 20 tasks of 200 questions each on short clips (arXiv 2311.17005).

Annotations: the folder json/ of the data set `OpenGVLab/MVBench`, a file per task with video, question, candidates and
answer (a candidate). Rules: tasks/mvbench/utils.py (which folder a task's videos are in, the prompt) and
_default_template_yaml. As in lmms-eval, the folders hold clips that are cut already, and `start` and `end` are not
used. For episodic_reasoning the first release has folders of pictures, and the one that lmms-eval uses has videos.
"""

from jobs.datasets.annotations import files_of, read_annotations
from jobs.datasets.converter import Source, Tables, lettered, question_row
from pipeline.errors import InputTableError

_TASKS = {
    "star/Charades_segment": "object_interaction action_sequence action_prediction",
    "clevrer/video_validation": "moving_count moving_direction moving_attribute counterfactual_inference "
    "object_existence",
    "perception/videos": "character_order object_shuffle state_change action_count",
    "sta/sta_video_segment": "action_localization",
    "nturgbd_convert": "fine_grained_pose",
    "vlnqa": "egocentric_navigation",
    "tvqa/video_fps3_hq_segment": "episodic_reasoning",
    "Moments_in_Time_Raw/videos": "fine_grained_action",
    "scene_qa/video": "scene_transition",
    "ssv2_video_mp4": "action_antonym",
    "FunQA_test/test": "unexpected_action",
}
_FOLDERS = {task: folder for folder, tasks in _TASKS.items() for task in tasks.split()}
# How lmms-eval computes its one number.
COUNTED = "The mean over the 20 tasks, which have as many questions each."


def convert(source: Source) -> Tables:
    """Return rows of both tables; the category is the task."""
    rows = []
    for file in files_of(source.annotations):
        task = file.stem
        if task not in _FOLDERS:
            known = ", ".join(sorted(_FOLDERS))
            raise InputTableError(f"is not named after a task of MVBench; the tasks are {known}", str(file))
        for row in read_annotations(file):
            name = f"{_FOLDERS[task]}/{row.text('video')}"
            options, asked = row.texts("candidates"), f"Question:{row.text('question')}"
            lines = [asked, "Option:", *lettered(options), "Only give the best option."]
            right = row.letter_of(row.text("answer"), options)
            question = question_row(f"{task}-{row.number}", name, "\n".join(lines), right, task)
            rows.append(({"video_id": name, "video_path": str(source.videos / name)}, question))
    return Tables.of(rows)
