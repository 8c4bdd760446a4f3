"""Values: what they are made of, which classes annotations name, what is stored as a result, durations.

Imports the extension, and nothing else of the package.
"""
