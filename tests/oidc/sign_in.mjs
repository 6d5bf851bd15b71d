// sign_in.mjs HEDGE: people sign in to a node by oidc-provider, by HTTP and in Chromium. OIDC_SHOTS names a folder
// for pictures.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { Checks } from '../clients/checks.mjs';
import { Browser } from './browser.mjs';
import { freePort, Front, Node, TOKEN } from './node.mjs';
import { Provided } from './provider.mjs';

const [hedge] = process.argv.slice(2);
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SESSION = 'hedge-session';
const JSON_TYPE = { 'content-type': 'application/json', accept: 'application/json' };

const node = new Node(hedge, await freePort());
const front = new Front(await freePort());
const provided = new Provided(await freePort(), [node.redirectUrl, front.redirectUrl]);
node.configure(provided);
const page = `${node.home}/admin`;
const seen = new Set();
const secrets = (...all) => all.forEach((it) => seen.add(it));

// Somebody in a browser of his own, signed in.
async function signedIn(name) {
  const browser = new Browser();
  const back = await browser.goToProvider(page, name);
  const answer = await browser.ask(back);
  assert.equal(answer.status, 303, await answer.text());
  assert.equal(answer.headers.get('location'), '/admin');
  secrets(new URL(back).searchParams.get('code'), browser.cookies('localhost').get(SESSION));
  return browser;
}

const told = async (answer) => {
  const { error } = await answer.json();
  return [answer.status, error.code];
};
const who = async (browser) => (await browser.ask(`${page}/v1/operator`)).json();
const from = (origin) => ({ ...JSON_TYPE, origin });
const makeKey = (browser, name, headers) =>
  browser.ask(`${page}/v1/keys`, { method: 'POST', headers, body: JSON.stringify({ team: 'default', name }) });

