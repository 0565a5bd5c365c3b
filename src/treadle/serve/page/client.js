// The API as the page uses it. Every failure is a Failure whose message is in words.

const KEY = "treadle-key";

export class Failure extends Error {
  constructor(message, status, field = null) {
    super(message);
    this.status = status;
    this.field = field; // the one at fault, if one is
  }
}

// The key lasts as long as the tab.
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

async function ask(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. See whether “treadle serve” still runs, then try again.", 0);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Failure(told?.error?.message ?? `The server answered ${response.status}.`, response.status, told?.error?.param);
}

export const facts = async () => (await ask("/page/config.json")).json();

export const manual = async () => (await ask("/openapi.json")).json();

export const predict = async (body) => (await ask("/v1/predict", body)).json();

export const feedback = async (body) => (await ask("/v1/feedback", body)).json();

// Calls onEvent with each object of the stream; resolves at its end.
export async function complete(body, signal, onEvent) {
  const options = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  const response = await ask("/v1/completions", { ...body, ...options }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("The connection broke off in the middle of the answer. Try again.", 0);
    }
    if (part.done) throw new Failure("The answer ended early. Try again.", 0);
    const events = (held + part.value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const value = JSON.parse(data);
      if (value.error) throw new Failure(value.error.message, 503);
      onEvent(value);
    }
  }
}
