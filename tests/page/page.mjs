// page.mjs HEDGE FAKE_UPSTREAM: the page at /admin in Chromium, as a reader and a keyboard have it. Its figures
// against what records.py makes of the records; axe-core; nothing asked of anybody else. PAGE_SHOTS names a folder
// for pictures of it.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { Checks, eventually } from '../clients/checks.mjs';
import { MARKUP, Node, ZONE } from './node.mjs';

const [hedge, fakeUpstream] = process.argv.slice(2);
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const PLACES = ['cache', 'local', 'upstream', 'nobody'];
const SAVERS = ['cache', 'fallback', 'local', 'upstream', 'none'];
const REQUESTS = 560;
const LATER = 25;
// Rows of the last requests that are in a picture.
const PICTURED = 9;
// Of what is shown to what is recomputed.
const WITHIN = 0.01;
const LOOKS = {
  light: { colorScheme: 'light', viewport: { width: 1280, height: 900 } },
  dark: { colorScheme: 'dark', viewport: { width: 1280, height: 900 } },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true },
  narrow: { colorScheme: 'dark', viewport: { width: 320, height: 640 } },
};

const node = await Node.begin(hedge, fakeUpstream);
await node.start();
await node.fill(0, REQUESTS);
await node.stop();
node.spread();
await node.start();
await node.fill(REQUESTS, LATER);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const check = new Checks('page');

// The page in a look, filled in, with everything about it that should not be.
async function open(look) {
  const context = await browser.newContext(LOOKS[look]);
  const page = await context.newPage();
  const faults = [];
  page.on('console', (it) => { if (['error', 'warning'].includes(it.type())) faults.push(`${it.type()}: ${it.text()}`); });
  page.on('pageerror', (error) => faults.push(`thrown: ${error}`));
  page.on('request', (it) => { if (new URL(it.url()).origin !== node.admin && !it.url().startsWith('data:')) faults.push(`asked ${it.url()}`); });
  page.on('response', (it) => { if (!it.ok()) faults.push(`${it.status()} of ${it.url()}`); });
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (it) => console.error(`policy: ${it.violatedDirective} ${it.blockedURI}`));
  });
  await page.goto(`${node.admin}/admin`);
  await page.getByText('Up to date', { exact: true }).waitFor();
  return { page, faults, close: () => context.close() };
}

// Of an element or a table's body: its text, or that of its rows' cells.
const text = (page, id) => page.locator(`#${id}`).innerText();
const cells = (page, id) => page.locator(`#${id} tr`).evaluateAll((rows) =>
  rows.map((row) => [...row.children].map((cell) => cell.textContent)));

const number = (shown) => Number(shown.replace('−', '-').replace(/[^0-9.-]/g, ''));
function near(shown, wanted, what) {
  assert.ok(/\d/.test(shown), `${what}: "${shown}" is no figure`);
  assert.ok(Math.abs(number(shown) - wanted) <= Math.abs(wanted) * WITHIN, `${what}: "${shown}" is not ${wanted}`);
}
const dollars = (shown, micros, what) => {
  assert.match(shown, /\$/, what);
  near(shown, micros / 1e6, what);
};
const exact = (shown, wanted, what) => assert.equal(number(shown), wanted, `${what}: "${shown}"`);

// Requests of all these hours that were answered in these places.
const inAll = (hours, places = PLACES) =>
  hours.reduce((all, hour) => places.reduce((sum, place) => sum + hour[place], all), 0);

// Both as of one moment: an hour may begin between them.
async function shownAndWanted(read) {
  for (let tries = 0; tries < 3; tries += 1) {
    const before = node.figures();
    const { page, close } = await open('light');
    const shown = await read(page);
    await close();
    const after = node.figures();
    if (JSON.stringify(before) === JSON.stringify(after)) return [shown, after];
  }
  throw new Error('the records do not come to rest');
}

