"""Fuzzes the HTTP/1.1 parser, guided by coverage; libFuzzer's options.

    pip install -e '.[fuzz]'
    PYTHONPATH=tests python tests/fuzz/fuzz_http1.py tests/fuzz/corpus/http1 -max_total_time=600

What it finds it writes to a `crash-...` file: put that into the corpus, which the test suite replays.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["definable.server", "h11"]):
    from fuzz.http1_target import check

atheris.Setup(sys.argv, check)
atheris.Fuzz()