const STEPS = {
  // It is asked of nobody before somebody signs in, and its own start does not wait for it.
  async a_node_starts_without_its_provider_and_says_so_to_whoever_would_sign_in() {
    const browser = new Browser();
    const begun = Date.now();
    const answer = await browser.ask(`${page}/login`, { headers: JSON_TYPE });
    assert.ok(Date.now() - begun < 12_000);
    assert.ok(Number(answer.headers.get('retry-after')) > 0);
    assert.deepEqual(await told(answer), [503, 'sign_in_away']);
    const shown = await browser.ask(`${page}/login`);
    assert.equal(shown.status, 503);
    assert.match(await shown.text(), /<title>hedge: Not signed in<\/title>/);
    const token = await fetch(`${page}/v1/operator`, { headers: { authorization: `Bearer ${TOKEN}` } });
    assert.deepEqual(await token.json(), { name: 'script', role: 'operator', known_by: 'token' });
    await provided.start();
  },

  async a_group_makes_an_operator_whose_changes_bear_his_name() {
    const olga = await signedIn('olga');
    assert.deepEqual(await who(olga), { name: 'oidc:olga', role: 'operator', known_by: 'session' });
    const made = await makeKey(olga, 'of-olga', from(node.home));
    assert.equal(made.status, 201);
    secrets((await made.json()).secret);
    const lines = node.audit().map(({ who: name, what, id }) => [name, what, id].join(' '));
    assert.ok(lines.includes('oidc:olga session.begin operator'), lines.join('\n'));
    assert.ok(lines.includes('oidc:olga key.create of-olga'), lines.join('\n'));
  },

  async a_verified_address_makes_a_viewer_who_changes_nothing() {
    const vera = await signedIn('vera');
    assert.equal((await who(vera)).role, 'viewer');
    assert.equal((await vera.ask(`${page}/v1/keys`)).status, 200);
    assert.deepEqual(await told(await makeKey(vera, 'of-vera', from(node.home))), [403, 'forbidden']);
  },

  async an_address_that_is_not_verified_and_a_group_that_is_nearly_one_let_nobody_in() {
    const mallory = new Browser();
    const back = await mallory.goToProvider(page, 'mallory');
    assert.deepEqual(await told(await mallory.ask(back, { headers: JSON_TYPE })), [403, 'no_role']);
    assert.equal(mallory.cookies('localhost').size, 0);
  },

  async whoever_says_no_at_the_provider_is_not_signed_in() {
    const browser = new Browser();
    const back = await browser.goToProvider(page, 'olga', { denies: true });
    assert.equal(new URL(back).searchParams.get('error'), 'access_denied');
    assert.deepEqual(await told(await browser.ask(back, { headers: JSON_TYPE })), [403, 'sign_in_denied']);
  },

  async the_way_back_is_good_once_and_in_the_browser_that_set_out() {
    const olga = new Browser();
    const back = await olga.goToProvider(page, 'olga');
    const victim = new Browser();
    await victim.ask(`${page}/login`);
    for (const other of [new Browser(), victim]) {
      assert.deepEqual(await told(await other.ask(back, { headers: JSON_TYPE })), [400, 'sign_in_stale']);
      assert.equal(other.cookies('localhost').has(SESSION), false);
    }
    const ticket = olga.cookies('localhost').get('hedge-sign-in');
    assert.equal((await olga.ask(back)).status, 303);
    const again = { headers: { ...JSON_TYPE, cookie: `hedge-sign-in=${ticket}` } };
    assert.deepEqual(await told(await new Browser().ask(back, again)), [400, 'sign_in_stale']);
  },

  // As one that was read in a log: its browser is right, and the verifier is another's.
  async a_code_of_somebody_else_is_refused_by_the_provider() {
    const olga = new Browser();
    const stolen = new URL(await olga.goToProvider(page, 'olga')).searchParams.get('code');
    const mallory = new Browser();
    const back = new URL(await mallory.goToProvider(page, 'mallory'));
    back.searchParams.set('code', stolen);
    assert.deepEqual(await told(await mallory.ask(back.href, { headers: JSON_TYPE })), [403, 'sign_in_unproven']);
    secrets(stolen);
  },

  async a_return_that_another_issuer_sent_is_not_shown_to_this_one() {
    const olga = new Browser();
    const back = new URL(await olga.goToProvider(page, 'olga'));
    assert.equal(back.searchParams.get('iss'), provided.issuer);
    back.searchParams.set('iss', 'https://login.evil.example');
    assert.deepEqual(await told(await olga.ask(back.href, { headers: JSON_TYPE })), [403, 'sign_in_unproven']);
  },

  async no_other_origin_can_use_a_session() {
    const olga = await signedIn('olga');
    const others = ['http://127.0.0.1:1', `http://localhost:${provided.port}`, 'null', 'https://localhost'];
    for (const origin of others) {
      assert.deepEqual(await told(await makeKey(olga, 'forged', from(origin))), [403, 'forbidden'], origin);
    }
    assert.deepEqual(await told(await makeKey(olga, 'forged', JSON_TYPE)), [403, 'forbidden']);
    const keys = await (await olga.ask(`${page}/v1/keys`)).json();
    assert.deepEqual(keys.keys.map((it) => it.name), ['of-olga']);
  },

  async keys_that_the_provider_changes_are_learned_by_the_way() {
    for (const options of [{ alg: 'ES256' }, { alg: 'PS256', inToken: true }, { alg: 'RS256' }]) {
      await provided.stop();
      await provided.start(options);
      assert.equal((await who(await signedIn('olga'))).role, 'operator', JSON.stringify(options));
    }
  },

  async a_provider_that_goes_away_leaves_sessions_and_tokens_as_they_are() {
    const olga = await signedIn('olga');
    const late = new Browser();
    const back = await late.goToProvider(page, 'vera');
    await provided.stop();
    assert.deepEqual(await told(await late.ask(back, { headers: JSON_TYPE })), [503, 'sign_in_away']);
    assert.equal((await who(olga)).role, 'operator');
    const token = await fetch(`${page}/v1/keys`, { headers: { authorization: `Bearer ${TOKEN}` } });
    assert.equal(token.status, 200);
    await provided.start();
  },

  async what_changes_of_the_configuration_ends_sessions_and_what_does_not_leaves_them() {
    const olga = await signedIn('olga');
    await node.reload();
    assert.equal((await who(olga)).name, 'oidc:olga');
    node.keepSecret('another-client-secret');
    await node.reload();
    assert.equal((await olga.ask(`${page}/v1/operator`)).status, 401);
    const browser = new Browser();
    const back = await browser.goToProvider(page, 'olga');
    assert.deepEqual(await told(await browser.ask(back, { headers: JSON_TYPE })), [502, 'sign_in_unusable']);
    assert.match(node.log(), /look at client_id and client_secret/);
    node.configure(provided, { more: 'named_by = "email"\nsession_s = 600' });
    await node.reload();
    assert.equal((await who(await signedIn('olga'))).name, 'oidc:olga@acme.example');
    secrets('another-client-secret');
  },

  async nothing_secret_is_in_the_log_in_what_is_shown_or_in_the_audit_log() {
    secrets(provided.client.secret, 'the-client-secret', TOKEN);
    const shown = await node.run('config', 'show');
    assert.match(shown, /127\.0\.0\.1/);
    for (const text of [node.log(), shown, JSON.stringify(node.audit())]) {
      for (const secret of seen) assert.ok(!text.includes(secret), secret);
    }
    assert.ok(seen.size > 10);
    assert.match(node.log(), /operator signed in/);
    assert.match(await node.run('audit', 'verify'), /changes by operators/);
  },
};

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP hedge.example 127.0.0.1'],
});

