#!/usr/bin/env python3
"""How long encoders take in hedge, side by side: python pace.py HEDGE first.gguf second.gguf

Starts one hedge for each file and asks them in turn, so that a busy machine is as busy for one as for the other. Told is
the median over the rounds, of the processor time of the engine's process (Linux) as well as of the wall clock: on a
machine that does other things too only the first means something.
"""
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time

ROUNDS, ASKED = 15, 10
WORDS = ("how do i transfer money from my savings account to my checking account when the app says that the card has "
         "been blocked for security reasons since last week").split()


class Server:
    def __init__(self, hedge, path, folder):
        self.name = os.path.basename(path).removesuffix(".gguf")
        config = os.path.join(folder, self.name + ".toml")
        with open(config, "w", encoding="utf-8") as f:
            f.write(f'listen = "127.0.0.1:0"\n[embeddings]\nthreads = 1\nmodel = "{os.path.abspath(path)}"\n')
        self.log = os.path.join(folder, self.name + ".log")
        home = dict(os.environ, HOME=folder)
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([os.path.abspath(hedge), "serve", "--config", config], env=home, cwd=folder,
                                            stdout=log, stderr=subprocess.STDOUT)
        self.line = http.client.HTTPConnection("127.0.0.1", self.port())

    def port(self):
        for _ in range(300):
            with open(self.log, encoding="utf-8") as f:
                for line in f:
                    if "serves http://127.0.0.1:" in line:
                        return int(line.split("serves http://127.0.0.1:")[1].split("/")[0])
            time.sleep(0.2)
        raise SystemExit(f"{self.name} does not listen; see {self.log}")

    def ask(self, texts):
        """Seconds on the wall, tokens."""
        asked = json.dumps({"model": self.name, "input": texts, "encoding_format": "base64"})
        for _ in range(120):
            began = time.perf_counter()
            try:
                self.line.request("POST", "/v1/embeddings", asked, {"content-type": "application/json"})
                answer = self.line.getresponse()
                body = answer.read()
            except (http.client.HTTPException, ConnectionError):
                # A line that lay idle while the others were asked is closed.
                self.line.close()
                continue
            if answer.status == 200:
                return time.perf_counter() - began, json.loads(body)["usage"]["prompt_tokens"]
            if answer.status != 503 and answer.status != 429:
                break
            time.sleep(0.5)
        raise SystemExit(f"{self.name}: {answer.status} {body[:300]!r}")

    def spent(self):
        """Milliseconds of processor time of the processes below this hedge."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            children = f.read().split()
        threads = [f"/proc/{c}/task/{t}/schedstat" for c in children for t in os.listdir(f"/proc/{c}/task")]
        total = 0
        for path in threads:
            with open(path, encoding="ascii") as f:
                total += int(f.read().split()[0])
        return total / 1e6


def middle(values):
    return sorted(values)[len(values) // 2]


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        servers = []
        try:
            for path in sys.argv[2:]:
                servers.append(Server(sys.argv[1], path, folder))
            rounds = {s.name: [] for s in servers}
            for s in servers:
                s.ask(["hello"])
            for n in range(ROUNDS):
                for s in servers:
                    row = []
                    for count in (len(WORDS), 1):
                        before, walls = s.spent(), []
                        for k in range(ASKED):
                            # Another first word each time: answers by exact text would be no work.
                            wall, tokens = s.ask([" ".join([f"{n * ASKED + k}"] + WORDS[: count - 1])])
                            walls.append(1e3 * wall)
                        row += [(s.spent() - before) / ASKED, middle(walls), tokens]
                    before = s.spent()
                    _, tokens = s.ask([" ".join([f"{n * 64 + k}"] + WORDS[: 4 + k % 24]) for k in range(64)])
                    row.append(1e3 * tokens / (s.spent() - before))
                    rounds[s.name].append(row)
        finally:
            for s in servers:
                s.process.terminate()
            for s in servers:
                s.process.wait()
    for name, rows in rounds.items():
        long, wall, tokens, short, wall_short, few, rate = (middle(c) for c in zip(*rows))
        print(f"{name}: {long:.2f} ms of processor for {tokens} tokens ({wall:.2f} ms on the wall), {short:.2f} for {few} "
              f"({wall_short:.2f}); batches of 64: {rate:.0f} tokens a second of processor")


if __name__ == "__main__":
    main()
