// What the two screens share.

import { h } from "./vendor/preact.module.js";
import htm from "./vendor/htm.module.js";

export const html = htm.bind(h);

const icon = (path) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${path} /></svg>`;
export const UP = icon("M7 10.5v9H4v-9zM7 10.5l4-7c1.6 0 2.5 1.2 2.2 2.7L12.5 10h5.7c1.4 0 2.4 1.3 2 2.7l-1.5 5.2c-.3 1-1.2 1.6-2.2 1.6H7");
export const DOWN = icon("M17 13.5v-9h3v9zM17 13.5l-4 7c-1.6 0-2.5-1.2-2.2-2.7L11.5 14H5.8c-1.4 0-2.4-1.3-2-2.7l1.5-5.2c.3-1 1.2-1.6 2.2-1.6H17");

export const WHY = {
  consent: "Your text and the answer are kept on this server. Secrets and personal data are replaced first. " +
    "When this is off, only counts and your rating are kept.",
  always: "This server keeps texts and answers to improve the model. Secrets and personal data are replaced first.",
};

// Asks for a key, and calls use with it.
export function lock(use) {
  const open = (event) => {
    event.preventDefault();
    use(event.target.elements.key.value.trim());
  };
  return html`<form class="lock" onSubmit=${open}>
    <label for="key">Key</label>
    <input id="key" name="key" type="password" autocomplete="off" required />
    <button class="primary">Use this key</button>
    <small>It stays in this tab and is forgotten when you close it.</small>
  </form>`;
}

export const percent = (share) => `${(100 * share).toFixed(1)}%`;

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// A text with its spans marked, and what was not read greyed. Spans count characters, JavaScript's strings count UTF-16 units.
export function marked(text, spans, read) {
  const letters = Array.from(text), piece = (from, to) => letters.slice(from, to).join("");
  let at = 0;
  const pieces = spans.flatMap(({ start, end, label, probability }) => {
    const before = piece(at, start);
    at = end;
    return [before, html`<mark title=${`${label}: ${percent(probability)}`}>${piece(start, end)}<b>${label}</b></mark>`];
  });
  return [...pieces, piece(at, read ?? letters.length), read === undefined ? "" : html`<s>${piece(read, letters.length)}</s>`];
}
