"""What definable costs, next to what else one would pick.

```
python -m benchmarks                     all questions
python -m benchmarks agent_run stream    some of them
python -m benchmarks --quick             small counts: whether it works, not what it costs
python -m benchmarks --rounds 9 --json results.json
```

The way through it:

```
__main__.py      the command line
catalog.py       the questions by name
questions/       one file a question: what is measured, of whom, against which target
frameworks/      one file a framework: the same few agents, written as its own documentation would
served/          one file a service: those agents behind HTTP
question.py      Question, Contender, Column: what a question is made of
effort.py        how much is done to answer it
rounds.py        every contender once a round, each time in a process of its own
contender.py     that process
stopwatch.py     timing loops for it
load/            what asks a service without a pause: wrk where it is installed, else one of ours
account.py       medians and ratios of the rounds (pure)
table.py         the account for people (pure)
```

Contenders are measured side by side: they take turns within one run, round after round, so that a noisy machine is
noisy for all of them. Read the ratios; the absolute numbers are this machine's, now. Nothing here is a test, and no
test asserts a time.
"""
