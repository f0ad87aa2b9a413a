"""With which status `codegen` ends, for scripts; docs/command-line.md tells them to people.

One decision: there are few, and each asks whoever called for another reaction. 0 is done, 128 + n interrupted by signal n,
and 2 is Typer's own: no such command or option.
"""

USER_ERROR = 1
"""An error that a person can mend: three lines say how."""
NEGATIVE_RESULT = 3
"""All went well, and the answer is no: the gate refused a model, or `doctor` misses what runs need."""
INTERNAL_ERROR = 70
"""A defect of ours. 70 is EX_SOFTWARE in BSD's sysexits.h."""
