// A node of hedge's that people sign in to.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from '../clients/checks.mjs';

export const TOKEN = 'the-operators-token';

// One that nobody listens on just now.
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

// TLS in front of a node, as a proxy has it: by the name of `origin`, with a certificate of its own.
export class Front {
  constructor(port) {
    this.port = port;
    this.origin = `https://hedge.example:${port}`;
    this.redirectUrl = `${this.origin}/admin/callback`;
  }

  async start(node) {
    const [key, cert] = ['key.pem', 'cert.pem'].map((name) => join(node.folder, name));
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', key,
      '-out', cert, '-days', '1', '-subj', '/CN=hedge.example', '-addext', 'subjectAltName=DNS:hedge.example'], { stdio: 'ignore' });
    this.server = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, (asked, answer) => {
      const { method, url: path, headers } = asked;
      const passed = request({ host: '127.0.0.1', port: node.port, method, path, headers }, (reply) => {
        answer.writeHead(reply.statusCode, reply.rawHeaders);
        reply.pipe(answer);
      });
      asked.pipe(passed);
    }).listen(this.port, '127.0.0.1');
    await once(this.server, 'listening');
  }

  end() {
    this.server.close();
    this.server.closeAllConnections();
  }
}

export class Node {
  #hedge;
  #child;
  folder = mkdtempSync(join(tmpdir(), 'hedge-oidc-'));

  constructor(hedge, port) {
    this.#hedge = hedge;
    this.port = port;
    // By another name than the provider's, which is of 127.0.0.1: cookies tell hosts apart and ports not.
    this.home = `http://localhost:${port}`;
    this.redirectUrl = `${this.home}/admin/callback`;
  }

  configure(provided, { more = '', redirectUrl = this.redirectUrl } = {}) {
    writeFileSync(join(this.folder, 'hedge.toml'), `
listen = "127.0.0.1:0"
[offline]
enabled = false
[admin]
listen = "127.0.0.1:${this.port}"
tokens = [{ name = "script", role = "operator", secret = "env:ADMIN_TOKEN" }]
[admin.oidc]
issuer = "${provided.issuer}"
client_id = "${provided.client.id}"
client_secret = "file:${join(this.folder, 'client-secret')}"
redirect_url = "${redirectUrl}"
roles_claim = "groups"
roles = [
  { role = "operator", claim = "hedge-operators" },
  { role = "viewer", email = "vera@acme.example" },
]
${more}
`);
    this.keepSecret(provided.client.secret);
  }

  keepSecret(secret) {
    writeFileSync(join(this.folder, 'client-secret'), `${secret}\n`);
  }

  #env() {
    return { ...process.env, XDG_DATA_HOME: this.folder, ADMIN_TOKEN: TOKEN };
  }

  async start() {
    const shell = ['-c', 'exec "$0" serve --config "$1" 2>>"$2" >>"$2"', this.#hedge, join(this.folder, 'hedge.toml'), join(this.folder, 'log')];
    this.#child = spawn('sh', shell, { env: this.#env(), stdio: 'ignore' });
    const alive = async () => (await fetch(`${this.home}/healthz`).catch(() => ({}))).ok;
    await eventually(alive, 60).catch((error) => { throw new Error(`the node did not start: ${this.log()}`, { cause: error }); });
  }

  async reload() {
    const count = () => this.log().split('configuration reloaded').length;
    const before = count();
    this.#child.kill('SIGHUP');
    await eventually(() => count() > before);
  }

  async stop() {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    await ended;
  }

  async end() {
    await this.stop();
    rmSync(this.folder, { recursive: true });
  }

  log() {
    return readFileSync(join(this.folder, 'log'), 'utf8');
  }

  audit() {
    const file = join(this.folder, 'hedge/audit/audit-00000001.jsonl');
    return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line)) : [];
  }

  // A command of hedge's.
  async run(...args) {
    const child = spawn(this.#hedge, [...args, '--config', join(this.folder, 'hedge.toml')], { env: this.#env() });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (it) => { text += it; });
    await once(child, 'close');
    return text;
  }
}
