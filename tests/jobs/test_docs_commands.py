"""Every command that the documentation shows is run here, or is listed here with where it is run, or why it is not."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.testing import CliRunner

from jobs.cli.main import app
from tests.support.pages import PAGES, README, ROOT, TUTORIAL, blocks, spans
from tests.support.runs import copy_videos, table

BIN = Path(sys.executable).parent
PROGRAMS = ("flashvid", "make", "ray", "kubectl", "python", "pip", "export", "docker", "aws")

COMMAND = typer.main.get_command(app)

# What the README tells its reader to do with a folder of videos, in an order that makes sense.
WALK = (
    "flashvid models NAME",
    "flashvid init videos/",
    "flashvid probe VIDEO",
    "flashvid validate job.yaml",
    "flashvid plan job.yaml",
    "flashvid plan job.yaml --cpus 32 --gpus 2 --gpu-memory 24 --gpu-hour-price 0.8",
    "flashvid run job.yaml",
    "flashvid status OUTPUT",
    "flashvid report output",
    "flashvid report OUTPUT",
    "flashvid report output --to report.html",
    "flashvid evaluate output",
    "flashvid inspect output VIDEO_ID --to clip.png",
    "flashvid verify OUTPUT",
    "flashvid verify OUTPUT --repair",
    "flashvid retry OUTPUT --type UnreadableVideoError",
    "flashvid export OUTPUT TO",
    "flashvid forget OUTPUT --video-id 0001.mp4",
    "flashvid gc OUTPUT",
    "flashvid gc OUTPUT_OR_CACHE",
    "flashvid gc CACHE",
    "flashvid gc CACHE --yes",
)
PLACEHOLDERS = {
    "NAME": "tiny",
    "OUTPUT": "output",
    "OUTPUT_OR_CACHE": "output",
    "CACHE": "output",
    "TO": "answers",
    "VIDEO_ID": "0002.mp4",
    "VIDEO": "videos/0002.mp4",
}

# A test runs them with other arguments, on a cluster of its own, or as the function that they call.
ELSEWHERE = {
    "flashvid doctor job.yaml --address HOST:PORT": "test_doctor.py",
    "flashvid submit job.yaml --address http://HEAD:8265": "test_submit.py",
    "flashvid submit job.yaml --address http://127.0.0.1:8265": "test_submit.py",
    "flashvid submit job.yaml --address http://127.0.0.1:8265 --wait": "test_submit.py",
    "flashvid run --log-json": "test_run_log.py",
    "flashvid convert NAME ANNOTATIONS FOLDER --videos VIDEOS": "test_benchmarks.py",
    "flashvid evaluate FOLDER/output-llava_onevision --benchmark NAME": "test_benchmarks.py",
    "flashvid bench decode VIDEO": "test_bench_decode.py",
    "flashvid bench compress --output DIR": "test_compression_speed.py",
    "flashvid bench quality --output quality": "test_bench_quality.py",
    "flashvid bench all --output DIR": "test_bench_results.py",  # with other benchmarks
    "flashvid bench pipeline --clips 512 --turns 1": "test_bench_pipeline.py",  # what it measures, one by one
    "pip install .": "test_release.py",
    "python -m tests.oracles.reference_vectors DIR": "test_compression_vectors.py",
    "make gpu-check": "test_gpu_check.py",
    "python -m jobs.lab.roofline docs/performance.md": "test_roofline.py",
    "python -m jobs.lab.dispatch": "test_roofline.py",
    "make demo": "test_release.py",
    "make cluster-up": "test_cluster.py",
    "make cluster-down": "test_cluster.py",
    "make chaos": "test_chaos.py",
    "make fuzz": "test_seeds.py",
    "make tiny-model": "test_tiny_model_training.py",
    "python -m jobs.lab.job_reference": "test_docs.py",
    "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(jq -r .environment.RAY_AUTH_TOKEN stand-in/state.json)": (
        "test_cluster.py"
    ),
    "ray job logs --follow --address $(jq -r .dashboard stand-in/state.json) "
    "$(jq -r .job_id stand-in/state.json)": "test_cluster.py",
    "kubectl apply -k infra/kubernetes/overlays/spot": "test_kubernetes.py",  # rendered and checked, not applied
    "ray up infra/aws/cluster.yaml": "test_aws.py",  # the file is checked
}
NOT_RUN = {
    "needs the weights of a 7B model": ("flashvid run FOLDER/job-llava_onevision.yaml",),
    "names an option, not a command": ("flashvid plan --gpu-hour-price", "flashvid retry OUTPUT --type ..."),
    "runs these tests, or the checks beside them": ("make help", "make check", "make test", "make test-slow"),
    "needs a package index": ("pip install '.[cluster]'",),
    "needs a Kubernetes cluster": (
        "kubectl apply -f infra/prometheus/pod-monitor.yaml",
        "kubectl apply -f infra/prometheus/prometheus-rule.yaml",
        "kubectl get prometheus -A -o \"jsonpath={.items[*].spec['podMonitorSelector','ruleSelector']}\"",
        "kubectl -n flashvid create secret generic flashvid-ray-token "
        '--from-literal=auth_token="$(openssl rand -hex 32)"',
        "kubectl -n flashvid get rayjob flashvid --watch",
        "kubectl -n flashvid logs job/flashvid --follow",
        """kubectl -n flashvid patch rayjob flashvid --type merge -p '{"spec": {"suspend": true}}'""",
        "kubectl apply -f infra/kubernetes/base/namespace.yaml",
        "kubectl -n flashvid delete rayjob flashvid",
        "kubectl -n flashvid delete secret flashvid-ray-token",
        "kubectl -n flashvid exec $(kubectl -n flashvid get pod -l ray.io/node-type=head -o name) "
        "-c ray-head -- ray status",
        "kubectl -n flashvid port-forward service/$(kubectl -n flashvid get rayjob flashvid "
        "-o jsonpath={.status.rayClusterName})-head-svc 8265",
        "export HEAD=$(kubectl -n flashvid get pod -l ray.io/node-type=head -o jsonpath={.items[0].status.podIP})",
        "kubectl -n flashvid exec $(kubectl -n flashvid get pod "
        "-l app.kubernetes.io/component=decode -o name | head -1) -- wget -qO- -T 5 http://$HEAD:8080/metrics",
        "kubectl run probe --namespace default --rm -i --restart=Never --image=busybox:1.37 "
        "-- wget -qO- -T 5 http://$HEAD:8080/metrics",
        "kubectl apply -k infra/kubernetes/overlays/cluster",
        "kubectl -n flashvid wait raycluster flashvid --for=condition=RayClusterProvisioned --timeout=30m",
        "kubectl -n flashvid port-forward service/flashvid-head-svc 8265",
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(kubectl -n flashvid get secret flashvid-ray-token "
        "-o jsonpath={.data.auth_token} | base64 -d)",
        """kubectl -n flashvid patch raycluster flashvid --type merge -p '{"spec": {"suspend": true}}'""",
        "kubectl delete -k infra/kubernetes/overlays/cluster",
        "kubectl -n flashvid exec $(kubectl -n flashvid get pod -l app.kubernetes.io/component=gpu -o name | head -1) "
        "-- flashvid doctor",
        "kubectl delete -k infra/kubernetes/overlays/spot",
    ),
    "needs EC2": (
        'aws ec2 create-security-group --group-name flashvid --description "flashvid on Ray" --vpc-id VPC',
        "aws ec2 authorize-security-group-ingress --group-id GROUP --protocol all --source-group GROUP",
        "aws ec2 authorize-security-group-ingress --group-id GROUP --protocol tcp --port 22 --cidr 10.0.0.0/8",
        'aws ec2 describe-subnets --subnet-ids SUBNET SUBNET SUBNET --query "Subnets[].MapPublicIpOnLaunch"',
        "ray dashboard infra/aws/cluster.yaml",
        "ray exec infra/aws/cluster.yaml 'ray status'",
    ),
    "is Ray's own, and looks at a cluster or at one's home": (
        "ray get-auth-token --generate",
        "ray list actors --filter state=RESTARTING",
    ),
}


def shown() -> Iterator[str]:
    """Every command line in a block, and every one between backticks that is more than a name; not the tutorial's."""
    command = re.compile(rf"(?:\.venv/bin/)?((?:{'|'.join(PROGRAMS)}) .+)")
    for page in PAGES:
        languages = ("",) if page == TUTORIAL else ("", "console")
        lines = [line.split("  #")[0].strip() for block in blocks(page, *languages) for line in block.splitlines()]
        for line in (*lines, *(span for span in spans(page) if not _is_name(span))):
            if match := command.fullmatch(line):
                yield match[1]


