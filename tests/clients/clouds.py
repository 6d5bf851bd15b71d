"""The models that every client is asked with, and what their providers were sent.

`local` is the model on this machine. Of the two clouds one speaks OpenAI's dialect and one Anthropic's:
both are the fake upstream, which says what a marker in the last text tells it to and is at CLOUD_URL.
"""
import json
import os
import urllib.request

LOCAL, OPENAI, ANTHROPIC = "local", "fake/big", "claude/opus"
CLOUDS = [OPENAI, ANTHROPIC]
EVERYWHERE = [LOCAL, *CLOUDS]
# A breaker is one model's, and opens after five failures in a row: those that are asked to refuse, and to
# break off, have their own.
FAULTY = {OPENAI: "fake/faulty", ANTHROPIC: "claude/faulty"}
BROKEN = {OPENAI: "fake/broken", ANTHROPIC: "claude/broken"}

# One red pixel.
PNG = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
# What the fake has for a place, a city, and the like.
CITY = "Lisbon"


def question(model):
    """A text, and what its answer holds."""
    return ("What is the capital of Portugal?", CITY) if model == LOCAL else ("[[fake tokens=3]]", "t0 t1 t2")


def _asked(method):
    request = urllib.request.Request(os.environ["CLOUD_URL"] + "/_seen", method=method)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def seen():
    """The requests that the cloud saw, with their headers."""
    return _asked("GET")["requests"]


def sent():
    """The request that the cloud saw last, as JSON."""
    return seen()[-1]["body"]


def counts():
    """How the cloud's answers ended: asked, completed, abandoned."""
    return _asked("GET")["counts"]
