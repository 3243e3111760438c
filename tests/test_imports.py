"""No circle of imports, and what each entry leaves alone until it is used.

`make check` holds the order of the rooms (`[tool.importlinter]` in pyproject.toml); `python -m tests.start_up` measures
the seconds.
"""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.start_up import fill

# Heavy, or of another part of a run.
HEAVY = {"torch", "transformers", "ray", "pandas", "av", "decord", "s3fs", "botocore", "huggingface_hub"}
MAIN = "import sys; from jobs.cli.main import main; sys.argv[1:] = {}\ntry: main()\nexcept SystemExit: pass"
ENTRIES = {
    "--help": (MAIN.format(["--help"]), HEAVY | {"rich", "yaml", "pydantic", "numpy", "pyarrow", "fsspec"}),
    "validate": (MAIN.format(["validate", "job.yaml"]), HEAVY | {"pyarrow.dataset"}),
    "status": (MAIN.format(["status", "output"]), HEAVY | {"pyarrow.dataset"}),
    "decode process": ("import pipeline.video.child", HEAVY - {"av", "decord"} | {"pyarrow", "fsspec"}),
    "types of the inputs": (
        "import pipeline.inputs.questions, pipeline.inputs.videos",
        HEAVY | {"pyarrow", "fsspec", "yaml"},
    ),
    "storage and committed tokens": (
        "import pipeline.store.storage, pipeline.store.tokens",
        HEAVY | {"pyarrow.dataset", "fsspec"},
    ),
}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions and under TYPE_CHECKING count; the error names the circle."""
    graph = grimp.build_graph("flashvid", "pipeline", "jobs", cache_dir=None)
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_imports_what_it_uses(entry: str, tmp_path: Path) -> None:
    """Each in a process of its own."""
    code, unwanted = ENTRIES[entry]
    fill(tmp_path)
    code += f"\nprint(sorted({unwanted!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n", f"{entry} imports {done.stderr}"
