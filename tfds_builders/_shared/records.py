"""ArrayRecord files without compression: JPEG frames gain nothing from it, and packing takes a
fifth of the time. Readers need not know.
"""

import contextlib
import os
from collections.abc import Iterator

from array_record.python import array_record_module
from tensorflow_datasets.core import file_adapters

OPTIONS = "group_size:1,uncompressed"


class UncompressedRecords(file_adapters.ArrayRecordFileAdapter):
    """TFDS's own way to write, but for the compression."""

    @classmethod
    def write_examples(cls, path, iterator):
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), OPTIONS)
        for _, example in iterator:
            writer.write(example)
        writer.close()


@contextlib.contextmanager
def uncompressed() -> Iterator[None]:
    """TFDS writes ArrayRecord files of this process without compression."""
    adapters, kind = file_adapters.ADAPTER_FOR_FORMAT, file_adapters.FileFormat.ARRAY_RECORD
    before = adapters[kind]
    adapters[kind] = UncompressedRecords
    try:
        yield
    finally:
        adapters[kind] = before
