"""The chart, rendered by Helm's own library, and what comes of it: objects that Kubernetes' schemas take, and a
configuration and variables that this binary takes."""

import os
import pathlib
import subprocess
import tempfile
import unittest

import helm_python
import kubernetes_validate.utils as kubernetes
import yaml

from metrics_page import ROOT, rows
from node import HEDGE, Node

CHART = ROOT / "deploy/helm/hedge"
# Those that the chart's kubeVersion allows and that somebody still supports, to the newest known here.
KUBERNETES = [version for version in kubernetes.all_versions() if int(version.split(".")[1]) >= 29]
# Kinds that are no part of Kubernetes.
FOREIGN = {"ServiceMonitor"}

KEYED = """
[[keys]]
name = "web"
secret = "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
[local]
enabled = false
[[upstreams]]
name = "openai"
base_url = "https://api.openai.com/v1"
key = "env:OPENAI_API_KEY"
models = ["gpt-5-mini"]
"""
PROVIDERS = [{"name": "OPENAI_API_KEY", "secretName": "providers", "key": "openai"}]

VARIANTS = {
    "as it comes": {},
    "keys and a provider": {"config": KEYED, "secretEnv": PROVIDERS},
    "everything on": {
        "config": KEYED,
        "secretEnv": PROVIDERS,
        "secretFiles": ["hedge-keys", "more"],
        "env": [{"name": "HEDGE_LOG__FORMAT", "value": "json"}],
        "hosts": ["llm.example"],
        "autoscaling": {"enabled": True, "exchangesInFlight": 64},
        "admin": {"tokenSecret": "hedge-admin", "role": "operator"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {"clients": [{"podSelector": {}}]},
        "podLabels": {"team": "platform"},
        "podAnnotations": {"a": "b"},
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "priorityClassName": "high",
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
        ],
        "extraVolumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        "extraVolumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    },
    "one replica with a disk": {"replicaCount": 1, "data": {"existingClaim": "hedge-data"}, "allowOpen": True},
    "configuration in a secret": {"configSecret": "hedge-config", "serviceAccount": {"name": "mine"}},
    "bare": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False, "maxUnavailable": "50%"},
        "autoscaling": {"enabled": True, "cpuPercent": 0},
        "rollOnConfigChange": False,
    },
}

REFUSED = {
    "a name that there is not": {"replicas": 3},
    "too many replicas": {"replicaCount": 5000},
    "a port beyond all ports": {"service": {"port": 70000}},
    "a grace that is no number": {"shutdown": {"graceSeconds": "soon"}},
    "a variable with a dash": {"secretEnv": [{"name": "A-B", "secretName": "s", "key": "k"}]},
    "a secret without its key": {"secretEnv": [{"name": "A", "secretName": "s"}]},
    "a size that is none": {"data": {"sizeLimit": "4 gigabytes"}},
    "a host with a scheme": {"hosts": ["https://llm.example"]},
    "a role that there is not": {"admin": {"role": "root"}},
    "privileges": {"securityContext": {"privileged": True}},
}

CONTRADICTORY = {
    "one disk for many": {"data": {"existingClaim": "hedge-data"}},
    "fewer at most than at least": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 2}},
    "metrics that nobody reaches": {"serviceMonitor": {"enabled": True}},
    "nothing to scale by": {"autoscaling": {"enabled": True, "cpuPercent": 0, "queueDepth": 0}},
}


def rendered(values, name="gate"):
    """{kind and name: object}"""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name=name, namespace="llm")
    objects = {}
    for path, text in texts.items():
        if path.endswith(".txt"):
            continue
        for found in yaml.safe_load_all(text):
            if found is not None:
                objects[found["kind"], found["metadata"]["name"]] = found
    return objects


def pod(objects):
    return objects["Deployment", "gate-hedge"]["spec"]["template"]["spec"]


