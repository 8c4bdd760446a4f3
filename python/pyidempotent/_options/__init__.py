"""Options, each declared once: `table` has the name, type, default, check and documentation of every option.

`reading` is how a face reads them: the check of what it is given, its signature, its documentation, the errors.
`site` has the options of one call site as its calls need them. Imports values, the backends and the extension.
"""

from pyidempotent._options.site import Site

__all__ = ["Site"]
