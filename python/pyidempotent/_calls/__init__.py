"""Protected calls: the decorator, the block, what is stored of a call's end, and a flow driven in both kinds of code.

Imports the options, the backends and the extension. Knows no framework but through `pyidempotent._frameworks`.
"""
