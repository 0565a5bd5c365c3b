// What the console's scripts share: the server asked with the session's token, what happened told in words, elements made of text.

const token = document.querySelector("meta[name=token]").content;

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// JSON of `path`; with `body` it is posted.
export async function ask(path, body, more = {}) {
  const headers = body ? { "content-type": "application/json", "x-treadle-token": token, ...more } : more;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new Failure("The server does not answer. See whether “treadle serve” still runs, then try again.", 0);
  }
  const told = await response.json().catch(() => null);
  if (response.ok) return told;
  const out = response.status === 401 ? " Load this page anew to sign in." : "";
  throw new Failure((told?.error?.message ?? `The server answered ${response.status}.`) + out, response.status);
}

const failure = document.getElementById("failure");

// Read out by screen readers, which hear only of what changes.
export function say(words) {
  document.getElementById("told").textContent = words;
}

// Runs `work`; what goes wrong is told in words. Whether it went well.
export async function attempt(work) {
  failure.hidden = true;
  failure.textContent = "";
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    failure.hidden = false;
    failure.textContent = error.message;
    failure.scrollIntoView({ block: "nearest" });
    return false;
  }
}

// An element with attributes; children that are no elements become text, never markup.
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(key, value);
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

export const random = () => crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32;

// Whether a key that was pressed is meant for the page, not for a field or the browser.
export const forPage = (event) =>
  !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input, textarea, select, dialog");

document.getElementById("sign-out")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await attempt(() => ask("/console/logout", {}))) location.assign("/console/login");
});
