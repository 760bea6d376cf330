"""The history of the queries that Trino ran: `lakehouse queries collect`."""

from dataclasses import asdict

import typer

from lakehouse import query_history
from lakehouse.cli.output import Format, Output, answers, print_json
from lakehouse.settings import get_settings

app = typer.Typer(help="The history of the queries that Trino ran.", no_args_is_help=True)


@app.command("collect")
def collect(output: Output = Format.TEXT) -> None:
    """Bring the queries that ended since the last call into the table `ops.query_history`, each once.

    Trino's users `admin` and `transform` read it.

    Examples:

    `lakehouse queries collect`

    `lakehouse sql --as admin 'select trino_user, query, cpu_seconds from ops.query_history order by ended_at desc'`
    """
    done = query_history.collect(get_settings())
    if output is Format.JSON:
        print_json(asdict(done))
        return
    answers.print(f"{done.rows:,} queries collected")
    if done.unreadable_rows:
        answers.print(f"{done.unreadable_rows:,} of them could not be read: see the column problem")
    if done.lost_rows:
        answers.print(f"{done.lost_rows:,} were gone from Kafka before they were collected: collect more often")
