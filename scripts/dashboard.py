#!/usr/bin/env python3
"""Writes docs/metrics/dashboard.json, the Grafana dashboard for the metrics of docs/metrics.md.

    scripts/dashboard.py            writes it
    scripts/dashboard.py --check    fails if what is there is not what this would write
"""

import json
import pathlib
import sys

FILE = pathlib.Path(__file__).parent.parent / "docs/metrics/dashboard.json"
OF = '{namespace=~"$namespace"}'
OF_SINK = '{namespace=~"$namespace",sink=~"$sink"}'
SOURCE = {"type": "prometheus", "uid": "${source}"}

# Each panel: title, unit, width of 24, and its expressions with their legends.
ROWS = [
    ("Is it well?", [
        ("Healthy", "bool_yes_no", 4, [(f"min(eventstore_healthy{OF})", "")]),
        ("Journal degraded", "bool_yes_no", 4, [(f"max(eventstore_degraded{OF})", "")]),
        ("Events lost", "short", 4, [(f"sum(increase(eventstore_events_lost{OF}[$__range]))", "")]),
        ("Events refused", "short", 4, [(f"sum(increase(eventstore_events_refused{OF}[$__range]))", "")]),
        ("Dead letters", "short", 4, [(f"sum(increase(eventstore_sink_rejected{OF_SINK}[$__range]))", "")]),
        ("Sinks that fail", "short", 4, [(f"sum(eventstore_sink_failing{OF_SINK})", "")]),
    ]),
    ("Events", [
        ("Events per second", "short", 12, [
            (f"sum(rate(eventstore_events_written{OF}[$__rate_interval]))", "written"),
            (f"sum(rate(eventstore_events_accepted{OF}[$__rate_interval]))", "accepted"),
        ]),
        ("Not stored, per minute", "short", 12, [
            (f"sum(rate(eventstore_events_{kind}{OF}[$__rate_interval])) * 60", kind)
            for kind in ["lost", "refused", "invalid", "filtered", "skipped", "duplicate"]
        ]),
    ]),
    ("What workers wait for", [
        ("Mean wait of a commit", "µs", 8, [(
            f"sum(rate(eventstore_commit_wait_microseconds{OF}[$__rate_interval])) / "
            f"sum(rate(eventstore_commits{OF}[$__rate_interval]))", "wait")]),
        ("Commits that took too long, per minute", "short", 8, [
            (f"sum(rate(eventstore_commit_timeouts{OF}[$__rate_interval])) * 60", "timeouts")]),
        ("Held for the server's word", "short", 8, [(f"sum(eventstore_held{OF})", "held")]),
        ("The oldest of it waits for", "s", 8, [(f"max(eventstore_held_seconds{OF})", "oldest")]),
        ("Added by the reconciler, per minute", "short", 8, [
            (f"sum(rate(eventstore_reconciler_added{OF}[$__rate_interval])) * 60", "events"),
            (f"sum(rate(eventstore_reconciler_unreported_ends{OF}[$__rate_interval])) * 60",
             "ends that workers should have stored")]),
        ("Passes of the reconciler, per minute", "short", 8, [
            (f"sum(rate(eventstore_reconciler_passes{OF}[$__rate_interval])) * 60", "passes"),
            (f"sum(rate(eventstore_reconciler_failures{OF}[$__rate_interval])) * 60", "failed")]),
    ]),
    ("Journal", [
        ("Size", "bytes", 8, [(f"sum(eventstore_journal_bytes{OF})", "in use")]),
        ("Events in it", "short", 8, [(f"sum(eventstore_journal_events{OF})", "events")]),
        ("Waiting in memory", "bytes", 8, [(f"sum(eventstore_queued_bytes{OF})", "bytes")]),
    ]),
    ("Sinks", [
        ("Behind", "short", 8, [(f"max by (sink) (eventstore_sink_behind{OF_SINK})", "{{sink}}")]),
        ("Delivered per second", "short", 8, [
            (f"sum by (sink) (rate(eventstore_sink_delivered{OF_SINK}[$__rate_interval]))", "{{sink}}")]),
        ("Mean time of a delivery", "µs", 8, [(
            f"sum by (sink) (rate(eventstore_sink_latency_microseconds{OF_SINK}[$__rate_interval])) / "
            f"sum by (sink) (rate(eventstore_sink_batches{OF_SINK}[$__rate_interval]))", "{{sink}}")]),
        ("The oldest event waits for", "s", 8, [
            (f"max by (sink) (eventstore_sink_oldest_seconds{OF_SINK})", "{{sink}}")]),
        ("Failing for", "s", 8, [(f"max by (sink) (eventstore_sink_failing_seconds{OF_SINK})", "{{sink}}")]),
        ("Retries per minute", "short", 8, [
            (f"sum by (sink) (rate(eventstore_sink_retries{OF_SINK}[$__rate_interval])) * 60", "{{sink}}")]),
    ]),
]

# What is good at 0, and what at 1.
GOOD_AT_ZERO = ["Journal degraded", "Events lost", "Events refused", "Dead letters", "Sinks that fail"]


def panel(number, title, unit, place, expressions, is_figure):
    defaults = {"unit": unit}
    if is_figure:
        colors = ["green", "red"] if title in GOOD_AT_ZERO else ["red", "green"]
        defaults["thresholds"] = {"mode": "absolute", "steps": [
            {"color": colors[0], "value": None}, {"color": colors[1], "value": 1}]}
    return {
        "id": number,
        "type": "stat" if is_figure else "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for index, (expr, legend) in enumerate(expressions)
        ],
    }


def variable(name, query):
    return {
        "name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2,
        "multi": True, "includeAll": True, "current": {"text": "All", "value": "$__all"},
    }


def dashboard():
    panels, number, y = [], 0, 0
    for index, (row, of_row) in enumerate(ROWS):
        number += 1
        panels.append({"id": number, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        x, height = 0, 4 if index == 0 else 8
        for title, unit, width, expressions in of_row:
            if x + width > 24:
                x, y = 0, y + height
            number += 1
            place = {"x": x, "y": y, "w": width, "h": height}
            panels.append(panel(number, title, unit, place, expressions, index == 0))
            x += width
        y += height
    return {
        "title": "Temporal event store",
        "uid": "temporal-eventstore",
        "tags": ["temporal"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [
            {"name": "source", "type": "datasource", "query": "prometheus", "current": {}},
            variable("namespace", "label_values(eventstore_healthy, namespace)"),
            variable("sink", "label_values(eventstore_sink_behind, sink)"),
        ]},
        "panels": panels,
    }


text = json.dumps(dashboard(), indent=2) + "\n"
if "--check" in sys.argv:
    if FILE.read_text() != text:
        sys.exit(f"{FILE} is not what scripts/dashboard.py writes")
else:
    FILE.write_text(text)
