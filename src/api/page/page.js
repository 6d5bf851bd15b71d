"use strict";
// Everything is put in as text, never as markup: names of models are callers' words.

const EVERY_MS = 10000;
const PLACES = { cache: "the cache", local: "this machine or a pool", upstream: "an upstream", nobody: "nobody" };
const SAVERS = { cache: "the cache", local: "this machine or a pool", fallback: "a fallback", upstream: "another upstream", shadow: "answers checked in the cloud", none: "nobody answered" };
const find = (id) => document.getElementById(id);
const whole = (count) => count.toLocaleString("en-US");
const NOTHING = "–";

function make(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Decimals with which the least of these amounts, in micro-dollars, has three digits that say something;
// with six of them all is said.
function decimals(amounts) {
  const sizes = amounts.filter((micros) => micros !== null && micros !== 0).map((micros) => Math.abs(micros) / 1e6);
  const least = Math.min(...sizes);
  return sizes.length === 0 ? 2 : Math.min(6, Math.max(2, 2 - Math.floor(Math.log10(least))));
}

// Integers of micro-dollars; exact as far as a double is, which is nine billion dollars.
function money(micros, digits = decimals([micros])) {
  if (micros === null) return NOTHING;
  if (micros === 0) return "$0";
  const dollars = Math.abs(micros) / 1e6;
  const sign = micros < 0 ? "−" : "";
  return sign + "$" + dollars.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// Three digits at least.
function ms(micros) {
  if (micros === null) return NOTHING;
  const time = micros / 1000;
  const digits = time >= 100 ? 0 : time >= 10 ? 1 : time >= 1 ? 2 : 3;
  return time.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function size(bytes) {
  if (bytes === null) return NOTHING;
  const mib = bytes / 1048576;
  return mib < 1024 ? whole(Math.ceil(mib)) + " MiB" : (mib / 1024).toFixed(1) + " GiB";
}

// Three digits, or all before the point.
function per(rate) {
  const digits = rate >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 };
  return rate === null ? NOTHING : rate.toLocaleString("en-US", digits);
}

// A bar of what is used, from 0 to 1. It is beside the numbers and never instead.
function fill(meter, share) {
  const used = Math.min(1, Math.max(0, share));
  meter.firstChild.style.width = 100 * used + "%";
  return meter;
}

function meter(share, kind) {
  const made = make("span", "meter" + (kind ? " " + kind : ""));
  made.append(make("i"));
  return fill(made, share);
}

// A cell is its text, or that with what stands before it and how it is set.
function row(cells, kind) {
  const line = make("tr", kind);
  cells.forEach((cell, at) => {
    const { text, words, before } = typeof cell === "object" ? cell : { text: cell };
    const box = make(at === 0 ? "th" : "td", words ? "words" : "");
    if (at === 0) box.scope = "row";
    if (words) box.title = text;
    if (before) box.append(before);
    box.append(text);
    line.append(box);
  });
  return line;
}

const words = (text, before) => ({ text, before, words: true });
const mark = (place) => make("span", "mark " + place);

function put(id, rows, nothing) {
  const table = find(id);
  if (rows.length === 0) {
    const line = make("tr");
    const box = make("td", "none", nothing);
    box.colSpan = 99;
    line.append(box);
    rows = [line];
  }
  table.replaceChildren(...rows);
}

function showSaved(today, month) {
  for (const [id, told] of [["today", today], ["month", month]]) {
    const { saved_microusd: saved, counterfactual_microusd: elsewhere, compared_requests: compared } = told.total;
    find("saved-" + id).textContent = money(saved);
    find("spent-" + id).textContent = id === "today"
      ? "of " + money(elsewhere) + "; " + money(told.spent_microusd) + " spent"
      : "of " + money(elsewhere) + " that " + whole(compared) + " of " + whole(told.total.requests)
        + " requests would have cost elsewhere; " + money(told.spent_microusd) + " spent";
  }
  fill(find("saved-meter"), month.total.saved_microusd / (month.total.counterfactual_microusd || 1));
  const sums = [...month.saved_by.map(([, sum]) => sum), month.total];
  const digits = decimals(sums.flatMap((sum) =>
    [sum.compared_spent_microusd, sum.counterfactual_microusd, sum.saved_microusd]));
  const part = (sum, name, kind) => row([name, whole(sum.requests), whole(sum.compared_requests),
    money(sum.compared_spent_microusd, digits), money(sum.counterfactual_microusd, digits), money(sum.saved_microusd, digits)], kind);
  const ways = month.saved_by.filter(([label]) => label !== "shadow" || month.shadow.asked > 0);
  const parts = ways.map(([label, sum]) => part(sum, SAVERS[label] ?? label));
  put("by", [...parts, part(month.total, "all", "total")]);
  const of = (wanted) => month.saved_by.find(([label]) => label === wanted)[1].requests;
  const answered = month.total.requests - of("none");
  find("cache-share").textContent = answered ? (100 * of("cache") / answered).toFixed(1) + " %" : NOTHING;
  find("cache-count").textContent = whole(of("cache")) + " of " + whole(answered) + " answers";
  find("method").textContent = month.method;
  const { shadow } = month;
  const told = shadow.agreed + shadow.differed;
  find("shadow").hidden = shadow.asked === 0;
  find("shadow").textContent = whole(shadow.asked) + " answers of this machine were asked for again in the cloud, for "
    + money(shadow.spent_microusd) + ". " + (told === 0 ? "Of none it can be told whether they agree."
    : (100 * shadow.agreed / told).toFixed(1) + " % agree of the " + whole(told) + " of which that can be told.");
  find("reference").textContent = month.reference_model
    ? "The reference model is " + month.reference_model + "."
    : "No savings.reference_model is set: what this machine answered without a model of a price being asked for is not compared.";
}

// The least of 1, 2 and 5 times a power of ten that four steps of reach that far.
function step(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, most / 4)));
  return [1, 2, 5, 10].map((by) => by * power).find((size) => size * 4 >= most);
}

