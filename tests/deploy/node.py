"""A node under test."""

import http.client
import os
import pathlib
import subprocess
import tempfile
import threading

HEDGE = os.environ["HEDGE"]
# Longer than anything here takes on a slow machine.
PATIENCE_S = 120


class Node:
    """Serves `config` while it is entered. `before` runs in the new process, before the program."""

    def __init__(self, config, environment, before=None):
        self.folder = tempfile.TemporaryDirectory()
        file = pathlib.Path(self.folder.name) / "hedge.toml"
        file.write_text(config)
        plain = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": self.folder.name}
        plain |= {"HEDGE_LISTEN": "127.0.0.1:0"}
        plain |= {**environment, "HEDGE_ADMIN__LISTEN": "127.0.0.1:0"}
        self.log = pathlib.Path(self.folder.name) / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [HEDGE, "serve", "--config", file],
                env=plain, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=before,
            )
        late = threading.Timer(PATIENCE_S, self.process.kill)
        late.start()
        try:
            self.port = self.admin = None
            for line in self.process.stdout:
                if " serves http://" in line:
                    self.port = int(line.split("/v1")[0].rsplit(":", 1)[1])
                if "metrics  http://" in line:
                    self.admin = int(line.split("/metrics")[0].rsplit(":", 1)[1])
                if self.port and self.admin:
                    break
            else:
                said = self.log.read_text()
                self.end()
                raise AssertionError(f"hedge did not start:\n{said}")
        finally:
            late.cancel()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()

    def ask(self, method, path, host="localhost", body=None, headers=None):
        """The status and the text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body=body, headers={"Host": host, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def get(self, path, host="localhost"):
        return self.ask("GET", path, host)
