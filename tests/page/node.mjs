// A node of hedge's with everything that the page shows, and people who ask it.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { eventually } from '../clients/checks.mjs';

export const ZONE = 'Asia/Kolkata';
// What callers name a model is put into the page as it is.
export const MARKUP = '<img src=x onerror="document.title=1">';
const TEAMS = ['research', 'support', 'web'];
const secret = (team) => `sk-${team}`;
const digest = (team) => createHash('sha256').update(secret(team)).digest('hex');

// The same for records.py, in micro-dollars for a million tokens.
export const PRICES = {
  prices: {
    'acme/large': { input: 2_500_000, cached_input: 250_000, output: 15_000_000 },
    'acme/small': { input: 250_000, output: 2_000_000 },
    'spare/big': { input: 5_000_000, output: 25_000_000 },
  },
  aliases: { smart: 'acme/large', safe: 'spare/big' },
  reference: 'acme/large',
};

// What they may use is enough for all, but for the one whose day is over soon.
function config(fake) {
  const key = (team, more = '') => `[[keys]]\nname = "${team}"\nteam = "${team}"\nsecret = "sha256:${digest(team)}"\n${more}\n`;
  const models = PRICES.prices;
  const price = (name) => {
    const [upstream, model] = name.split('/');
    const rates = Object.entries(models[name]).map(([what, micros]) => `${what} = ${(micros / 1e6).toFixed(6)}`);
    return `[[prices]]\nupstream = "${upstream}"\nmodels = ["${model}"]\n${rates.join('\n')}\n`;
  };
  return `
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[offline]
enabled = false
[savings]
reference_model = "${PRICES.reference}"
[organisation]
time_zone = "${ZONE}"
limits = [{ count = "cost", usd = 50, per = "month", when_spent = "local" }]
[[teams]]
name = "research"
limits = [{ count = "cost", usd = 2.5, per = "month" }, { count = "tokens", amount = 2000000, per = "hour" }]
[[teams]]
name = "support"
limits = [{ count = "cost", usd = 2, per = "month" }]
[aliases]
smart = "acme/large"
safe = ["spare/big", "gpu/qwen"]
${TEAMS.map((team) => key(team)).join('')}
${key('trial', 'limits = [{ count = "requests", amount = 3, per = "day" }]')}
[[upstreams]]
name = "acme"
base_url = "${fake}/v1"
key = "env:CLOUD_KEY"
models = ["large", "small"]
[[upstreams]]
name = "spare"
base_url = "http://127.0.0.1:1/v1"
models = ["big"]
[[pools]]
name = "gpu"
kind = "vllm"
endpoints = ["${fake}/v1"]
models = ["qwen"]
key = "env:CLOUD_KEY"
${Object.keys(models).map(price).join('')}`;
}

// The first line of a program's that the pattern finds something in.
async function said(child, pattern) {
  for await (const line of createInterface({ input: child.stdout })) {
    const found = pattern.exec(line);
    if (found) return found[1];
  }
  throw new Error('it ended without saying where it listens');
}

export class Node {
  #hedge;
  #fake;
  #child;
  #written = 0;
  folder = mkdtempSync(join(tmpdir(), 'hedge-page-'));
  records = join(this.folder, 'hedge/records/records.sqlite');
  prices = join(this.folder, 'prices.json');

