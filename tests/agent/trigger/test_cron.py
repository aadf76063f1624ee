"""The cron trigger: its arguments, and how it names itself."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from definable.agent.trigger import Cron
from definable.agent.trigger.cron import FiredTimes
from definable.errors import ConfigurationError


def test_has_its_defaults() -> None:
    job = Cron("0 9 * * *")
    assert (job.schedule, job.timezone, job.overlap) == ("0 9 * * *", "UTC", "skip")
    assert (job.misfire_grace, job.jitter, job.timeout, job.max_concurrency, job.retries) == (60, 0, None, None, 0)


def test_source_holds_the_expression_as_written() -> None:
    assert Cron("0 9 * * *").source == "cron(0 9 * * *)"
    assert Cron("@daily").source == "cron(@daily)"


def test_key_tells_time_zones_apart() -> None:
    assert Cron("@daily", timezone="Europe/Berlin").key != Cron("@daily", timezone="Europe/Paris").key
    assert Cron("@daily").key == Cron("@daily").key


def test_next_after_is_in_the_time_zone() -> None:
    assert Cron("0 0 * * *", timezone="Asia/Kolkata").next_after(0) == 18.5 * 3600
    assert Cron("0 0 * * *").upcoming(2, 0) == [86400, 2 * 86400]
    assert Cron("0 0 * * *").missed(0, 3 * 86400) == (3, 3 * 86400)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"timezone": "Mars/Olympus"}, "unknown timezone 'Mars/Olympus'"),
        ({"overlap": "replace"}, "overlap='replace': 'skip', 'queue' or 'allow'"),
        ({"misfire_grace": -1}, "misfire_grace=-1"),
        ({"misfire_grace": math.nan}, "misfire_grace=nan"),
        ({"misfire_grace": None}, "misfire_grace=None"),
        ({"jitter": -0.5}, "jitter=-0.5"),
        ({"jitter": math.inf}, "jitter=inf"),
        ({"jitter": "5"}, "jitter='5'"),
        ({"timeout": 0}, "timeout=0"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"retries": -1}, "retries=-1"),
    ],
)
def test_refuses_an_argument_and_names_it(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Cron("0 9 * * *", **arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "not cron", "", None, 5])
def test_refuses_an_expression_and_names_it(expression: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Cron(expression)
    assert repr(expression) in str(caught.value)


def test_croniter_is_loaded_by_the_first_job_and_not_by_the_import() -> None:
    code = (
        "import sys, definable.agent.trigger.cron as cron\n"
        "assert 'croniter' not in sys.modules\n"
        "cron.Cron('@daily')\n"
        "assert 'croniter' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fired_times_are_kept_as_spans() -> None:
    fired = FiredTimes()
    for nominal in (10.0, 20.0, 30.0):
        fired.add(nominal, nominal + 10)
    assert fired.first_unfired(5.0, lambda at: at + 10) == 5.0
    assert fired.first_unfired(20.0, lambda at: at + 10) == 40.0
    fired.add(100.0, 110.0)
    fired.add(40.0, 50.0)
    assert fired.first_unfired(20.0, lambda at: at + 10) == 50.0
    assert fired.first_unfired(100.0, lambda at: at + 10) == 110.0
