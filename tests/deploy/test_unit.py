"""The systemd unit: systemd's own checks where it is installed, and its restrictions on a running node."""

import ctypes
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from metrics_page import ROOT
from node import HEDGE, PATIENCE_S, Node

UNIT = ROOT / "deploy/systemd/hedge.service"
# What a node needs at most after the grace: the engine, and four times what is still to be written.
AFTER_GRACE_S = 25
# `systemd-analyze security` goes from 0 to 10; below 2 is among the tightest that there are.
EXPOSURE_MAX = 2.0
# linux/prctl.h, from Linux 6.3 on.
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def settings():
    """{key: values}, in the order they stand."""
    found = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def deny_write_execute():
    """In the child: memory is never writable and executable, as MemoryDenyWriteExecute has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def has_mdwe():
    try:
        subprocess.run(["true"], preexec_fn=deny_write_execute, check=True)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


class Unit(unittest.TestCase):
    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd-analyze")
    def test_systemd_finds_no_fault_in_it(self):
        with tempfile.TemporaryDirectory() as folder:
            # The binary lies elsewhere here.
            unit = pathlib.Path(folder) / "hedge.service"
            unit.write_text(UNIT.read_text().replace("/usr/local/bin/hedge", HEDGE))
            checked = subprocess.run(
                ["systemd-analyze", "verify", "--recursive-errors=no", unit], capture_output=True, text=True, timeout=60
            )
            self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""))
            unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=much"))
            wrong = subprocess.run(
                ["systemd-analyze", "verify", "--recursive-errors=no", unit], capture_output=True, text=True, timeout=60
            )
            self.assertIn("much", wrong.stdout + wrong.stderr)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd-analyze")
    def test_it_leaves_little_open(self):
        shown = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", UNIT], capture_output=True, text=True, timeout=60
        )
        level = re.search(r"exposure level for hedge.service: ([0-9.]+)", shown.stdout)
        if level is None:
            self.skipTest("this systemd-analyze does not look at files")
        self.assertLess(float(level[1]), EXPOSURE_MAX)

    def test_it_waits_longer_than_the_grace(self):
        schema = json.loads(subprocess.run([HEDGE, "config", "schema"], capture_output=True, timeout=60).stdout)
        grace = schema["properties"]["shutdown"]["default"]["grace_s"]
        self.assertGreaterEqual(int(settings()["TimeoutStopSec"][0]), grace + AFTER_GRACE_S)
        # The children go on until the parent lets them.
        self.assertEqual(settings()["KillMode"], ["mixed"])

    def test_the_folder_that_it_writes_to_is_the_one_that_hedge_uses(self):
        self.assertIn("XDG_DATA_HOME=/var/lib", settings()["Environment"])
        self.assertEqual(settings()["StateDirectory"], ["hedge"])
        away = "[[upstreams]]\nname = 'x'\nbase_url = 'http://127.0.0.1:9'\nmodels = ['m']\n"
        with Node(f"[local]\nenabled = false\n{away}", {}) as node:
            folder = pathlib.Path(node.folder.name)
            # The file of records is opened beside the first answers.
            for _ in range(PATIENCE_S * 10):
                if (folder / "hedge").exists():
                    break
                time.sleep(0.1)
            written = {path.name for path in folder.iterdir()}
            self.assertEqual(written - {"hedge.toml", "log"}, {"hedge"})

    @unittest.skipUnless(has_mdwe(), "this kernel cannot deny it to one process")
    def test_the_local_model_answers_where_memory_is_never_writable_and_executable(self):
        self.assertEqual(settings()["MemoryDenyWriteExecute"], ["yes"])
        with Node("", {}, before=deny_write_execute) as node:
            status = 0
            for _ in range(PATIENCE_S * 10):
                status, text = node.get("/readyz")
                if status == 200:
                    break
                time.sleep(0.1)
            self.assertEqual(status, 200, node.log.read_text())
            # A grammar and a template too: what else might be tempted to make code at run time.
            body = {"model": "local", "max_tokens": 8, "response_format": {"type": "json_object"}}
            body |= {"messages": [{"role": "user", "content": "hello"}]}
            headers = {"content-type": "application/json"}
            status, text = node.ask("POST", "/v1/chat/completions", body=json.dumps(body), headers=headers)
            self.assertEqual(status, 200, text)
