"""Read all columns of a Parquet object of an output, also those of later versions."""

import pyarrow as pa

from pipeline.errors import DamagedObjectError
from pipeline.store import schemas
from pipeline.store.parquet import DamagedParquetError, from_bytes
from pipeline.store.storage import Storage

_SCHEMAS = {"answers": schemas.ANSWERS, "failures": schemas.FAILURES, "probes": schemas.PROBES}


def whole_table(storage: Storage, name: str) -> pa.Table:
    """Return an object below `answers/`, `failures/` or `probes/`.

    Raises:
        DamagedObjectError: it is not what was written.
        FileNotFoundError: there is no such object.
    """
    content = storage.read(name)
    try:
        return from_bytes(content, _SCHEMAS[name.split("/", maxsplit=1)[0]])
    except DamagedParquetError as error:
        raise DamagedObjectError(str(error), storage.url, name) from error
