"""`flashvid init`, `validate` and `schema`: what is written is right, and what is wrong is named with its line."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner, Result

from jobs.cli.job_file_commands import check, job_schema, write_job
from jobs.cli.main import app
from jobs.job_file import load_job
from pipeline.errors import InputTableError

README = Path(__file__).parents[2] / "README.md"


def flashvid(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def folder_with_videos(folder: Path, name: str = "videos") -> Path:
    """A folder with two files that are called videos."""
    videos = folder / name
    videos.mkdir(parents=True)
    (videos / "a.mp4").write_bytes(b"")
    (videos / "b.mkv").write_bytes(b"")
    return videos


@pytest.mark.parametrize("name", ["videos", 'week 3: "the" # {first} $half \\ \'ü'])
def test_init_writes_a_job_that_is_read_as_it_was_meant(tmp_path: Path, name: str) -> None:
    """Whatever stands in paths and questions; paths below the job file's folder are relative."""
    videos = folder_with_videos(tmp_path, name)
    question = 'Is it "red": yes or no? # \\ {video_id}'
    to = tmp_path / "job.yaml"
    assert write_job(to, str(videos), [question, "What?"], model="tiny-random", output="s3://bucket/out") == 2
    job = load_job(to)
    assert (job.videos, job.output, job.model.name) == (str(videos), "s3://bucket/out", "tiny-random")
    assert [row.question for row in job.questions if not isinstance(row, str)] == [question, "What?"]
    assert str(tmp_path) not in to.read_text(encoding="utf-8")
    assert check(to, {}) == {"valid": True, "faults": [], "videos": 2, "answers": 4, "notes": []}


def test_init_names_the_columns_of_a_table(tmp_path: Path) -> None:
    """Which a question may use; an existing job file is left alone, and no videos are refused."""
    table = tmp_path / "videos.csv"
    table.write_text("video_id,video_path,title\n1,a.mp4,x\n")
    to = tmp_path / "jobs" / "job.yaml"
    to.parent.mkdir()
    assert flashvid("init", table, "--to", to).exit_code == 0
    assert "# 1 videos; a question may use {title}" in to.read_text()
    assert load_job(to).videos == str(table)
    again = flashvid("init", table, "--to", to)
    assert "exists already" in str(again.exception)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputTableError, match="has no videos"):
        write_job(tmp_path / "other.yaml", str(tmp_path / "empty"), ["What?"], model="tiny", output="o")
    assert not (tmp_path / "other.yaml").exists()


def test_validate_names_lines_and_nearest_keys(tmp_path: Path) -> None:
    """Every fault of the file, as text and as JSON; exit code 2."""
    folder_with_videos(tmp_path)
    job = tmp_path / "job.yaml"
    job.write_text(
        "videos: videos\nquestions: [What]\noutput: o\nmodel: {name: tiny}\nsampling:\n  num_frame: 8\n"
        "compression:\n  retention_ratio: 2\n"
    )
    done = flashvid("validate", job, "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["valid"] is False
    assert [(fault["line"], fault["key"]) for fault in found["faults"]] == [
        (6, "sampling.num_frame"),
        (8, "compression.retention_ratio"),
    ]
    assert "did you mean 'num_frames'?" in found["faults"][0]["message"]
    assert flashvid("validate", job).exit_code == 2
    fixed = ("--set", "compression.retention_ratio=0.5", "--set", "sampling={num_frames: 8}")
    assert flashvid("validate", job, *fixed).exit_code == 0


@pytest.mark.parametrize(
    ("job", "where", "message"),
    [
        ("videos: nowhere\nquestions: [What]\noutput: o\nmodel: {name: t}\n", "nowhere", "no such file or folder"),
        ("videos: videos\nquestions: ['{colour}?']\noutput: o\nmodel: {name: t}\n", "questions, row 1", "{colour}"),
        ("videos: [\n", "", "not YAML"),
    ],
    ids=["no videos", "unknown column", "not YAML"],
)
def test_validate_reads_the_tables_too(tmp_path: Path, job: str, where: str, message: str) -> None:
    """A table that is missing or does not fit the questions is a fault, with its place."""
    folder_with_videos(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(job)
    (fault,) = check(path, {})["faults"]
    assert fault["where"].endswith(where)
    assert message in fault["message"]
    assert fault["line"] is None


def test_validate_names_the_file_as_it_is_called(tmp_path: Path) -> None:
    """What rich would read as markup and as an emoji is a name here."""
    (tmp_path / "a.mp4").touch()
    file = tmp_path / "[bold]job:smile:.yaml"
    file.write_text("videos: .\nquestions: [What]\noutput: output\nmodel: {name: tiny}\n")
    right = flashvid("validate", file)
    assert right.stdout.endswith(f"\n{file}: valid, 1 videos, 1 answers\n")
    assert right.stdout.startswith(f"{tmp_path}: left out, since their names are not those of videos: 1 .yaml\n")
    wrong = flashvid("validate", file, "--set", "modle=1")
    assert f"{file}: --set modle: unknown key; did you mean 'model'?" in wrong.output


def test_the_schema_accepts_what_is_accepted_and_refuses_misspelt_keys() -> None:
    """The examples, the README's job and the short forms; not an unknown key or an impossible value."""
    validator = jsonschema.Draft202012Validator(job_schema())
    validator.check_schema(job_schema())
    shown = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    examples = [file.read_text(encoding="utf-8") for file in Path(str(files("jobs") / "examples")).glob("*.yaml")]
    assert len(shown) == 1
    for text in (*shown, *examples):
        validator.validate(yaml.safe_load(text.replace("$questions", "  - What?")))
    minimal: dict[str, Any] = {"videos": "v", "questions": ["What?"], "output": "o", "model": {"name": "tiny"}}
    validator.validate({**minimal, "generation": {"json_schema": {"type": "object"}}})
    for wrong in ({"outptu": "o"}, {"compression": {"retention_ratio": 2}}, {"questions": [{"question_id": "a"}]}):
        assert not validator.is_valid({**minimal, **wrong})


@pytest.mark.parametrize(
    "command", sorted(command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands)
)
def test_help_has_an_example(command: str) -> None:
    """Of every command."""
    assert f"Example: flashvid {command}" in " ".join(flashvid(command, "--help").stdout.split())
