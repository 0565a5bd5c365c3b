// Two answers on sides that chance chooses; the vote is filed, and only then is it told whose they were.

import { Failure, ask, attempt, forPage, make, random, say } from "./common.js";

const by = (id) => document.getElementById(id);
const form = by("ask"), sides = by("sides"), votes = [...document.querySelectorAll("[data-choice]")];
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
    by("versions-told").textContent = `Version ${form.dataset.live} alone answers, so two temperatures are compared.`;
    return;
  }
  by("what").prepend(make("option", { value: "versions" }, "two versions"));
  by("what").value = "versions";
  for (const [place, id] of ["version-a", "version-b"].entries()) {
    by(id).replaceChildren(...found.map(({ version, role }) => make("option", { value: version }, `version ${version} (${role})`)));
    by(id).value = found[place].version;
  }
  by("versions-told").textContent = "";
  choose();
}

function choose() {
  const two = by("what").value === "versions";
  for (const field of document.querySelectorAll("[data-for]")) {
    field.hidden = (field.dataset.for === "versions") !== two;
    for (const input of field.querySelectorAll("input, select")) input.disabled = field.hidden;
  }
  by("label-a").textContent = two ? "Temperature of both" : "First temperature";
}

function request(which) {
  const two = by("what").value === "versions";
  const temperature = by(two ? "temperature-a" : `temperature-${which}`).valueAsNumber;
  const body = {
    model: form.dataset.model, prompt: by("prompt").value, temperature, max_tokens: by("longest").valueAsNumber,
    store: by("keep")?.checked ?? false, truncate_prompt_tokens: -1,
  };
  return ask("/v1/completions", body, two ? { "x-treadle-version": by(`version-${which}`).value } : {});
}

async function go() {
  by("go").disabled = true;
  sides.setAttribute("aria-busy", "true");
  shown = null;
  say("Both are asked.");
  await attempt(async () => {
    const answers = await Promise.all([request("a"), request("b")]); // neither is shown before the other, which might tell them apart
    if (random() < 0.5) answers.reverse();
    shown = { left: answers[0].id, right: answers[1].id };
    for (const [place, side] of ["left", "right"].entries()) {
      const text = answers[place].choices[0].text;
      document.querySelector(`[data-side=${side}]`).replaceChildren(make("span", { class: "asked" }, by("prompt").value), make("mark", {}, text));
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
    const told = await ask("/console/playground/vote", { left, right, choice });
    for (const button of votes) {
      button.disabled = true;
      button.setAttribute("aria-pressed", button.dataset.choice === choice);
    }
    const words = ["left", "right"].map((side) => {
      const { version, temperature } = told[side];
      const whose = `version ${version}, temperature ${temperature}`;
      document.querySelector(`[data-whose=${side}]`).textContent = whose;
      return `${side}: ${whose}`;
    });
    say(`Filed as feedback. ${words.join("; ")}.`);
  });
  if (!done) shown = { left, right };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
by("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});
by("what").addEventListener("change", choose);
for (const button of votes) button.addEventListener("click", () => vote(button.dataset.choice));
document.addEventListener("keydown", (event) => {
  const choice = ["left", "right", "both", "neither"][Number(event.key) - 1];
  if (choice && shown && forPage(event)) vote(choice);
});
choose();
versions();