def _is_name(span: str) -> bool:
    """A program and its subcommand, without anything to work on: text speaks of it, nobody is to type it."""
    program, *words = span.split()
    if program == "flashvid":
        group: object = COMMAND
        while words and isinstance(group, TyperGroup) and words[0] in group.commands:
            group = group.commands[words.pop(0)]
        return not words
    return program in ("ray", "kubectl") and len(words) == 1


def test_every_command_is_run_or_listed() -> None:
    """A new one in the documentation belongs above; one that is gone from there is gone from here."""
    listed = {*WALK, *ELSEWHERE, *(command for commands in NOT_RUN.values() for command in commands)}
    assert set(shown()) - listed == set(), "shown, but neither run nor listed"
    assert listed - set(shown()) == set(), "listed, but not shown"
    assert {*ELSEWHERE.values()} - {path.name for path in (ROOT / "tests").rglob("*.py")} == set()


def test_targets_exist() -> None:
    """Of make."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {command.split()[1] for command in shown() if command.startswith("make ")}
    assert named - targets == set()


def test_the_library_as_the_readme_shows_it() -> None:
    """Its lines, given frames and their times."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8)
    names: dict[str, Any] = {"frames": frames, "timestamps": np.arange(8.0)}
    (block,) = blocks(README, "python")
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own page
    assert names["result"].tokens.shape[0] == names["video"].tokens.shape[0] == len(names["result"].indices)
    assert len(names["answers"]) == 1


