"""Development mode: a parent process that watches the source files, and the child that serves.

It knows how to start and replace a served process, nothing of what is served; `runtime.entry` calls it.
"""