const FIGURES = {
  async the_money_is_what_the_records_come_to() {
    const [shown, wanted] = await shownAndWanted(async (page) => ({
      today: await text(page, 'saved-today'), month: await text(page, 'saved-month'),
      besideToday: await text(page, 'spent-today'), besideMonth: await text(page, 'spent-month'),
      by: await cells(page, 'by'),
    }));
    const { today, month } = wanted;
    assert.ok(today.saved > 0 && today.requests < month.requests && month.requests < wanted.records, 'all differ');
    dollars(shown.today, today.saved, 'saved today');
    dollars(shown.month, month.saved, 'saved in 30 days');
    const amounts = (words) => words.match(/[−]?\$[0-9.,]*[0-9]/g);
    amounts(shown.besideToday).forEach((it, at) => dollars(it, [today.elsewhere, today.spent][at], 'beside today'));
    amounts(shown.besideMonth).forEach((it, at) => dollars(it, [month.elsewhere, month.spent][at], 'beside 30 days'));
    assert.match(shown.besideMonth, new RegExp(`${month.compared} of ${month.requests} requests`));
    assert.equal(shown.by.length, SAVERS.length + 1);
    [...SAVERS.map((saver) => wanted.by[saver]), month].forEach((sum, at) => {
      const [name, requests, compared, spent, elsewhere, saved] = shown.by[at];
      exact(requests, sum.requests, name);
      exact(compared, sum.compared, name);
      dollars(spent, sum.compared_spent, name);
      dollars(elsewhere, sum.elsewhere, name);
      dollars(saved, sum.saved, name);
    });
    for (const saver of SAVERS) assert.ok(wanted.by[saver].requests > 0, saver);
  },

  async the_share_of_the_cache_is_that_of_the_records() {
    const [shown, wanted] = await shownAndWanted(async (page) =>
      ({ share: await text(page, 'cache-share'), count: await text(page, 'cache-count') }));
    near(shown.share, 100 * wanted.by.cache.requests / wanted.answered, 'share');
    assert.equal(shown.count, `${wanted.by.cache.requests} of ${wanted.answered} answers`);
  },

  async the_hours_are_those_of_the_records_as_table_and_as_bars() {
    const [shown, wanted] = await shownAndWanted(async (page) => {
      await page.getByText('The same as a table').click();
      const bars = await page.locator('#chart .hour').evaluateAll((hours) => hours.map((hour) =>
        Object.fromEntries([...hour.querySelectorAll('i')].map((bar) => [bar.className, bar.getBoundingClientRect().height]))));
      return { table: await cells(page, 'hours'), bars, all: await text(page, 'day-count'), refused: await text(page, 'day-refused') };
    });
    assert.equal(shown.table.length, 24);
    wanted.hours.forEach((hour, at) => {
      assert.deepEqual(shown.table[at].slice(1, 5).map(number), PLACES.map((place) => hour[place]), shown.table[at][0]);
    });
    exact(shown.all, inAll(wanted.hours), 'requests in 24 hours');
    exact(shown.refused, inAll(wanted.hours, ['nobody']), 'answered by nobody');
    // Bars are as long as they say, to a pixel.
    const flat = wanted.hours.flatMap((hour, at) => PLACES.map((place) => [hour[place], shown.bars[at][place] ?? 0]));
    const [most, longest] = flat.reduce((best, one) => (one[0] > best[0] ? one : best));
    for (const [count, height] of flat) {
      assert.ok(Math.abs(height - Math.max(count && 2, longest * count / most)) <= 1, `${count} requests are ${height} px`);
    }
  },

  async latency_and_teams_are_those_of_the_records() {
    const [shown, wanted] = await shownAndWanted(async (page) =>
      ({ latency: await cells(page, 'latency'), teams: await cells(page, 'teams') }));
    const places = PLACES.filter((place) => wanted.latency[place].answers > 0);
    assert.deepEqual(places, ['cache', 'local', 'upstream']);
    assert.equal(shown.latency.length, places.length);
    places.forEach((place, row) => {
      const [name, answers, ...times] = shown.latency[row];
      exact(answers, wanted.latency[place].answers, name);
      times.forEach((time, at) => near(time, wanted.latency[place].times[at] / 1000, `${name}, column ${at}`));
    });
    assert.equal(shown.teams.length, Object.keys(wanted.teams).length);
    let before = Infinity;
    for (const [team, requests, input, output, spent] of shown.teams) {
      const sum = wanted.teams[team];
      exact(requests, sum.requests, team);
      exact(input, sum.input_tokens, team);
      exact(output, sum.output_tokens, team);
      dollars(spent, sum.spent, team);
      assert.ok(sum.spent <= before, 'those that spent most come first');
      before = sum.spent;
    }
  },

  // Records were put into other days, and what was used of the month was not: it is what all of them come to.
  async what_was_spent_of_budgets_is_what_the_records_come_to() {
    const [shown, wanted] = await shownAndWanted((page) => cells(page, 'limits'));
    const rows = new Map(shown.map(([whose, what, used, left]) => [`${whose}, ${what}`, [...used.split(' of '), left]]));
    const budgets = [['everybody', 50, wanted.spent_in_all], ['team research', 2.5, wanted.spent_by_teams.research],
      ['team support', 2, wanted.spent_by_teams.support]];
    for (const [whose, usd, spent] of budgets) {
      const [used, of, left] = rows.get(`${whose}, cost per month`);
      dollars(used, spent, whose);
      dollars(of, usd * 1e6, whose);
      dollars(left, usd * 1e6 - spent, whose);
    }
    assert.deepEqual(rows.get('key trial, requests per day'), ['3', '3', '0']);
  },

  async the_last_requests_are_those_of_the_records() {
    const [shown, wanted] = await shownAndWanted((page) => cells(page, 'last'));
    assert.equal(shown.length, wanted.last.length);
    wanted.last.forEach((it, at) => {
      const [ended, , reason, asked, team, , tokens, cost, took] = shown[at];
      assert.equal(ended, it.local);
      assert.deepEqual([reason, asked, team], [it.reason || '–', it.model_asked, it.team]);
      if (it.tokens[0] !== null) assert.deepEqual(tokens.split(' + ').map(number), it.tokens);
      if (cost !== '–') dollars(cost, it.cost, asked);
      near(took, it.took / 1000, asked);
    });
    assert.ok(wanted.last.some((it) => it.model_asked === MARKUP), 'a name that is markup is among them');
  },
};

