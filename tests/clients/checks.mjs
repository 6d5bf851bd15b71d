// Runs named checks and counts them. A check is a function whose name is a claim; it fails by throwing.
import assert from 'node:assert/strict';

export class Checks {
  #title;
  #claims = [];

  constructor(title) {
    this.#title = title;
  }

  add(claims) {
    this.#claims.push(...Object.entries(claims));
  }

  // Each claim once for each argument, which stands in the claim's name.
  each(list, claims) {
    for (const [name, claim] of Object.entries(claims)) {
      for (const one of list) this.#claims.push([`${name}[${one}]`, () => claim(one)]);
    }
  }

  // Runs all, prints a line each and the count, and has the process end with 1 when any failed.
  async run() {
    let failed = 0;
    for (const [name, claim] of this.#claims) {
      try {
        await claim();
        console.log(`ok      ${this.#title}: ${name}`);
      } catch (error) {
        failed += 1;
        console.log(`FAILED  ${this.#title}: ${name}`);
        console.log(error);
      }
    }
    console.log(`${this.#claims.length - failed} passed, ${failed} failed`);
    if (failed) process.exitCode = 1;
  }
}

export async function collect(stream) {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
}

// The error that the promise is rejected with; anything else fails the check.
export async function raised(kind, promise) {
  let error;
  try {
    await promise;
  } catch (caught) {
    error = caught;
  }
  assert.ok(error instanceof kind, `expected ${kind.name}, but it is ${error}`);
  return error;
}

// Asks again until the claim holds, for as long as that.
export async function eventually(claim, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  while (!(await claim())) {
    assert.ok(Date.now() < end, 'it did not come true in time');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
