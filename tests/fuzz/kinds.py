"""Every kind of fuzzing, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz.command_lines import COMMAND_LINES
from tests.fuzz.job_files import JOB_FILES
from tests.fuzz.kind import Kind
from tests.fuzz.objects import RECORDS, TABLES_ON_STORAGE, TOKENS
from tests.fuzz.tables import TABLES
from tests.fuzz.texts import SCHEMAS, TEMPLATES
from tests.fuzz.videos import VIDEOS

KINDS: Mapping[str, Kind] = {
    "job-files": JOB_FILES,
    "tables": TABLES,
    "command-lines": COMMAND_LINES,
    "videos": VIDEOS,
    "stored-tables": TABLES_ON_STORAGE,
    "tokens": TOKENS,
    "records": RECORDS,
    "schemas": SCHEMAS,
    "templates": TEMPLATES,
}