async function fillIn(tab, name) {
  await tab.locator('[name=login]').fill(name);
  await tab.locator('[name=password]').fill('any');
  await tab.getByRole('button', { name: 'Sign-in' }).click();
  await tab.getByRole('button', { name: 'Continue' }).click();
}

// Somebody in front of the operator's page.
async function visit(name, address = page) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const tab = await context.newPage();
  await tab.goto(address);
  assert.equal(new URL(tab.url()).origin, provided.issuer);
  await fillIn(tab, name);
  await tab.getByText('Up to date', { exact: true }).waitFor();
  return { context, tab };
}

async function grave(tab) {
  const session = await tab.context().newCDPSession(tab);
  await session.send('Runtime.evaluate', { expression: AXE });
  const found = await session.send('Runtime.evaluate', { expression: 'axe.run(document)', awaitPromise: true, returnByValue: true });
  return found.result.value.violations.filter((it) => ['serious', 'critical'].includes(it.impact)).map((it) => it.help);
}

async function picture(tab, name) {
  if (!process.env.OIDC_SHOTS) return;
  mkdirSync(process.env.OIDC_SHOTS, { recursive: true });
  await tab.screenshot({ path: `${process.env.OIDC_SHOTS}/${name}.png` });
}

const CHROMIUM = {
  async a_person_signs_in_sees_who_he_is_and_signs_out() {
    const { context, tab } = await visit('olga');
    assert.equal(tab.url(), page);
    assert.equal(await tab.locator('#operator').innerText(), 'oidc:olga@acme.example (operator)');
    assert.deepEqual(await grave(tab), []);
    await picture(tab, 'signed-in');
    // Out of reach of scripts, and of this host alone.
    assert.equal(await tab.evaluate(() => document.cookie), '');
    const kept = (await context.cookies(node.home)).find((it) => it.name === SESSION);
    assert.deepEqual([kept.httpOnly, kept.sameSite, kept.path, kept.domain], [true, 'Lax', '/', 'localhost']);
    await tab.getByRole('button', { name: 'Sign out' }).click();
    await tab.getByRole('heading', { name: 'Signed out' }).waitFor();
    assert.equal(tab.url(), `${page}/signed-out`);
    assert.deepEqual(await grave(tab), []);
    await picture(tab, 'signed-out');
    assert.deepEqual((await context.cookies(node.home)).map((it) => it.name), []);
    const old = await fetch(`${page}/v1/operator`, { headers: { cookie: `${SESSION}=${kept.value}` } });
    assert.equal(old.status, 401);
    // The provider still knows him.
    await tab.getByRole('link', { name: 'Sign in again' }).click();
    await tab.getByText('Up to date', { exact: true }).waitFor();
    await context.close();
  },

  async a_page_whose_session_is_over_says_so() {
    const { context, tab } = await visit('vera');
    await context.clearCookies({ name: SESSION });
    await tab.getByRole('link', { name: 'Sign in again' }).waitFor({ timeout: 20_000 });
    assert.match(await tab.locator('#state').innerText(), /^Not up to date: .* status 401/);
    await tab.getByRole('link', { name: 'Sign in again' }).click();
    await tab.getByText('Up to date', { exact: true }).waitFor();
    await context.close();
  },

  async whoever_has_no_role_is_told_so_on_a_page() {
    const context = await browser.newContext();
    const tab = await context.newPage();
    await tab.goto(page);
    await fillIn(tab, 'mallory');
    await tab.getByRole('heading', { name: 'Not signed in' }).waitFor();
    assert.match(await tab.locator('main').innerText(), /you have no role here/);
    assert.deepEqual(await grave(tab), []);
    await picture(tab, 'no-role');
    await context.close();
  },

  // Of another site, which gets no cookie sent along, and of another port of the same, which does.
  async a_page_of_somebody_else_changes_nothing() {
    const { context, tab } = await visit('olga');
    const sent = [];
    const form = (path, body) => `<form method="post" enctype="text/plain" action="${page}${path}">${body}</form>`;
    const server = createServer((request, answer) => {
      answer.setHeader('content-type', 'text/html');
      answer.end(`${form('/logout', '')}<script>document.forms[0].submit()</script>`);
    }).listen(await freePort(), '127.0.0.1');
    await once(server, 'listening');
    tab.on('request', (request) => { if (request.method() === 'POST') sent.push(request.allHeaders()); });
    for (const host of ['127.0.0.1', 'localhost']) {
      const evil = await context.newPage();
      evil.on('request', (request) => { if (request.method() === 'POST') sent.push(request.allHeaders()); });
      const refused = evil.waitForResponse((it) => it.request().method() === 'POST');
      await evil.goto(`http://${host}:${server.address().port}/`).catch(() => {});
      assert.equal((await refused).status(), 403, host);
      await evil.close();
    }
    const cookies = (await Promise.all(sent)).map((it) => (it.cookie ?? '').includes(SESSION));
    assert.deepEqual(cookies, [false, true]);
    server.close();
    const { name } = await tab.evaluate(async () => (await fetch('/admin/v1/operator')).json());
    assert.equal(name, 'oidc:olga@acme.example');
    await context.close();
  },
};

