"""The dashboards that the chart ships, as code; `tools/chart/generate.py` writes their JSON."""

from dashboards.fleet import fleet
from dashboards.operator import operator
from dashboards.run import run

DASHBOARDS = (fleet, run, operator)
"""Each makes one dashboard."""
