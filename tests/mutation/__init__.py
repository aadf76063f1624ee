"""Mutation testing: the code is broken on purpose, one small change at a time, and the tests of its room must notice.

    pip install -e '.[test,mutation]'
    python -m tests.mutation --room trigger                      150 mutants of `definable/agent/trigger/`
    python -m tests.mutation --room bus --sample 200 --seed 7    others of `definable/agent/bus/`
    python -m tests.mutation --room runtime --results runtime.jsonl --at-least 0.85
    python -m tests.mutation --again runtime.jsonl               those that survived, after tests were added
    python -m tests.mutation --room bus --list                   the sample, without a test

All mutants of a room would take a day, so it is a sample by a seed: so many places in the code, each as likely as any
other, and at each place one of the changes that the tool, cosmic-ray, makes there (a comparison or an operator becomes
another, a number moves by one, `and` becomes `or`, a condition gets a `not`, a loop does not loop, a decorator goes, an
exception is not caught). The same seed is the same sample as long as the code is the same.

Each mutant is tried in a copy of the repository, first by the tests of its module, then by the others of its room
(`rooms.py`), up to the first that fails. Tests that kill processes, soak or restart replicas are left out where the
room is about something else, and all tests of other rooms: a mutant that the whole suite would notice may survive here,
never the other way round. A mutant that hangs counts as killed, since a test's timeout ends it; where other programs
need the processor, give the tests more time (`--test-limit 30`), or a slow one counts as a hang.

Some changes can make no difference to a test, and are not made (`exclusions.py`): those of annotations, type aliases,
`if TYPE_CHECKING`, protocols, abstract methods, what is logged, a dataclass's `frozen` and `slots`, the `*` and `/` of
signatures, and `is` into `==`. The tool itself changes no strings, so no docstring and no text of an error either. What
survives all the same is printed as a diff, to be judged by a reader: a test is missing, or it makes no difference. The
share of the killed is of all that were tried.

A mutant may do anything that the tests let it, so run this where nothing is at stake. It is no part of the test run.
"""
