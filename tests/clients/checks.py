"""Runs named checks and counts them. A check is a function whose name is a claim; it fails by raising."""
import functools
import sys
import time
import traceback


class Checks:
    def __init__(self, title):
        self.title, self.claims = title, []

    def __call__(self, claim):
        self.claims.append(claim)
        return claim

    def each(self, *arguments):
        """The claim once for each argument, which stands in the claim's name."""
        def claims_of(claim):
            for argument in arguments:
                one = functools.partial(claim, argument)
                one.__name__ = f"{claim.__name__}[{argument}]"
                self(one)
            return claim
        return claims_of

    def run(self):
        """Runs all, prints a line each and the count, and ends with status 1 when any failed."""
        failed = 0
        for claim in self.claims:
            try:
                claim()
                print(f"ok      {self.title}: {claim.__name__}")
            except Exception:
                failed += 1
                print(f"FAILED  {self.title}: {claim.__name__}")
                traceback.print_exc(file=sys.stdout)
        print(f"{len(self.claims) - failed} passed, {failed} failed", flush=True)
        return 1 if failed else 0


def raised(kind, call):
    """The exception of that kind which the call raises; anything else fails the check."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, and nothing was raised")


def eventually(claim, seconds=20):
    """Asks again until the claim holds, for as long as that."""
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
