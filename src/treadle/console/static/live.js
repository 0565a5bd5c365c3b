// What goes on now, as /v1/status says every 2 s while someone looks.

import { Failure, ask, make } from "./common.js";

const stamp = document.getElementById("stamp"), now = document.getElementById("now");
const part = (name) => now.querySelector(`[data-part=${name}]`);
const known = (value) => value !== null && value !== undefined;

const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : "—");
const share = (value) => (known(value) ? `${(100 * value).toFixed(1)}%` : "—");
const figure = (value) => (known(value) ? Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 }) : "—");
const seconds = (value) => (!known(value) ? "—" : value < 1 ? `${figure(1000 * value)} ms` : `${figure(value)} s`);

function since(value) {
  const minutes = Math.floor(value / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  return days ? `${days} d ${hours % 24} h` : hours ? `${hours} h ${minutes % 60} min` : minutes ? `${minutes} min` : `${Math.floor(value)} s`;
}

const moment = (text) => String(text).replace("T", " ").replace(/(:\d\d):\d\d(\.\d+)?(Z|\+00:00)$/, "$1 UTC");

const tile = (name, value, note = "") => make("div", {}, make("dt", {}, name), make("dd", {}, make("b", {}, value), make("span", {}, note)));

function table(head, rows, numeric, nothing) {
  if (!rows.length) return make("p", { class: "missing" }, nothing);
  const looks = (place) => (numeric.includes(place) ? "number" : null);
  const top = make("tr", {}, ...head.map((name, place) => make("th", { scope: "col", class: looks(place) }, name)));
  const long = (value) => (String(value).length > 24 ? "long" : null);
  const cell = (value, place) => place === 0 ? make("th", { scope: "row" }, value)
    : make("td", { class: looks(place) ?? long(value), "data-label": head[place] }, value);
  const body = rows.map((row) => make("tr", {}, ...row.map(cell)));
  return make("table", { class: "stacks" }, make("thead", {}, top), make("tbody", {}, ...body));
}

function draw({ load, latency, requests, versions, keys, cost, feedback, cache, drift, alerts, ...server }) {
  const { currency } = cost;
  part("alerts").replaceChildren(table(
    ["alert", "since", "what", "over"], alerts.map(({ name, at, message, over }) => [name, moment(at), message, over ? "over" : make("b", { class: "bad" }, "now")]),
    [], "Nothing is wrong.",
  ));
  part("load").replaceChildren(
    tile("answers under way", count(load.active), `of ${count(load.slots)} slots`), tile("waiting", count(load.waiting), `room for ${count(load.queue)}`),
    tile("requests a minute", figure(load.requests_per_minute)), tile("tokens a minute", figure(load.tokens_per_minute)),
    tile("answered", count(requests.ok), "requests"), tile("refused", count(requests.refused), "over a limit or a full queue"),
    tile("wrongly asked", count(requests.client_errors), "requests"), tile("failed", count(requests.server_errors), "requests"),
    ...(cache ? [tile("read before", share(cache.asked ? cache.hits / cache.asked : null), "of prompts' tokens")] : []),
  );
  const times = [["first token", "first_token"], ["each token after", "per_token"], ["whole answer", "total"], ["in the queue", "queue"]];
  part("latency").replaceChildren(table(
    ["", "half within", "90% within", "99% within", "of"],
    times.filter(([, name]) => latency[name]).map(([words, name]) => {
      const { p50, p90, p99, count: of } = latency[name];
      return [words, seconds(p50), seconds(p90), seconds(p99), count(of)];
    }), [1, 2, 3, 4], "Nothing was answered yet.",
  ));
  part("versions").replaceChildren(table(
    ["version", "role", "share", "requests", "tokens", "half answered within", "good", "bad", "corrected"],
    versions.map(({ version, role, share: of, requests: asked, tokens, total, feedback: said }) => [
      version, role, share(of), count(asked), count(tokens), seconds(total?.p50), count(said.up), count(said.down), count(said.edited),
    ]), [2, 3, 4, 5, 6, 7, 8], "None answers.",
  ));
  part("worth").replaceChildren(
    tile("1,000 requests", known(cost.per_1000_requests) ? `${figure(cost.per_1000_requests)} ${currency}` : "—", cost.how ?? ""),
    tile("feedback rate", share(feedback.rate), `${count(feedback.feedback)} of ${count(feedback.answers)} answers`),
  );
  part("drift").replaceChildren(table(
    ["what", "name", "statistic", "value", "of", "level"],
    drift.map(({ what, name, statistic, value, count: of, level }) => [
      what, name, statistic, figure(value), count(of), make("span", { class: `level-${String(level).replace(/[^a-z]/g, "")}` }, level ?? ""),
    ]), [3, 4], "Nothing to tell: too little was asked, or the package has no picture of its training data.",
  ));
  part("keys").replaceChildren(table(
    ["key", "requests", "tokens", "records", `cost, ${currency}`],
    keys.map(({ key, requests: asked, tokens, predictions, money }) => [key, count(asked), count(tokens), count(predictions), figure(money)]),
    [1, 2, 3, 4], "No key was used.",
  ));
  const state = server.draining ? "The server is stopping." : server.stalled ? `No answer can begin: ${server.stalled}.` : `Version ${server.version} of ${server.model} answers, for ${since(server.uptime)} so far.`;
  stamp.textContent = `${state} As of ${moment(server.at)}.`;
  now.hidden = false;
}

async function look() {
  if (document.visibilityState !== "visible") return;
  try {
    draw(await ask("/v1/status"));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    now.hidden = true;
    const absent = error.status === 404;
    stamp.textContent = absent ? "This server has no /v1/status, so what goes on now cannot be told; the other pages work." : error.message;
    if (absent) clearInterval(timer);
  }
}

const timer = setInterval(look, 2000);
document.addEventListener("visibilitychange", look);
look();
