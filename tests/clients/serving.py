"""Programs that checks start: a port for each, and when one is ready."""
import json
import socket
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_ready(address, process, seconds):
    """Until a chat can be answered, and every backend says so."""
    for _ in range(seconds * 5):
        assert process.poll() is None, "hedge ended before it was ready"
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=2) as reply:
                if all(backend["state"] == "ready" for backend in json.load(reply)["backends"]):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("hedge did not become ready")
