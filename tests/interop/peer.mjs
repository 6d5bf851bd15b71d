// Our end (`src/relay/examples/peer.rs`), as a process that says and hears lines.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));

export class Peer {
  constructor(program, ...words) {
    this.process = spawn(program, words, { stdio: ["pipe", "pipe", "inherit"] });
    this.lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
  }

  say(word, said) {
    this.process.stdin.write(`${word} ${hex(said)}\n`);
  }

  async line() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error("our end has ended; its last words are above");
    return value;
  }

  async hear(word) {
    const [first, said] = (await this.line()).split(" ");
    if (first !== word) throw new Error(`expected ${word}, heard ${first}`);
    return bytes(said);
  }

  async end() {
    this.process.stdin.end();
    if (this.process.exitCode === null) await once(this.process, "exit");
    if (this.process.exitCode !== 0) throw new Error(`our end has ended with ${this.process.exitCode}`);
  }
}