def variables(objects):
    """What the container's environment says, with something in place of each secret."""
    container = pod(objects)["containers"][0]
    return {entry["name"]: entry.get("value", f"the-secret-{entry['name']}") for entry in container["env"]}


class Chart(unittest.TestCase):
    def test_it_passes_lint_with_each_set_of_values(self):
        for name, values in VARIANTS.items():
            with self.subTest(name):
                report = helm_python.chart.lint(CHART, values, strict=True)
                # 2 is a warning.
                worse = [message for message in report["messages"] if message["severity"] >= 2]
                self.assertEqual((worse, report["errors"]), ([], []))

    def test_kubernetes_takes_every_object(self):
        self.assertGreaterEqual(len(KUBERNETES), 5)
        for name, values in VARIANTS.items():
            for (kind, _), found in rendered(values).items():
                if kind in FOREIGN:
                    continue
                for version in KUBERNETES:
                    with self.subTest(name, kind=kind, version=version):
                        kubernetes.validate(found, version, strict=True)
        wrong = {**rendered({})["Service", "gate-hedge"], "specs": {}}
        with self.assertRaises(kubernetes.ValidationError):
            kubernetes.validate(wrong, KUBERNETES[0], strict=True)

    def test_the_schema_refuses_what_is_wrong(self):
        with helm_python.Chart.load(CHART) as chart:
            for values in VARIANTS.values():
                chart.validate_schema(values)
            for name, values in REFUSED.items():
                with self.subTest(name), self.assertRaises(helm_python.HelmValuesError):
                    chart.validate_schema(values)

    def test_every_default_is_in_the_schema(self):
        with helm_python.Chart.load(CHART) as chart:
            self.assertEqual(set(chart.values) - set(chart.schema["properties"]), set())
            self.assertEqual(set(chart.schema["properties"]) - set(chart.values), {"global"})

    def test_what_contradicts_itself_is_not_rendered(self):
        for name, values in CONTRADICTORY.items():
            with self.subTest(name), self.assertRaises(helm_python.HelmError):
                rendered(values)

    def test_selectors_find_the_pods(self):
        for name, values in VARIANTS.items():
            objects = rendered(values)
            template = objects["Deployment", "gate-hedge"]["spec"]["template"]
            labels = template["metadata"]["labels"].items()
            ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            for (kind, called), found in objects.items():
                spec = found.get("spec", {})
                with self.subTest(name, kind=kind, called=called):
                    if kind == "Service":
                        self.assertLessEqual(spec["selector"].items(), labels)
                        self.assertLessEqual({port["targetPort"] for port in spec["ports"]}, ports)
                    elif kind in ("Deployment", "PodDisruptionBudget"):
                        self.assertLessEqual(spec["selector"]["matchLabels"].items(), labels)
                    elif kind == "NetworkPolicy":
                        self.assertLessEqual(spec["podSelector"]["matchLabels"].items(), labels)
                    elif kind == "ServiceMonitor":
                        admin = objects["Service", "gate-hedge-admin"]
                        wanted = spec["selector"]["matchLabels"].items()
                        self.assertLessEqual(wanted, admin["metadata"]["labels"].items())
                        self.assertFalse(wanted <= objects["Service", "gate-hedge"]["metadata"]["labels"].items())
                        self.assertEqual(spec["endpoints"][0]["port"], admin["spec"]["ports"][0]["name"])
            mounts = {mount["name"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
            self.assertLessEqual(mounts, {volume["name"] for volume in template["spec"]["volumes"]})

    def test_pods_may_do_little(self):
        for name, values in VARIANTS.items():
            with self.subTest(name):
                spec = pod(rendered(values))
                own = spec["containers"][0]["securityContext"]
                self.assertTrue(spec["securityContext"]["runAsNonRoot"])
                self.assertTrue(own["readOnlyRootFilesystem"])
                self.assertFalse(own["allowPrivilegeEscalation"])
                self.assertEqual(own["capabilities"]["drop"], ["ALL"])
                self.assertFalse(spec["automountServiceAccountToken"])

    def test_pods_have_time_to_end(self):
        spec = pod(rendered({"shutdown": {"graceSeconds": 300, "preStopSeconds": 10}}))
        # Beside the grace, what a node needs at most for what is still to be written.
        self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], 300 + 10 + 20)

    def test_it_scales_by_metrics_that_there_are(self):
        known = rows()
        scaler = rendered(VARIANTS["everything on"])["HorizontalPodAutoscaler", "gate-hedge"]
        metrics = [entry["pods"]["metric"] for entry in scaler["spec"]["metrics"] if entry["type"] == "Pods"]
        self.assertEqual(len(metrics), 2)
        for metric in metrics:
            kind, labels = known[metric["name"]]
            self.assertEqual(kind, "gauge")
            self.assertLessEqual(set(metric.get("selector", {}).get("matchLabels", {})), labels)

    def test_another_configuration_rolls_the_pods_and_another_release_has_names_of_its_own(self):
        def annotations(values):
            deployment = rendered(values)["Deployment", "gate-hedge"]
            return deployment["spec"]["template"]["metadata"]["annotations"] or {}

        one, other = annotations({}), annotations({"config": "[local]\n"})
        self.assertNotEqual(one["checksum/config"], other["checksum/config"])
        self.assertNotIn("checksum/config", annotations({"rollOnConfigChange": False}))
        self.assertIn(("Deployment", "hedge"), rendered({}, name="hedge"))

    def test_the_binary_takes_what_the_pod_is_given(self):
        objects = rendered({"config": KEYED, "secretEnv": PROVIDERS, "shutdown": {"graceSeconds": 7}})
        written = objects["ConfigMap", "gate-hedge"]["data"]["hedge.toml"]
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "hedge.toml"
            file.write_text(written)
            environment = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": folder, **variables(objects)}
            checked = subprocess.run(
                [HEDGE, "check", "--config", file], env=environment, capture_output=True, text=True, timeout=60
            )
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
            # With a token others than the pod reach the operator's side; without one that is refused.
            token = rendered({"config": KEYED, "secretEnv": PROVIDERS, "admin": {"tokenSecret": "hedge-admin"}})
            reached = {**environment, **variables(token)}
            self.assertEqual(reached["HEDGE_ADMIN__LISTEN"], "0.0.0.0:8788")
            for given, code in [(reached, 0), ({**reached, "HEDGE_ADMIN__TOKENS": "[]"}, 1)]:
                checked = subprocess.run(
                    [HEDGE, "check", "--config", file], env=given, capture_output=True, text=True, timeout=60
                )
                self.assertEqual(checked.returncode, code, checked.stdout + checked.stderr)
            # The same without keys is refused, as NOTES.txt says.
            file.write_text("[local]\nenabled = false\n")
            open_to_all = subprocess.run(
                [HEDGE, "check", "--config", file], env=environment, capture_output=True, text=True, timeout=60
            )
            self.assertNotEqual(open_to_all.returncode, 0)

    def test_probes_and_clients_are_answered(self):
        objects = rendered({"config": KEYED, "secretEnv": PROVIDERS, "hosts": ["llm.example"]})
        written = objects["ConfigMap", "gate-hedge"]["data"]["hedge.toml"]
        container = pod(objects)["containers"][0]
        paths = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
        with Node(written, {**variables(objects), "HEDGE_LISTEN": "0.0.0.0:0"}) as node:
            # A kubelet names the pod's address, a client the service or what stands before it.
            hosts = ["10.1.2.3:8787", "gate-hedge", "gate-hedge.llm.svc:8787", "llm.example"]
            for path in sorted(paths):
                for host in hosts:
                    with self.subTest(path=path, host=host):
                        self.assertEqual(node.get(path, host)[0], 200)
            self.assertEqual(node.get("/healthz", "elsewhere.example")[0], 403)
            # And chats take a key.
            self.assertEqual(node.get("/v1/models", "gate-hedge")[0], 401)
