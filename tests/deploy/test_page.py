"""What docs/deploy.md tells the reader to write is taken by this binary and by the chart."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import promql_parser as promql
import yaml

from metrics_page import ROOT
from node import HEDGE
from test_chart import pod, rendered, variables
from test_dashboard import faults, kinds

PAGE = (ROOT / "docs/deploy.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def check(text, folder, environment):
    """What `hedge check` says of it, with each secret's file in `folder`."""
    for path in set(re.findall(r'"file:([^"]+)"', text)):
        beside = pathlib.Path(folder) / pathlib.Path(path).name
        beside.write_text("a-secret-of-somebody")
        text = text.replace(f"file:{path}", f"file:{beside}")
    file = pathlib.Path(folder) / "hedge.toml"
    file.write_text(text)
    named = {name: "a-secret-of-somebody" for name in re.findall(r'"env:(\w+)"', text)}
    plain = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": folder}
    done = subprocess.run(
        [HEDGE, "check", "--config", file],
        env={**plain, **named, **environment}, capture_output=True, text=True, timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


class Page(unittest.TestCase):
    def test_each_configuration_is_taken(self):
        found = blocks("toml")
        self.assertGreaterEqual(len(found), 2)
        for text in found:
            with self.subTest(text), tempfile.TemporaryDirectory() as folder:
                code, said = check(text, folder, {})
                self.assertEqual(code, 0, said)

    def test_the_values_make_a_deployment_that_the_binary_takes(self):
        values = [yaml.safe_load(text) for text in blocks("yaml")]
        values = [found for found in values if "replicaCount" in found]
        self.assertEqual(len(values), 1)
        objects = rendered(values[0])
        self.assertEqual(objects["Deployment", "gate-hedge"]["spec"]["replicas"], values[0]["replicaCount"])
        self.assertIn("secrets", {volume["name"] for volume in pod(objects)["volumes"]})
        with tempfile.TemporaryDirectory() as folder:
            code, said = check(objects["ConfigMap", "gate-hedge"]["data"]["hedge.toml"], folder, variables(objects))
            self.assertEqual(code, 0, said)

    def test_alarms_are_over_metrics_that_there_are(self):
        table = PAGE.split("| when | expression |")[1].split("\n\n")[0]
        alarms = re.findall(r"\| `(.+)` \|$", table, re.MULTILINE)
        self.assertGreaterEqual(len(alarms), 6)
        for alarm in alarms:
            with self.subTest(alarm):
                node = promql.parse(alarm)
                self.assertEqual(list(faults(node)), [])
                self.assertGreater(len(list(kinds(node))), 0)

    def test_files_that_it_names_are_there(self):
        links = re.findall(r"\]\(((?!http)[^)#]+)", PAGE)
        self.assertGreater(len(links), 5)
        for link in links:
            self.assertTrue((ROOT / "docs" / link).exists(), link)