async function findings(page) {
  const session = await page.context().newCDPSession(page);
  await session.send('Runtime.evaluate', { expression: AXE });
  const found = await session.send('Runtime.evaluate', { expression: 'axe.run(document)', awaitPromise: true, returnByValue: true });
  const { violations, passes } = found.result.value;
  assert.ok(passes.length > 20, 'rules were applied');
  return violations.map((it) => ({ id: it.id, impact: it.impact, help: it.help, at: it.nodes.map((one) => `${one.target}: ${one.failureSummary}`) }));
}

const READING = {
  async axe_finds_nothing_serious(look) {
    const { page, close } = await open(look);
    const closed = await findings(page);
    await page.locator('details').evaluateAll((all) => all.forEach((it) => { it.open = true; }));
    const found = [...closed, ...await findings(page)];
    await close();
    const grave = found.filter((it) => ['serious', 'critical'].includes(it.impact));
    for (const it of found) console.log(`        ${look}: ${it.impact}: ${it.id}: ${it.help}`);
    assert.deepEqual(grave, []);
  },

  async nothing_is_asked_of_others_and_nothing_complains(look) {
    const { page, faults, close } = await open(look);
    await page.locator('details').evaluateAll((all) => all.forEach((it) => { it.open = true; }));
    const title = await page.title();
    const images = await page.locator('img').count();
    await close();
    assert.deepEqual(faults, []);
    assert.deepEqual([title, images], ['hedge', 0]);
  },

  async the_page_is_no_wider_than_the_window(look) {
    const { page, close } = await open(look);
    await page.locator('details').evaluateAll((all) => all.forEach((it) => { it.open = true; }));
    const [width, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    await close();
    assert.ok(width <= window, `${width} of ${window}`);
    assert.equal(window, LOOKS[look].viewport.width);
  },

  async all_of_it_is_reached_by_keyboard_and_the_focus_is_seen(look) {
    const { page, close } = await open(look);
    const wanted = await page.evaluate(() => {
      const all = [...document.querySelectorAll('a, summary, button, .scroll')];
      return all.filter((it) => it.checkVisibility() && !it.closest('details:not([open]) > :not(summary)')).length;
    });
    const stops = [];
    for (;;) {
      await page.keyboard.press('Tab');
      const stop = await page.evaluate(() => {
        const it = document.activeElement;
        if (it === document.body) return null;
        const { outlineStyle, outlineWidth } = getComputedStyle(it);
        const box = it.getBoundingClientRect();
        const isThere = box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight;
        return { is: `${it.tagName} ${it.textContent.slice(0, 30)}`, isSeen: outlineStyle !== 'none' && outlineWidth !== '0px' && isThere };
      });
      if (stop === null || stops.length > 50) break;
      stops.push(stop);
    }
    assert.equal(stops.length, wanted);
    assert.match(stops[0].is, /Skip to the figures/);
    assert.deepEqual(stops.filter((it) => !it.isSeen), []);
    // What is wider than its box can be moved by keys, so it must be one of the stops.
    const hidden = await page.locator('body *').evaluateAll((all) => all.filter((it) =>
      it.scrollWidth > it.clientWidth + 1 && getComputedStyle(it).overflowX === 'auto' && it.tabIndex < 0).length);
    assert.equal(hidden, 0);
    await close();
  },
};

const ACTING = {
  async the_skip_link_and_the_details_work_by_keyboard() {
    const { page, close } = await open('light');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
    const method = page.locator('#method');
    assert.equal(await method.isVisible(), false);
    await page.getByText('How this is computed').focus();
    await page.keyboard.press('Enter');
    assert.equal(await method.isVisible(), true);
    assert.match(await method.innerText(), /counterfactual/);
    assert.match(await text(page, 'reference'), /acme\/large/);
    await close();
  },

  async what_can_answer_and_the_models_here_are_shown() {
    const { page, close } = await open('light');
    const health = await (await fetch(`${node.admin}/admin/health`)).json();
    const shown = await cells(page, 'health');
    assert.deepEqual(shown.map((row) => row[0]), health.backends.map((it) => it.name));
    const failed = shown.find((row) => row[0] === 'spare');
    assert.ok(/^[1-9]\d* of [1-9]\d*$/.test(failed[3]), failed.join());
    const board = await (await fetch(`${node.admin}/admin/v1/models`)).json();
    const models = await cells(page, 'models');
    assert.equal(models.length, board.models.length);
    assert.match(models[0][2], /^\d+ of [1-9]\d*$/);
    near(models[0][5], board.models[0].reply_tokens_per_s, 'tokens a second');
    await close();
  },

  async it_is_renewed_by_itself_and_says_when_it_is_not() {
    const { page, close } = await open('light');
    const before = number(await text(page, 'day-count'));
    await node.fill(REQUESTS + LATER, 3);
    // Not three more than before: where an hour begins meanwhile, the oldest one's are gone.
    let shown = before;
    await eventually(async () => {
      shown = number(await text(page, 'day-count'));
      return shown !== before && shown === inAll(node.figures().hours);
    }, 15);
    await node.stop();
    await page.getByText(/^Not up to date: /).waitFor({ timeout: 20_000 });
    // What was known stays.
    exact(await text(page, 'day-count'), shown, 'requests');
    await close();
    await node.start();
  },
};

async function shots(folder) {
  mkdirSync(folder, { recursive: true });
  for (const look of ['light', 'dark', 'phone']) {
    const { page, close } = await open(look);
    const session = await page.context().newCDPSession(page);
    const { width } = page.viewportSize();
    const last = await page.locator(`#last tr:nth-child(${PICTURED})`).boundingBox();
    const clip = { x: 0, y: 0, width, height: Math.floor(last.y + last.height), scale: 1 };
    const taken = await session.send('Page.captureScreenshot', { format: 'webp', quality: 80, clip, captureBeyondViewport: true });
    writeFileSync(`${folder}/admin-${look}.webp`, Buffer.from(taken.data, 'base64'));
    await close();
  }
}

if (process.env.PAGE_SHOTS) await shots(process.env.PAGE_SHOTS);
check.add(FIGURES);
check.each(Object.keys(LOOKS), READING);
check.add(ACTING);
await check.run();
await browser.close();
await node.end();
