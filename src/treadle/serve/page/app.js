// One screen: write, let the model go on, or fill in a form and let it answer; then say what you think of it.

import { Component, createRef, render } from "./vendor/preact.module.js";
import { Failure, complete, facts, feedback, keepKey } from "./client.js";
import { DOWN, UP, WHY, html, lock, plural } from "./parts.js";
import { Predict } from "./predict.js";

const LATE = 500; // ms after the last piece in which a press was still meant for Stop

const EMPTY = { answer: "", id: null, stored: false, ended: null, usage: null, seconds: 0, rating: null, edited: null,
  draft: null, thanks: "", note: "" };

class App extends Component {
  state = { config: null, key: false, failure: "", prompt: "", temperature: 0.7, length: 96, keep: false, busy: false, ...EMPTY };
  prompt = createRef();
  draft = createRef();
  abort = null;
  written = -LATE;

  componentDidMount() {
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.abort?.abort());
    this.load();
  }

  async load() {
    await this.attempt(async () => {
      const config = await facts();
      document.title = `${config.model} · Treadle`;
      const length = Math.min(96, config.max_tokens, Math.max(1, (config.context ?? 2) >> 1));
      this.setState({ config, length, key: false }, () => this.prompt.current?.focus());
    });
  }

  // Runs `work`; what goes wrong is told in words.
  async attempt(work) {
    this.setState({ failure: "" });
    try {
      await work();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Failure)) throw error;
      this.setState(error.status === 401 ? { key: true, failure: error.message } : { failure: error.message });
    }
  }

  complete = async () => {
    if (this.state.busy) return;
    const { config, prompt, temperature, length, keep } = this.state;
    const start = performance.now();
    this.abort = new AbortController();
    this.setState({ busy: true, ...EMPTY });
    const body = { model: config.model, prompt, temperature, max_tokens: length, store: keep, truncate_prompt_tokens: -1 };
    await this.attempt(() => complete(body, this.abort.signal, (event) => this.take(event, start)));
    const stopped = this.abort.signal.aborted ? "cancelled" : null;
    this.abort = null;
    this.setState(({ ended }) => ({ busy: false, ended: ended ?? stopped, seconds: (performance.now() - start) / 1000 }));
    this.prompt.current.focus();
  };

  // Where Stop was, Complete is once the answer ends: a press that came too late for the one is not meant for the other.
  press = () => performance.now() - this.written > LATE && this.complete();

  stop = () => {
    this.written = performance.now();
    this.abort?.abort();
  };

  take({ id, stored, version, choices, usage }) {
    const [choice] = choices;
    this.written = performance.now();
    this.setState((state) => ({
      id, stored, config: { ...state.config, version }, usage: usage ?? state.usage,
      answer: state.answer + (choice?.text ?? ""), ended: choice?.finish_reason ?? state.ended,
    }));
  }

  // Sends the whole of what is thought of this answer: it replaces what was said before.
  async say(said, thanks) {
    const { id, rating, edited } = { ...this.state, ...said };
    await this.attempt(async () => {
      const kept = await feedback({ answer_id: id, rating, edited });
      const count = Object.values(kept.redacted).reduce((sum, n) => sum + n, 0);
      const replaced = count ? ` ${plural(count, "secret or personal detail")} in it ${count === 1 ? "was" : "were"} replaced.` : "";
      this.setState({ rating, edited: kept.edited, draft: null, note: "", thanks: thanks + replaced });
    });
  }

  rate = (rating) => {
    const withdrawn = this.state.rating === rating;
    return this.say({ rating: withdrawn ? null : rating }, withdrawn ? "Taken back." : "Thank you. Noted.");
  };

  edit = () => {
    if (this.state.stored) {
      this.setState({ draft: this.state.edited ?? this.state.answer, thanks: "" }, () => this.draft.current.focus());
      return;
    }
    const note = this.state.config.store === "never"
      ? "This server keeps no text, so it cannot learn from an edit. A rating still counts."
      : "This answer was not kept. Switch on “Keep this text”, complete again, then edit. A rating still counts.";
    this.setState({ note, thanks: "" });
  };

  accept = () => {
    this.setState(({ prompt, answer }) => ({ prompt: prompt + answer, ...EMPTY }), () => this.prompt.current.focus());
  };

  write = (event) => this.setState({ prompt: event.target.value, ...EMPTY });

  shortcut = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.complete();
    }
  };

  // Told at the top, which may be out of sight.
  sight = (element) => element?.scrollIntoView({ block: "nearest" });

  render(_, { config, key, failure, busy }) {
    return html`
      <header>
        <img src="/page/icon.svg" alt="" width="28" height="28" />
        <h1>${config?.model ?? "Treadle"}</h1>
        ${config && html`<span class="version">version ${config.version}</span>`}
        <span class="state" data-busy=${busy} role="status">${busy ? "writing" : config ? "ready" : ""}</span>
      </header>
      ${failure && html`<p class="failure" role="alert" ref=${this.sight}>${failure}</p>`}
      ${key && lock(this.open)}
      ${config?.kind === "language" && html`<main>${this.sheet()}${this.controls()}</main>`}
      ${config?.kind === "records" && html`<${Predict} config=${config} attempt=${this.attempt.bind(this)}
        onVersion=${(version) => this.setState((state) => ({ config: { ...state.config, version } }))} />`}
      <footer>Answers come from a small model and may be wrong. Read before you use them.</footer>`;
  }

  open = (key) => {
    keepKey(key);
    this.load();
  };

  sheet() {
    const { prompt, answer, busy, ended } = this.state;
    // The text field lies under a copy of its own text, in which the answer goes on where the prompt ends.
    return html`<section class="sheet">
      <div class="paper">
        <label class="unseen" for="prompt">Your text</label>
        <textarea id="prompt" ref=${this.prompt} value=${prompt} onInput=${this.write} onKeyDown=${this.shortcut} readonly=${busy}
          placeholder=${busy || answer ? "" : "Begin to write. The model goes on."} spellcheck="false" autocapitalize="off" autocomplete="off"></textarea>
        <div class="copy">
          <span aria-hidden="true">${prompt}</span><output for="prompt" aria-label="Answer" aria-live="polite" aria-busy=${busy}
            data-busy=${busy}>${answer}</output>${"\u200b"}
        </div>
      </div>
      <div class="bar">
        ${busy
          ? html`<button key="stop" class="primary stop" onClick=${this.stop}>Stop <kbd>Esc</kbd></button>`
          : html`<button key="complete" class="primary" onClick=${this.press}>Complete <kbd>Ctrl ↵</kbd></button>`}
        ${!busy && answer && html`<button key="accept" onClick=${this.accept}>Add to text</button>`}
        ${!busy && ended && this.tally()}
      </div>
      ${!busy && this.state.id && this.verdict()}
    </section>`;
  }

  tally() {
    const { usage, ended, seconds } = this.state;
    const end = { stop: "", length: ", stopped at the limit", cancelled: ", stopped" }[ended] ?? "";
    if (!usage) return html`<p class="tally">Stopped after ${seconds.toFixed(1)} s.</p>`;
    const written = plural(usage.completion_tokens, "token"), cut = usage.truncated_prompt_tokens;
    return html`<p class="tally">
      ${written} in ${seconds.toFixed(1)} s${end}.
      ${cut ? html` The model cannot read so much at once: the first ${plural(cut, "token")} of your text ${cut === 1 ? "was" : "were"} left out.` : ""}
    </p>`;
  }

  verdict() {
    const { rating, edited, draft, thanks, note, id } = this.state;
    const thumb = (value, label, picture) => html`<button class="thumb" aria-pressed=${rating === value} aria-label=${label}
      title=${label} onClick=${() => this.rate(value)}>${picture}</button>`;
    return html`<div class="verdict">
      <div class="row">
        <span class="question">How was it?</span>
        ${thumb("up", "Good answer", UP)}${thumb("down", "Bad answer", DOWN)}
        ${draft === null && html`<button onClick=${this.edit}>${edited === null ? "Edit the answer" : "Edit again"}</button>`}
        <span class="thanks" role="status">${thanks || note}</span>
      </div>
      ${draft !== null && this.desk()}
      <small>Answer <code>${id}</code></small>
    </div>`;
  }

  desk() {
    const send = (event) => {
      event.preventDefault();
      this.say({ edited: this.draft.current.value }, "Thank you. The model can learn from your version.");
    };
    return html`<form class="desk" onSubmit=${send}>
      <label for="draft">What the answer should have been</label>
      <textarea id="draft" ref=${this.draft} defaultValue=${this.state.draft} rows="6" spellcheck="false"></textarea>
      <div class="row">
        <button class="primary">Send</button>
        <button type="button" onClick=${() => this.setState({ draft: null })}>Cancel</button>
      </div>
    </form>`;
  }

  controls() {
    const { config, temperature, length, keep } = this.state;
    const set = (name) => (event) => event.target.validity.valid && this.setState({ [name]: event.target.valueAsNumber });
    return html`<aside aria-label="Settings">
      <div class="field">
        <label for="temperature">Temperature</label><output for="temperature">${temperature.toFixed(1)}</output>
        <input id="temperature" type="range" min="0" max="1.5" step="0.1" value=${temperature} onInput=${set("temperature")} />
        <small>Low keeps to the likeliest, high dares more.</small>
      </div>
      <div class="field">
        <label for="length">Longest answer</label>
        <span class="unit"><input id="length" type="number" min="1" max=${Math.min(config.max_tokens, config.context)} value=${length} required
          onChange=${set("length")} /> tokens</span>
      </div>
      ${config.store === "consent" && html`<div class="field consent">
        <label for="keep">Keep this text to improve the model</label>
        <input id="keep" type="checkbox" role="switch" checked=${keep} aria-describedby="why"
          onChange=${(event) => this.setState({ keep: event.target.checked })} />
        <small id="why">${WHY.consent}</small>
      </div>`}
      ${config.store === "always" && html`<div class="field consent"><small>${WHY.always}</small></div>`}
    </aside>`;
  }
}

render(html`<${App} />`, document.body);
