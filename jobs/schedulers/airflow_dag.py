"""One job every night, as an Airflow DAG. Copy it to the `dags` folder and change the three constants.

The exit codes of a run decide:
- 0 is success. 3 is success with a note in the log.
- 4, 6 and 8 are retried later.
- 11 skips the task: another run is at work.
- 2, 5, 7 and all other codes fail without a retry: a person must change something first.
"""

from __future__ import annotations

import json
import logging
import subprocess
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

BATCHVISION = "/srv/photos/.venv/bin/batchvision"
JOB = "shoes.toml"
FOLDER = "/srv/photos"

log = logging.getLogger(__name__)

#: Codes after which a later start goes on by itself.
LATER = (4, 6, 8)


def outcome(code: int, summary: dict[str, object]) -> str:
    """What an exit code means to Airflow. ``summary``: the JSON of the run, or nothing where it did not begin."""
    reason = summary.get("stop_reason") or summary.get("message") or f"exit {code}"
    if code == 11:
        raise AirflowSkipException("another run holds the output")
    if code in LATER:
        raise AirflowException(f"to be started again: {reason}")
    if code not in (0, 3):
        raise AirflowFailException(f"a person must look: {reason}")
    words = f"{summary.get('rows_completed')} rows have answers, {summary.get('rows_failed')} failed"
    if code == 3:
        log.warning("%s: `batchvision report` shows them", words)
    return words


@dag(
    schedule="0 22 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["batchvision"],
)
def batchvision_shoes() -> None:
    @task(retries=5, retry_delay=timedelta(minutes=30), execution_timeout=timedelta(hours=11))
    def run() -> str:
        done = subprocess.run(
            [BATCHVISION, "run", JOB, "--json", "--log-format", "text"], cwd=FOLDER, stdout=subprocess.PIPE, text=True
        )
        return outcome(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {})

    run()


batchvision_shoes()
