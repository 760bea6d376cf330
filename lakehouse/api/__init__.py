"""The DAG control API: start, stop and delete runs of Airflow's DAGs, over HTTP, with callers that are known.

Read it in this order: `routes` (what can be asked), `models` (what is answered), `problems` (what can go wrong),
`access` (who may), `conf` (what a run may be given), `stopping` (when a run is gone), `edge` (what every request passes
through), `places` (how much at once), `audit_log` and `metrics` (what is kept of it), `readiness` (whether requests
should come), `app` (how all that is put together) and `__main__` (the server, which drains before it ends). Airflow
itself is asked in `lakehouse.adapters.airflow_runs`.
"""