function showHours(hours) {
  const places = Object.keys(PLACES);
  find("legend").replaceChildren(...places.map((place) => {
    const entry = make("li");
    entry.append(mark(place), PLACES[place]);
    return entry;
  }));
  const sum = (hour) => places.reduce((all, place) => all + hour.requests[place], 0);
  const most = Math.max(...hours.map(sum));
  const all = hours.reduce((before, hour) => before + sum(hour), 0);
  const refused = hours.reduce((before, hour) => before + hour.requests.nobody, 0);
  find("day-count").textContent = whole(all);
  find("day-refused").textContent = whole(refused) + " of them answered by nobody";
  const rise = step(most);
  const top = rise * Math.max(1, Math.ceil(most / rise));
  const chart = find("chart");
  chart.setAttribute("aria-label", whole(all) + " requests in 24 hours, at most " + whole(most) + " in one; the table below has each hour");
  const rules = [];
  for (let count = 0; count <= top; count += rise) {
    const rule = make("div", "rule");
    rule.append(make("span", "", whole(count)));
    rule.style.bottom = "calc(1.5rem + (100% - 1.9rem) * " + count / top + ")";
    rules.push(rule);
  }
  chart.replaceChildren(...rules, ...hours.map((hour, at) => {
    const from = hour.begins.local.slice(11, 16);
    const column = make("div", "hour");
    const asked = places.filter((place) => hour.requests[place] > 0);
    column.title = "From " + from + ": " + (asked.map((place) => whole(hour.requests[place]) + " " + PLACES[place]).join(", ") || "nothing");
    for (const place of asked) {
      const bar = make("i", place);
      bar.style.height = "max(2px, " + 100 * hour.requests[place] / top + "%)";
      column.append(bar);
    }
    if (at % 4 === 0) column.append(make("b", "", from));
    return column;
  }));
  const head = ["Hour from", ...places.map((place) => PLACES[place]), "all"].map((name) => {
    const box = make("th", "", name);
    box.scope = "col";
    return box;
  });
  find("hours-head").replaceChildren(...head);
  put("hours", hours.map((hour) =>
    row([hour.begins.local.slice(0, 16), ...places.map((place) => whole(hour.requests[place])), whole(sum(hour))])));
}

// A pool's model has the pool's name before it already.
function answeredBy(record) {
  if (record.place === "nobody" || record.place === "cache") return PLACES[record.place];
  const { backend, model } = record;
  return model.startsWith(backend + "/") ? model : backend + "/" + model;
}

function showOverview(overview) {
  showHours(overview.hours);
  put("latency", overview.latency.map((it) => row([{ text: PLACES[it.place] ?? it.place, before: mark(it.place) }, whole(it.answers),
    ms(it.first_content_p50_us), ms(it.first_content_p95_us), ms(it.took_p50_us), ms(it.took_p95_us)])), "No answers yet.");
  const digits = decimals(overview.teams.map((it) => it.spent_microusd));
  put("teams", overview.teams.map((it) => row([words(it.team), whole(it.requests),
    whole(it.input_tokens), whole(it.output_tokens), money(it.spent_microusd, digits)])), "No requests yet.");
}

function showLast(last) {
  const spent = (it) => (it.cost_microusd === null ? null : it.cost_microusd + it.hedge_cost_microusd);
  const digits = decimals(last.records.map(spent));
  put("last", last.records.map((it) => row([
    it.ended.local.slice(5, 19),
    words(answeredBy(it), mark(it.place)),
    words(it.reason || NOTHING),
    words(it.model_asked),
    words(it.team),
    words((it.fault ?? it.outcome).replaceAll("_", " ")),
    it.input_tokens === null ? NOTHING : whole(it.input_tokens) + " + " + whole(it.output_tokens),
    money(spent(it), digits),
    ms(it.took_us) + " ms",
  ])), "No requests yet.");
}

// So many of them; the address beside the page has all.
const LIMITS_MAX = 8;
const amount = (it, count) => (it.count === "cost" ? money(count) : whole(count));

