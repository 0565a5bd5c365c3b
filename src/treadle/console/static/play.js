// Two answers on sides that chance chooses; the vote is filed, and only then is it told whose they were.

import { Failure, ask, attempt, forPage, make, random, say } from "./common.js";

const by = (id) => document.getElementById(id);
const form = by("ask"), records = form.dataset.kind === "record", sides = by("sides"), votes = [...document.querySelectorAll("[data-choice]")];
let shown = null; // by side, the ids of the answers that wait for a vote

// Which versions answer is known by /v1/status; without that route, the live one does.
async function versions() {
  let found = [];
  try {
    found = (await ask("/v1/status")).versions.filter(({ role }) => ["live", "canary", "ab"].includes(role));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
  }
  if (found.length < 2) {
    const why = records ? "and there is nothing to compare it with: begin a candidate with 'treadle rollout'" : "so two temperatures are compared";
    by("versions-told").textContent = `Version ${form.dataset.live} alone answers, ${why}.`;
    by("go").disabled = records;
    return;
  }
  if (!records) {
    by("what").prepend(make("option", { value: "versions" }, "two versions"));
    by("what").value = "versions";
  }
  for (const [place, id] of ["version-a", "version-b"].entries()) {
    by(id).replaceChildren(...found.map(({ version, role }) => make("option", { value: version }, `version ${version} (${role})`)));
    by(id).value = found[place].version;
  }
  by("versions-told").textContent = "";
  choose();
}

const twoVersions = () => records || by("what").value === "versions";

function choose() {
  const two = twoVersions();
  for (const field of document.querySelectorAll("[data-for]")) {
    field.hidden = (field.dataset.for === "versions") !== two;
    for (const input of field.querySelectorAll("input, select")) input.disabled = field.hidden;
  }
  if (!records) by("label-a").textContent = two ? "Temperature of both" : "First temperature";
}

// A column that is left empty is missing.
function record() {
  const fields = [...form.querySelectorAll("[data-column]")];
  return Object.fromEntries(fields.map((field) => [field.dataset.column, field.value === "" ? null : field.value]));
}

function request(which) {
  if (records) {
    const body = { model: form.dataset.model, inputs: record(), store: by("keep")?.checked ?? false };
    return ask("/v1/predict", body, { "x-treadle-version": by(`version-${which}`).value });
  }
  const two = twoVersions();
  const temperature = by(two ? "temperature-a" : `temperature-${which}`).valueAsNumber;
  const body = {
    model: form.dataset.model, prompt: by("prompt").value, temperature, max_tokens: by("longest").valueAsNumber,
    store: by("keep")?.checked ?? false, truncate_prompt_tokens: -1,
  };
  return ask("/v1/completions", body, two ? { "x-treadle-version": by(`version-${which}`).value } : {});
}

function words(said) {
  if (typeof said === "number") return String(Number(said.toPrecision(6)));
  if (Array.isArray(said)) return said.map(words).join(", ") || "none";
  return typeof said === "string" ? said : JSON.stringify(said);
}

// The id of an answer, and what of it is shown.
function told(answer) {
  if (!records) return [answer.id, [make("span", { class: "asked" }, by("prompt").value), make("mark", {}, answer.choices[0].text)]];
  const [{ id, heads }] = answer.predictions;
  return [id, Object.entries(heads).map(([name, { answer: said, probabilities }]) => {
    const [best] = Object.entries(probabilities ?? {}).sort(([, a], [, b]) => b - a);
    const sure = best ? ` (${best[0]}: ${(100 * best[1]).toFixed(1)}%)` : "";
    return make("div", {}, `${name}: `, make("mark", {}, words(said)), sure);
  })];
}

async function go() {
  by("go").disabled = true;
  sides.setAttribute("aria-busy", "true");
  shown = null;
  say("Both are asked.");
  await attempt(async () => {
    const answers = await Promise.all([request("a"), request("b")]); // neither is shown before the other, which might tell them apart
    if (random() < 0.5) answers.reverse();
    const [[left, ...first], [right, ...second]] = answers.map(told);
    shown = { left, right };
    for (const [side, [seen]] of [["left", first], ["right", second]]) {
      document.querySelector(`[data-side=${side}]`).replaceChildren(...seen);
      document.querySelector(`[data-whose=${side}]`).textContent = "";
    }
    for (const button of votes) {
      button.disabled = false;
      button.setAttribute("aria-pressed", "false");
    }
    sides.hidden = false;
    say("Both have answered. Which is better?");
    by("h-left").focus();
  });
  sides.setAttribute("aria-busy", "false");
  by("go").disabled = false;
}

async function vote(choice) {
  if (!shown) return;
  const { left, right } = shown;
  shown = null;
  const done = await attempt(async () => {
    const found = await ask("/console/playground/vote", { left, right, choice });
    for (const button of votes) {
      button.disabled = true;
      button.setAttribute("aria-pressed", button.dataset.choice === choice);
    }
    const both = ["left", "right"].map((side) => {
      const { version, temperature } = found[side];
      const whose = `version ${version}${records ? "" : `, temperature ${temperature}`}`;
      document.querySelector(`[data-whose=${side}]`).textContent = whose;
      return `${side}: ${whose}`;
    });
    say(`Filed as feedback. ${both.join("; ")}.`);
  });
  if (!done) shown = { left, right };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});
by("what")?.addEventListener("change", choose);
for (const button of votes) button.addEventListener("click", () => vote(button.dataset.choice));
document.addEventListener("keydown", (event) => {
  const choice = ["left", "right", "both", "neither"][Number(event.key) - 1];
  if (choice && shown && forPage(event)) vote(choice);
});
choose();
versions();