  static async begin(hedge, fakeUpstream) {
    const node = new Node();
    node.#hedge = hedge;
    const models = ['large', 'small', 'qwen'].flatMap((model) => ['--model', model]);
    const fake = ['--listen', '127.0.0.1:0', '--key', 'cloud-key', '--forget', ...models];
    node.#fake = spawn(fakeUpstream, fake, { stdio: ['ignore', 'pipe', 'inherit'] });
    const address = await said(node.#fake, /^(\S+:\d+)$/);
    writeFileSync(join(node.folder, 'hedge.toml'), config(`http://${address}`));
    writeFileSync(node.prices, JSON.stringify(PRICES));
    return node;
  }

  async start() {
    const env = { ...process.env, XDG_DATA_HOME: this.folder, CLOUD_KEY: 'cloud-key' };
    const log = join(this.folder, 'log');
    const shell = ['-c', 'exec "$0" serve --config "$1" 2>>"$2"', this.#hedge, join(this.folder, 'hedge.toml'), log];
    this.#child = spawn('sh', shell, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    this.#written = 0;
    this.api = this.admin = undefined;
    const lines = createInterface({ input: this.#child.stdout });
    let all = '';
    const found = (pattern) => pattern.exec(all)?.[1];
    for await (const line of lines) {
      all += line + '\n';
      this.api = found(/serves (http:\/\/[^/]+)\/v1/);
      this.admin = found(/metrics {2}(http:\/\/[^/]+)\/metrics/);
      if (this.api && this.admin) break;
    }
    if (!this.admin) throw new Error(`the node did not start: ${this.log()}`);
    this.#child.stdout.resume();
    await eventually(async () => (await fetch(`${this.api}/readyz`).catch(() => ({}))).ok, 60);
  }

  async stop() {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    await ended;
  }

  async end() {
    await this.stop();
    this.#fake.kill();
    rmSync(this.folder, { recursive: true });
  }

  log() {
    return readFileSync(join(this.folder, 'log'), 'utf8');
  }

  // A command of records.py's.
  python(...args) {
    const done = spawnSync('python3', ['records.py', ...args], { encoding: 'utf8', maxBuffer: 1 << 26 });
    if (done.status !== 0) throw new Error(done.stderr);
    return done.stdout;
  }

  spread() {
    this.python('spread', this.records, ZONE);
  }

  figures() {
    return JSON.parse(this.python('figures', this.records, this.prices, ZONE));
  }

  // A chat, read to its end, or to its first piece where its caller leaves.
  async ask(team, body, { leaves = false } = {}) {
    const abort = new AbortController();
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${secret(team)}` };
    const request = { method: 'POST', headers, body: JSON.stringify(body), signal: abort.signal };
    this.#written += 1;
    try {
      const reply = await fetch(`${this.api}/v1/chat/completions`, request);
      if (!leaves) return await reply.text();
      await reply.body.getReader().read();
      abort.abort();
    } catch {
      // A stream that breaks off is meant to be here too.
    }
    return null;
  }

  // Many at once, by the numbers from `from` on; back when the records of all are written.
  async fill(from, count) {
    const numbers = Array.from({ length: count }, (_, at) => from + at);
    const worker = async () => {
      while (numbers.length > 0) await mixed(this, numbers.shift());
    };
    await Promise.all(Array.from({ length: 16 }, worker));
    await this.written();
  }

  async written() {
    const line = () => `hedge_records_total{result="written"} ${this.#written}\n`;
    await eventually(async () => (await (await fetch(`${this.admin}/metrics`)).text()).includes(line()));
  }
}

const CAPITALS = ['Portugal', 'France', 'Japan', 'Kenya', 'Peru', 'Norway', 'Egypt', 'Canada', 'Italy', 'Ghana', 'Chile', 'Spain'];

// The request of a number: each kind in its turn, of other sizes each time.
function mixed(node, at) {
  const team = TEAMS[(Math.floor(at / 14) + at % 14) % 3];
  const tokens = 150 + (at * 271) % 900;
  const slow = `[[fake tokens=${tokens} cached=${(at % 4) * 3} delay-ms=${90 + (at * 53) % 320}]] number ${at}`;
  const quick = `[[fake tokens=${tokens} delay-ms=${25 + (at * 31) % 70}]] number ${at}`;
  const chat = (model, content, more = {}) => ({ model, messages: [{ role: 'user', content }], ...more });
  const streamed = { stream: true, stream_options: { include_usage: true } };
  const country = CAPITALS[at % CAPITALS.length];
  switch (at % 14) {
    case 0: case 1: return node.ask(team, chat('acme/large', slow, streamed));
    case 2: return node.ask(team, chat('acme/small', slow));
    case 3: case 4: return node.ask(team, chat('acme/large', '[[fake tokens=420 delay-ms=150]] what everybody asks'));
    case 5: return node.ask(team, chat('smart', slow, streamed));
    case 6: case 7: return node.ask(team, chat('gpu/qwen', quick, streamed));
    case 8: return node.ask(team, chat('safe', quick));
    case 9: case 10: return node.ask(team, chat('auto', `What is the capital of ${country}?`, streamed));
    case 11: return node.ask(team, chat('local', `Convert ${1 + at} km to m`, streamed));
    case 12: return node.ask('trial', chat('acme/small', slow));
    default: return odd(node, team, at, chat, streamed);
  }
}

function odd(node, team, at, chat, streamed) {
  switch (Math.floor(at / 14) % 4) {
    case 0: return node.ask(team, chat(MARKUP, 'hi'));
    case 1: return node.ask(team, chat('acme/large', `[[fake status=400]] ${at}`));
    case 2: return node.ask(team, chat('acme/large', `[[fake tokens=60 cut-after=20]] ${at}`, streamed));
    default: return node.ask(team, chat('acme/large', `[[fake tokens=400 gap-ms=10]] ${at}`, streamed), { leaves: true });
  }
}
