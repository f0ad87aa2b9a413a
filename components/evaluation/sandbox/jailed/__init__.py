"""The part that runs inside the jail: standard library alone, mounted read-only.

`server` is what every process here is forked from; `subject` runs what a model wrote; `judge` runs the tests and holds the
verdict; `lockdown` closes the doors behind both; `enclosure` builds the jail where bubblewrap does not, and `confinement`
is the walls where there can be no jail; `frames` and `values` are how they speak. Nothing in this folder may
contain a test or an expected value: subjects can read it.
"""