def _run(command: str, folder: Path, *, in_this_process: bool) -> str:
    """What a command of ours says, which has to succeed."""
    words = shlex.split(command)
    if in_this_process:
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}{done.exception}"
        return done.output
    ended = subprocess.run(
        [BIN / words[0], *words[1:]], cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.mark.slow
def test_the_readme(sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands on a folder of two videos and a file that is none, with its own job file but for the model."""
    monkeypatch.chdir(tmp_path)
    videos = copy_videos(sample_videos, tmp_path, ["three_boxes.mp4", "short_flash.mp4"])
    for number, video in enumerate(sorted(videos.iterdir()), start=1):
        video.rename(videos / f"{number:04}.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "questions.csv").write_text("question,answer\nHow many objects are there?,three\n")
    said = {}
    for command in WALK:
        if command == "flashvid validate job.yaml":
            (block,) = blocks(README, "yaml")
            settings = {**yaml.safe_load(block), "model": {"name": "tiny"}}
            (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
        words = " ".join(PLACEHOLDERS.get(word, word) for word in command.split(" "))
        said[command] = _run(words, tmp_path, in_this_process=not command.startswith("flashvid run"))
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")
    assert "UnreadableVideoError" in (tmp_path / "report.html").read_text()
    exported = ds.dataset(tmp_path / "answers").to_table(columns=["video_id"]).to_pylist()
    assert [row["video_id"] for row in exported] == ["0001.mp4", "0002.mp4"]
    assert {row["video_id"] for row in table(tmp_path / "output", "answers")} == {"0002.mp4"}


@pytest.mark.slow
def test_the_tutorial(sample_videos: Path, tmp_path: Path) -> None:
    """Its commands, one after the other, as they stand there."""
    copy_videos(sample_videos, tmp_path / "demo-output", ["three_boxes.mp4", "short_flash.mp4"])
    for block in blocks(TUTORIAL, "console"):
        for line in block.splitlines():
            _run(line, tmp_path, in_this_process=False)
    assert list((tmp_path / "tutorial-answers").rglob("*.parquet"))
    assert (tmp_path / "tutorial-report.html").is_file()
