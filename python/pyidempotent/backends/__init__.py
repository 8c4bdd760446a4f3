"""Where records live.

A URL is accepted wherever a backend is: ``redis://…``, ``redis+sentinel://…``, ``redis+cluster://…``, ``rediss://…``, ``unix://…``,
``postgresql://…``, ``sqlite:///path``, ``memory://``. Equal URLs share one store per process. Making a backend does no
I/O.
"""

from pyidempotent._values.results import Answer
from pyidempotent.backends._backend import Backend, RecordPage, StoredRecord
from pyidempotent.backends._urls import open_backend

__all__ = ["Answer", "Backend", "RecordPage", "StoredRecord", "open_backend"]