// The name is none that the node is told of elsewhere.
const HTTPS = {
  async behind_a_proxy_cookies_are_secure_and_of_this_host_alone() {
    await front.start(node);
    node.configure(provided, { redirectUrl: front.redirectUrl });
    await node.reload();
    const { context, tab } = await visit('olga', `${front.origin}/admin`);
    assert.equal(tab.url(), `${front.origin}/admin`);
    const [kept] = await context.cookies(front.origin);
    assert.deepEqual([kept.name, kept.secure, kept.httpOnly, kept.sameSite, kept.domain],
      ['__Host-hedge-session', true, true, 'Lax', 'hedge.example']);
    // What the page itself sends passes, with the `Origin` that a browser writes.
    const status = await tab.evaluate(async () => {
      const headers = { 'content-type': 'application/json' };
      const body = JSON.stringify({ team: 'default', name: 'by-https' });
      return (await fetch('/admin/v1/keys', { method: 'POST', headers, body })).status;
    });
    assert.equal(status, 201);
    await tab.getByRole('button', { name: 'Sign out' }).click();
    await tab.getByRole('heading', { name: 'Signed out' }).waitFor();
    assert.deepEqual(await context.cookies(front.origin), []);
    await context.close();
    front.end();
  },
};

await node.start();
const check = new Checks('oidc');
check.add(STEPS);
check.add(CHROMIUM);
check.add(HTTPS);
await check.run();
if (process.exitCode) console.log(node.log());
await browser.close();
await provided.stop().catch(() => {});
await node.end();
