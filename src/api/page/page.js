"use strict";
// Everything is put in as text, never as markup: names of models are callers' words.

const EVERY_MS = 10000;
const PLACES = { cache: "the cache", local: "this machine or a pool", upstream: "an upstream", nobody: "nobody" };
const find = (id) => document.getElementById(id);
const whole = (count) => count.toLocaleString("en-US");

// Integers of micro-dollars; exact as far as a double is, which is nine billion dollars.
function money(micros) {
  const sign = micros < 0 ? "−" : "";
  const dollars = Math.abs(micros) / 1e6;
  const digits = dollars < 10 ? 6 : 2;
  return sign + "$" + dollars.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

const ms = (micros) => (micros === null ? "–" : (micros / 1000).toLocaleString("en-US", { maximumFractionDigits: 1 }));

function row(cells, kind) {
  const line = document.createElement("tr");
  cells.forEach((cell, at) => {
    const { text, words } = typeof cell === "object" && cell !== null ? cell : { text: cell, words: false };
    const box = document.createElement(at === 0 ? "th" : "td");
    if (at === 0) box.scope = "row";
    if (words) { box.className = "words"; box.title = text; }
    box.textContent = text;
    line.append(box);
  });
  if (kind) line.className = kind;
  return line;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showSaved(today, month) {
  for (const [id, told] of [["today", today], ["month", month]]) {
    find("saved-" + id).textContent = money(told.total.saved_microusd);
    const compared = told.total.compared_requests + " of " + told.total.requests + " requests compared";
    find("spent-" + id).textContent = "spent " + money(told.spent_microusd) + "; " + compared;
  }
  const part = (sum, name, kind) => row([name, whole(sum.requests), whole(sum.compared_requests),
    money(sum.compared_spent_microusd), money(sum.counterfactual_microusd), money(sum.saved_microusd)], kind);
  const parts = month.saved_by.map(([label, sum]) => part(sum, label));
  find("by").replaceChildren(...parts, part(month.total, "total", "total"));
  const cached = month.saved_by.find(([label]) => label === "cache")[1].requests;
  const answered = month.total.requests - month.saved_by.find(([label]) => label === "none")[1].requests;
  find("cache-share").textContent = answered ? (100 * cached / answered).toFixed(1) + " %" : "–";
  find("cache-count").textContent = whole(cached) + " of " + whole(answered) + " answers";
  find("method").textContent = month.method;
  find("reference").textContent = month.reference_model
    ? "The reference model is " + month.reference_model + "."
    : "No savings.reference_model is set: what this machine answered without a model of a price being asked for is not compared.";
}

function showHours(hours) {
  const places = Object.keys(PLACES);
  find("legend").replaceChildren(...places.map((place) => {
    const entry = document.createElement("li");
    const mark = svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    mark.append(svg("rect", { width: 10, height: 10, class: place }));
    entry.append(mark, PLACES[place]);
    return entry;
  }));
  const sum = (hour) => places.reduce((all, place) => all + hour.requests[place], 0);
  const most = Math.max(1, ...hours.map(sum));
  const chart = svg("svg", { viewBox: "0 0 720 176", role: "img" });
  const all = hours.reduce((before, hour) => before + sum(hour), 0);
  chart.setAttribute("aria-label", whole(all) + " requests in 24 hours, at most " + whole(most) + " in one; the table below has each hour");
  hours.forEach((hour, at) => {
    let top = 160;
    for (const place of places) {
      const height = 150 * hour.requests[place] / most;
      top -= height;
      chart.append(svg("rect", { x: at * 30 + 3, y: top, width: 24, height, class: place }));
    }
    if (at % 6 === 0) {
      const label = svg("text", { x: at * 30 + 3, y: 174 });
      label.textContent = hour.begins.local.slice(11, 16);
      chart.append(label);
    }
  });
  find("chart").replaceChildren(chart);
  const head = row(["Hour from", ...places.map((place) => PLACES[place])]);
  const heads = [...head.children].map((cell) => {
    const box = document.createElement("th");
    box.scope = "col";
    box.textContent = cell.textContent;
    return box;
  });
  find("hours-head").replaceChildren(...heads);
  find("hours").replaceChildren(...hours.map((hour) =>
    row([hour.begins.local.slice(0, 16), ...places.map((place) => whole(hour.requests[place]))])));
}

// A pool's model has the pool's name before it already.
function answeredBy(record) {
  if (record.place === "nobody" || record.place === "cache") return record.place;
  const { backend, model } = record;
  return model.startsWith(backend + "/") ? model : backend + "/" + model;
}

function showRest(overview, last) {
  find("latency").replaceChildren(...overview.latency.map((it) => row([PLACES[it.place] ?? it.place, whole(it.answers),
    ms(it.first_content_p50_us), ms(it.first_content_p95_us), ms(it.took_p50_us), ms(it.took_p95_us)])));
  find("teams").replaceChildren(...overview.teams.map((it) => row([it.team, whole(it.requests),
    whole(it.input_tokens), whole(it.output_tokens), money(it.spent_microusd)])));
  find("last").replaceChildren(...last.records.map((it) => row([
    it.ended.local.slice(5, 19),
    { text: it.team, words: true },
    { text: it.model_asked, words: true },
    { text: answeredBy(it), words: true },
    { text: it.reason, words: true },
    { text: it.fault ?? it.outcome, words: true },
    it.input_tokens === null ? "–" : whole(it.input_tokens) + " + " + whole(it.output_tokens),
    it.cost_microusd === null ? "–" : money(it.cost_microusd + it.hedge_cost_microusd),
    ms(it.took_us) + " ms",
  ])));
}

async function ask(path) {
  const answer = await fetch("/admin/v1/" + path, { cache: "no-store" });
  if (!answer.ok) throw new Error(path.split("?")[0] + " answered with status " + answer.status);
  return answer.json();
}

let said = "";
function say(words) {
  // A screen reader hears what changed, and not the same every ten seconds.
  if (words !== said) find("state").textContent = said = words;
}

async function refresh() {
  try {
    const [today, month, overview, last] = await Promise.all(
      [ask("savings?since=today"), ask("savings?since=30d"), ask("overview"), ask("records?limit=25")]);
    showSaved(today, month);
    showHours(overview.hours);
    showRest(overview, last);
    say("Times are in " + month.time_zone + "; renewed every ten seconds");
  } catch (error) {
    say("Not up to date: " + error.message);
  }
}

refresh();
setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
