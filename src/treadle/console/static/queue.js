// Answers judged one after the other, by keyboard too.

import { ask, attempt, forPage, say } from "./common.js";

const cards = [...document.querySelectorAll(".answer")], keyboard = document.getElementById("by-keyboard");
let at = -1;

function go(to) {
  if (!cards.length) return;
  cards[at]?.removeAttribute("aria-current");
  at = Math.max(0, Math.min(cards.length - 1, to));
  cards[at].setAttribute("aria-current", "true");
  cards[at].focus();
  cards[at].scrollIntoView({ block: "nearest" });
}

// Sends the whole of what is thought of this answer: it replaces what was said before.
async function send(card, said, words) {
  const { rating = card.dataset.rating ?? null, edited } = said;
  const kept = edited === undefined ? card.edited ?? null : edited;
  return attempt(async () => {
    await ask("/console/feedback", { answer_id: card.dataset.id, rating, edited: kept });
    card.edited = kept;
    if (rating) card.dataset.rating = rating;
    else delete card.dataset.rating;
    for (const button of card.querySelectorAll("[data-rate]")) button.setAttribute("aria-pressed", button.dataset.rate === rating);
    card.classList.toggle("judged", Boolean(rating) || kept !== null);
    card.querySelector(".thanks").textContent = words;
    say(`Answer ${cards.indexOf(card) + 1}: ${words}`);
  });
}

async function rate(card, rating) {
  const again = card.dataset.rating === rating;
  await send(card, { rating: again ? null : rating }, again ? "Taken back." : rating === "up" ? "Good. Noted." : "Bad. Noted.");
}

const fields = (card) => [...card.querySelectorAll(".desk textarea, .desk input, .desk select")];

function open(card, shown) {
  card.querySelector(".desk").hidden = !shown;
  card.querySelector("[data-edit]").setAttribute("aria-expanded", shown);
  if (shown) fields(card)[0]?.focus();
  else card.focus();
}

// What the heads should have answered; what looks like JSON where the answer was no text is sent as what it says.
function corrected(card) {
  const found = fields(card);
  if (!found[0].dataset.head) return found[0].value;
  const value = (field) => {
    if (!("json" in field.dataset)) return field.value;
    try {
      return JSON.parse(field.value);
    } catch {
      return field.value;
    }
  };
  return Object.fromEntries(found.map((field) => [field.dataset.head, value(field)]));
}

async function correct(card) {
  if (await send(card, { edited: corrected(card) }, "Corrected. The model can learn from it.")) open(card, false);
}

cards.forEach((card, place) => {
  card.addEventListener("focusin", () => at !== place && (cards[at]?.removeAttribute("aria-current"), at = place, card.setAttribute("aria-current", "true")));
  for (const button of card.querySelectorAll("[data-rate]")) button.addEventListener("click", () => rate(card, button.dataset.rate));
  card.querySelector("[data-edit]").addEventListener("click", () => open(card, card.querySelector(".desk").hidden));
  card.querySelector("[data-cancel]").addEventListener("click", () => open(card, false));
  card.querySelector(".desk").addEventListener("submit", (event) => {
    event.preventDefault();
    correct(card);
  });
  card.querySelector(".desk").addEventListener("keydown", (event) => {
    if (event.key === "Escape") open(card, false);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      correct(card);
    }
  });
});

document.addEventListener("keydown", (event) => {
  if (!keyboard?.checked || !forPage(event)) return;
  const act = {
    j: () => go(at + 1), k: () => go(at - 1), u: () => at >= 0 && rate(cards[at], "up"), d: () => at >= 0 && rate(cards[at], "down"),
    e: () => at >= 0 && open(cards[at], true),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
