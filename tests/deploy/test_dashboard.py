"""Every query of the dashboard is PromQL, over metrics and labels that there are."""

import json
import re
import unittest

import promql_parser as promql

from metrics_page import ROOT, rows

# What Prometheus puts to whatever it scrapes.
SCRAPED = {"job", "instance"}
# What Grafana puts in before it asks.
PUT_IN = {"$__rate_interval": "5m", "$__range": "6h", "$job": ".*", "$instance": ".*"}
METRICS = rows()


def expand(query):
    for name, value in PUT_IN.items():
        query = query.replace(name, value)
    return query


def parts(node):
    """What an expression is directly made of."""
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if (part := getattr(node, name, None)) is not None:
            yield part
    yield from getattr(node, "args", None) or []


def selectors(node):
    """Every selector of a metric in it."""
    if isinstance(node, promql.VectorSelector):
        yield node
    for part in parts(node):
        yield from selectors(part)


def faults(node):
    """What is wrong with the names in it, in words."""
    for selector in selectors(node):
        if selector.name not in METRICS:
            yield f"there is no {selector.name}"
            continue
        known = METRICS[selector.name][1] | SCRAPED
        matched = {matcher.name for matcher in selector.matchers.matchers}
        yield from (f"{selector.name} has no label {label}" for label in matched - known)
    for aggregate in aggregates(node):
        modifier = aggregate.modifier
        asked = set(modifier.labels) if modifier else set()
        known = set(SCRAPED)
        for selector in selectors(aggregate.expr):
            known |= METRICS.get(selector.name, ("", set()))[1]
        yield from (f"nothing under `by` has a label {label}" for label in asked - known)


def aggregates(node):
    if isinstance(node, promql.AggregateExpr):
        yield node
    for part in parts(node):
        yield from aggregates(part)


def kinds(node, is_rated=False):
    """Each selector's name, and whether a rate is taken of it."""
    is_rated = is_rated or (isinstance(node, promql.Call) and node.func.name in ("rate", "increase"))
    if isinstance(node, promql.VectorSelector):
        yield node.name, is_rated
    for part in parts(node):
        yield from kinds(part, is_rated)


def kept(node):
    """Labels that the result may have: those of `by` of the outermost aggregates, or the metric's own."""
    if isinstance(node, promql.AggregateExpr):
        return set(node.modifier.labels) if node.modifier else set()
    if isinstance(node, promql.VectorSelector):
        return METRICS[node.name][1] | SCRAPED
    if isinstance(node, promql.Call) and node.func.name == "histogram_quantile":
        return kept(node.args[1]) - {"le"}
    found = set()
    for part in parts(node):
        found |= kept(part)
    return found


class Dashboard(unittest.TestCase):
    def setUp(self):
        self.board = json.loads((ROOT / "deploy/grafana/hedge.json").read_text())
        self.panels = [panel for panel in self.board["panels"] if panel["type"] != "row"]

    def targets(self):
        for panel in self.panels:
            for target in panel["targets"]:
                yield panel["title"], target

    def test_every_query_is_over_metrics_and_labels_that_there_are(self):
        count = 0
        for title, target in self.targets():
            with self.subTest(panel=title, query=target["expr"]):
                node = promql.parse(expand(target["expr"]))
                self.assertEqual(list(faults(node)), [])
                self.assertGreater(len(list(selectors(node))), 0)
                count += 1
        self.assertGreater(count, 60)

    def test_counters_are_rated_and_gauges_are_not(self):
        for title, target in self.targets():
            for name, is_rated in kinds(promql.parse(expand(target["expr"]))):
                with self.subTest(panel=title, metric=name):
                    self.assertEqual(is_rated, METRICS[name][0] != "gauge")

    def test_legends_name_labels_that_are_left(self):
        for title, target in self.targets():
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            with self.subTest(panel=title, query=target["expr"]):
                self.assertLessEqual(legend, kept(promql.parse(expand(target["expr"]))))

    def test_variables_are_declared_and_asked_of_a_metric(self):
        declared = {variable["name"] for variable in self.board["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(self.panels)))
        self.assertLessEqual({name for name in used if not name.startswith("__")}, declared)
        for variable in self.board["templating"]["list"]:
            if variable["type"] == "query":
                query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                self.assertEqual(list(faults(promql.parse(expand(query[1])))), [])
                self.assertIn(query[2], SCRAPED)

    def test_panels_have_ids_of_their_own_and_do_not_overlap(self):
        panels = self.board["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        taken = set()
        for panel in panels:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells

    def test_what_a_platform_team_asks_for_is_there(self):
        shown = {name for _, target in self.targets() for name, _ in kinds(promql.parse(expand(target["expr"])))}
        for name in (
            "hedge_exchanges_total", "hedge_exchange_seconds_bucket", "hedge_first_content_seconds_bucket",
            "hedge_cost_saved_microusd_total", "hedge_cost_microusd_total", "hedge_limit_left", "hedge_tokens_total",
            "hedge_model_slots", "hedge_model_tokens_per_second", "hedge_backend_state", "hedge_breaker_state",
            "hedge_offline", "hedge_sealed_requests_total", "hedge_relay_requests_total",
        ):
            self.assertIn(name, shown)

    def test_a_wrong_name_is_seen(self):
        for query in (
            "rate(hedge_nothing_total[5m])",
            'hedge_ready{route="local"}',
            "sum by (route) (hedge_ready)",
            "sum(hedge_exchanges)",
        ):
            node = promql.parse(query)
            self.assertTrue(list(faults(node)), query)
        self.assertEqual(list(kinds(promql.parse("sum(hedge_ready)"))), [("hedge_ready", False)])
