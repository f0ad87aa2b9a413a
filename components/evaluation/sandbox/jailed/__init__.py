"""Code that runs inside the jail. It uses the standard library alone and is mounted read-only.

`server` forks every other process. `candidate` runs generated code. `test_runner` runs the tests
and holds the verdict. `lockdown` limits a process before it executes anything. `namespaces_setup`
builds a jail if bubblewrap is missing, and `landlock_rules` restricts file access if namespaces are
unavailable. `frames` and `values` are the wire format. `shared_objects` connects program and tests
in the mode `split`, with `proxy`, `value_types` and `exceptions`.

Candidates can read this folder: it must never contain a test or an expected value.
"""