function showLimits(told) {
  const bound = (it) => it.burst ?? it.amount;
  const share = (it) => (bound(it) === 0 ? 1 : it.used / bound(it));
  const nearest = told.limits.toSorted((one, other) => share(other) - share(one)).slice(0, LIMITS_MAX);
  put("limits", nearest.map((it) => {
    const what = it.per === null ? it.count + " at once" : it.count.replaceAll("_", " ") + (it.per === "ever" ? " in all" : " per " + it.per);
    const look = share(it) >= 1 ? "spent" : share(it) >= 0.8 ? "near" : "";
    const whose = it.scope === "user" ? (it.name === "" ? "no user" : "user " + it.name) + " of " + it.team : it.scope + " " + it.name;
    const nobodys = it.scope === "shadow" ? "answers checked in the cloud" : "everybody";
    return row([words(it.name === null ? nobodys : whose), words(what),
      words(amount(it, it.used) + " of " + amount(it, bound(it)), meter(share(it), look)), amount(it, it.left)]);
  }), "No limits are set.");
}

const MOODS = { ready: "good", loaded: "good", starting: "fair", loading: "fair", unloading: "fair", down: "bad" };
const mood = (state) => make("span", "dot " + (MOODS[state] ?? ""));

// A breaker that is not closed keeps its model from being asked.
function showHealth(health) {
  put("health", health.backends.map((it) => {
    const open = it.models.filter((model) => model.state !== "closed").map((model) => model.name);
    const add = (count) => it.models.reduce((sum, model) => sum + model[count], 0);
    let state = it.state + (it.reason ? ": " + it.reason.replaceAll("_", " ") : "");
    if (open.length > 0) state += "; not asked: " + open.join(", ");
    const look = it.state === "ready" && open.length > 0 ? "starting" : it.state;
    return row([words(it.name), words(state, mood(look)), words(whole(add("in_flight"))),
      whole(add("failures")) + " of " + whole(add("chats"))]);
  }), "No backends.");
}

function showModels(board) {
  find("models-section").hidden = board === null || board.models.length === 0;
  if (board === null) return;
  put("models", board.models.map((it) => row([
    words(it.name),
    words(it.state + (it.reason ? ": " + it.reason : ""), mood(it.state)),
    words(it.slots_busy + " of " + it.slots_max, meter(it.slots_busy / (it.slots_max || 1))),
    whole(it.queued), per(it.prompt_tokens_per_s), per(it.reply_tokens_per_s),
    size(it.memory_bytes_resident ?? it.memory_bytes_predicted),
  ])), "None.");
}

// What is not there is `null` where that is no fault.
async function ask(path, { isOptional = false } = {}) {
  const answer = await fetch("/admin/" + path, { cache: "no-store" });
  if (answer.ok) return answer.json();
  if (answer.status === 404 && isOptional) return null;
  if (answer.status === 401) signedOut();
  throw new Error(path.split("?")[0] + " answered with status " + answer.status);
}

async function refreshRecords() {
  // One after another: records have few readers at once, and others look too.
  const today = await ask("v1/savings?since=today");
  const month = await ask("v1/savings?since=30d");
  const overview = await ask("v1/overview");
  const last = await ask("v1/records?limit=25");
  showSaved(today, month);
  showOverview(overview);
  showLast(last);
  find("clock").textContent = "at " + month.until.local.slice(11, 19) + ", " + month.time_zone;
}

async function refreshNow() {
  const [health, limits, board] = await Promise.all([ask("health"), ask("v1/limits"), ask("v1/models", { isOptional: true })]);
  showLimits(limits);
  showHealth(health);
  showModels(board);
}

let said = "";
// A screen reader hears what changed, and not the same every ten seconds.
function say(words, look) {
  if (words === said) return;
  find("state").textContent = said = words;
  find("dot").className = "dot " + look;
}

// The session is over. What was known stays, and whoever wants to know more signs in.
function signedOut() {
  const again = make("a", "", "Sign in again");
  again.href = "/admin";
  find("who").replaceChildren(again);
  find("who").hidden = false;
}

// Who is looking, where he is signed in.
async function showOperator() {
  const { name, role, known_by: by } = await ask("v1/operator");
  if (by !== "session") return;
  find("operator").textContent = name + " (" + role + ")";
  find("who").hidden = false;
}

async function signOut() {
  const answer = await fetch("/admin/logout", { method: "POST" });
  if (answer.ok || answer.status === 401) location.assign("/admin/signed-out");
  else say("Not signed out: logout answered with status " + answer.status, "bad");
}

let isAsking = false;
async function refresh() {
  if (isAsking) return;
  isAsking = true;
  const failed = (await Promise.allSettled([refreshRecords(), refreshNow()])).filter((it) => it.status === "rejected");
  isAsking = false;
  if (failed.length === 0) say("Up to date", "good");
  else say("Not up to date: " + failed.map((it) => it.reason.message).join("; "), "bad");
}

find("sign-out").addEventListener("click", signOut);
// What is wrong the rest says too.
showOperator().catch(() => {});
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
