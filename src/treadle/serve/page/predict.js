// A form fitted to the model's inputs; its answers, and what is thought of them.

import { Component } from "./vendor/preact.module.js";
import { Boxes } from "./boxes.js";
import { Failure, feedback, predict } from "./client.js";
import { DOWN, UP, WHY, html, marked, percent, plural } from "./parts.js";

const ACCEPTS = { image: "image/*", audio: "audio/*" };
const MANY = 12; // more choices than this are typed, with suggestions

const base64 = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

// 16-bit PCM in a WAV container: what browsers record is not what every library reads.
function wav(samples, rate) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((letter, i) => bytes.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); bytes.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true);
  bytes.setUint32(24, rate, true); bytes.setUint32(28, 2 * rate, true); bytes.setUint16(32, 2, true); bytes.setUint16(34, 16, true);
  text(36, "data"); bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => bytes.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, value)), true));
  return new Blob([bytes], { type: "audio/wav" });
}

const isThing = (part) => typeof part === "object";

// An answer as it is written to be corrected: things with boxes, and spans, as JSON, one a line.
const written = (answer) => Array.isArray(answer) && answer.every(isThing)
  ? `[${answer.map(({ probability, text, ...thing }) => JSON.stringify(thing)).join(",\n ")}]` : String(answer);

const NONE = { answer: null, rating: null, edited: null, draft: null, thanks: "", note: "", fault: null };

export class Predict extends Component {
  state = { values: {}, files: {}, keep: false, busy: false, recording: null, ...NONE };

  componentWillUnmount() {
    Object.values(this.state.files).forEach(({ url }) => URL.revokeObjectURL(url));
  }

  ask = async (event) => {
    event.preventDefault();
    if (this.state.busy) return;
    const { config, attempt, onVersion } = this.props;
    this.setState({ busy: true, ...NONE });
    await attempt(async () => {
      const inputs = {};
      for (const { column, kind } of config.inputs) inputs[column] = await this.read(column, kind);
      try {
        const told = await predict({ inputs, store: this.state.keep });
        onVersion(told.version);
        this.setState({ answer: { ...told.predictions[0], stored: told.stored } });
      } catch (error) {
        if (!(error instanceof Failure && error.field in inputs)) throw error;
        this.blame(error.field, error.message);
      }
    });
    this.setState({ busy: false });
  };

  // Says beneath the field what is wrong with it.
  blame(column, message) {
    this.setState({ fault: { column, message } }, () => document.getElementById(`in-${column}`).focus());
  }

  async read(column, kind) {
    const file = this.state.files[column];
    if (kind in ACCEPTS) return file ? base64(file.blob) : null;
    const value = this.state.values[column] ?? "";
    return value.trim() === "" ? null : value;
  }

  // An answer is about the record as it was asked: it goes when the record changes.
  set = (column) => (event) => this.setState(({ values }) => ({ values: { ...values, [column]: event.target.value }, ...NONE }));

  choose(column, blob, name) {
    const old = this.state.files[column];
    if (old) URL.revokeObjectURL(old.url);
    this.setState(({ files }) => ({ files: { ...files, [column]: { blob, name, url: URL.createObjectURL(blob) } }, ...NONE }));
  }

  // One press begins to record, the next one ends it.
  record = async (column) => {
    if (this.state.recording) {
      this.state.recording.stop();
      return;
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      this.blame(column, "The microphone cannot be used: allow it for this page, or choose a file.");
      return;
    }
    const recorder = new MediaRecorder(stream), parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      const context = new AudioContext();
      const sound = await context.decodeAudioData(await new Blob(parts).arrayBuffer());
      this.choose(column, wav(sound.getChannelData(0), sound.sampleRate), "recording.wav");
      context.close();
      this.setState({ recording: null });
    };
    recorder.start();
    this.setState({ recording: recorder, ...NONE });
  };

  async say(said, thanks) {
    const { answer, rating, edited } = { ...this.state, ...said };
    await this.props.attempt(async () => {
      await feedback({ answer_id: answer.id, rating, edited });
      this.setState({ rating, edited, draft: null, note: "", thanks });
    });
  }

  rate = (rating) => {
    const withdrawn = this.state.rating === rating;
    return this.say({ rating: withdrawn ? null : rating }, withdrawn ? "Taken back." : "Thank you. Noted.");
  };

  correct = () => {
    if (this.state.answer.stored) {
      const right = Object.entries(this.state.answer.heads).map(([name, { answer }]) => [name, written(answer)]);
      this.setState({ draft: Object.fromEntries(right), thanks: "" });
      return;
    }
    const note = this.props.config.store === "never"
      ? "This server keeps no data, so it cannot learn from a correction. A rating still counts."
      : "This record was not kept. Switch on “Keep this record”, ask again, then correct. A rating still counts.";
    this.setState({ note, thanks: "" });
  };

  render({ config }, { busy, answer }) {
    return html`<main class="ask">
      <form class="sheet form" onSubmit=${this.ask}>
        <div class="fields">${config.inputs.map((input) => this.field(input))}</div>
        <div class="bar"><button class="primary" aria-disabled=${busy}>${busy ? "Working…" : "Ask"}</button>${this.consent()}</div>
      </form>
      <section class="sheet answers" aria-live="polite" aria-busy=${busy}>
        ${answer ? this.answers() : html`<p class="empty">${busy ? "" : "The answer will stand here."}</p>`}
      </section>
    </main>`;
  }

  consent() {
    const { config } = this.props;
    if (config.store !== "consent") return config.store === "always" ? html`<small>${WHY.always}</small>` : "";
    return html`<span class="keep"><input id="keep" type="checkbox" role="switch" checked=${this.state.keep} title=${WHY.consent}
      onChange=${(event) => this.setState({ keep: event.target.checked })} />
      <label for="keep">Keep this record to improve the model</label></span>`;
  }

  field({ column, kind, choices }) {
    const id = `in-${column}`, value = this.state.values[column] ?? "", onInput = this.set(column);
    const fault = this.state.fault?.column === column ? this.state.fault.message : "";
    return html`<div class="input" key=${column} data-fault=${fault ? "" : null}>
      <label for=${id}>${column}</label>
      ${kind in ACCEPTS ? this.file(id, column, kind)
        : kind === "text" || kind === "pair" ? html`<textarea id=${id} rows="3" value=${value} onInput=${onInput}></textarea>`
        : kind === "boolean" ? this.select(id, value, onInput, ["yes", "no"])
        : choices.length && choices.length <= MANY ? this.select(id, value, onInput, choices)
        : html`<input id=${id} type=${kind === "number" ? "number" : kind === "date" ? "date" : "text"} step="any" value=${value}
            list=${choices.length ? `${id}-list` : null} onInput=${onInput} placeholder="missing" autocomplete="off" />
            ${choices.length ? html`<datalist id=${`${id}-list`}>${choices.map((c) => html`<option value=${c} />`)}</datalist>` : ""}`}
      ${fault && html`<small class="fault" role="alert">${fault}</small>`}
    </div>`;
  }

  select(id, value, onChange, choices) {
    return html`<select id=${id} value=${value} onChange=${onChange}>
      <option value="">missing</option>${choices.map((choice) => html`<option value=${choice}>${choice}</option>`)}</select>`;
  }

  file(id, column, kind) {
    const chosen = this.state.files[column];
    const take = ({ target }) => target.files[0] && this.choose(column, target.files[0], target.files[0].name);
    return html`<div class="file">
      <input id=${id} type="file" accept=${ACCEPTS[kind]} onChange=${take} />
      ${kind === "audio" && html`<button type="button" aria-pressed=${Boolean(this.state.recording)} onClick=${() => this.record(column)}>
        ${this.state.recording ? "Stop recording" : "Record"}</button>`}
      ${chosen && (kind === "image" ? html`<img src=${chosen.url} alt=${`The chosen ${column}`} />`
        : html`<audio src=${chosen.url} controls></audio>`)}
    </div>`;
  }

  answers() {
    const { answer, rating, draft, thanks, note } = this.state;
    const thumb = (value, label, picture) => html`<button class="thumb" aria-pressed=${rating === value} aria-label=${label}
      title=${label} onClick=${() => this.rate(value)}>${picture}</button>`;
    return html`<div class="heads">${Object.entries(answer.heads).map(([name, head]) => this.head(name, head))}</div>
      <div class="verdict">
        <div class="row">
          <span class="question">Is it right?</span>${thumb("up", "Right", UP)}${thumb("down", "Wrong", DOWN)}
          ${draft === null && this.correctable() && html`<button onClick=${this.correct}>The right answer is …</button>`}
          <span class="thanks" role="status">${thanks || note}</span>
        </div>
        ${draft !== null && this.desk()}
        <small>Answer <code>${answer.id}</code></small>
      </div>`;
  }

  kind(name) {
    return this.props.config.heads.find((head) => head.name === name)?.kind;
  }

  // The text in which a head marks spans.
  marked(name, { answer, read }) {
    const { column } = this.props.config.heads.find((head) => head.name === name);
    return html`<div class="head"><h2>${name}</h2>
      <output class="marked">${marked(this.state.values[column] ?? "", answer, read)}</output>
      <small>${answer.length ? `${plural(answer.length, "span")}.` : "Nothing was found."}${read === undefined ? ""
        : ` Only the first ${read.toLocaleString()} characters were read.`}</small></div>`;
  }

  head(name, given) {
    const { answer, probabilities, quantiles } = given;
    if (this.kind(name) === "boxes") return this.found(name, answer);
    if (this.kind(name) === "tags") return this.marked(name, given);
    if (this.kind(name) === "embedding" && Array.isArray(answer)) return this.vector(name, answer);
    const shown = Array.isArray(answer) ? answer.map((part) => (typeof part === "object" ? JSON.stringify(part) : part)).join(", ") || "none"
      : typeof answer === "number" ? Number(answer.toPrecision(6)).toLocaleString() : String(answer);
    const range = quantiles && Object.entries(quantiles).map(([share, value]) => `${Number((100 * share).toPrecision(4))}%: ${Number(value.toPrecision(4))}`).join(", ");
    return html`<div class="head">
      <h2>${name}</h2>
      <output class="given">${shown}</output>
      ${range && html`<small>${range}</small>`}
      ${probabilities && html`<ol class="shares">${Object.entries(probabilities).slice(0, 10).map(([choice, share]) => html`<li>
        <span>${choice}</span><meter min="0" max="1" value=${share} aria-label=${`${choice}: ${percent(share)}`}></meter>
        <span class="share">${percent(share)}</span></li>`)}</ol>`}
    </div>`;
  }

  vector(name, numbers) {
    return html`<div class="head"><h2>${name}</h2>
      <output class="given">${plural(numbers.length, "number")}</output>
      <code class="vector">${numbers.join(" ")}</code></div>`;
  }

  // Whether a right answer can be written: how near a text is to no other cannot.
  correctable() {
    return this.props.config.heads.some(({ name, kind, graded }) =>
      kind !== "embedding" || (graded && typeof this.state.answer.heads[name].answer === "number"));
  }

  found(name, things) {
    const { column } = this.props.config.inputs.find(({ kind }) => kind === "image");
    return html`<div class="head">
      <h2>${name}</h2>
      <output class="given">${things.length || "none"}</output>
      <${Boxes} url=${this.state.files[column]?.url} things=${things} />
    </div>`;
  }

  desk() {
    const { config } = this.props, { draft } = this.state;
    const write = (name) => (event) => this.setState(({ draft: before }) => ({ draft: { ...before, [name]: event.target.value } }));
    const send = (event) => {
      event.preventDefault();
      const things = config.heads.filter(({ kind }) => kind === "boxes").map(({ name }) => name);
      try {
        things.forEach((name) => JSON.parse(draft[name]));
      } catch (error) {
        this.setState({ thanks: "", note: `That is no JSON: ${error.message}` });
        return;
      }
      this.say({ edited: draft }, "Thank you. The model can learn from it.");
    };
    return html`<form class="desk" onSubmit=${send}>
      ${config.heads.map(({ name, kind, choices }) => html`<label for=${`right-${name}`}>${name}</label>
        ${kind === "boxes" || kind === "tags"
          ? html`<textarea id=${`right-${name}`} rows="5" value=${draft[name]} required spellcheck="false" onInput=${write(name)}></textarea>
              ${kind === "tags" && html`<small>start and end count characters from 0; [] where there is nothing. Labels: ${choices.join(", ")}</small>`}`
          : choices.length && choices.length <= 200 && kind !== "labels"
          ? html`<select id=${`right-${name}`} value=${draft[name]} onChange=${write(name)}>
              ${choices.map((choice) => html`<option value=${choice}>${choice}</option>`)}</select>`
          : html`<input id=${`right-${name}`} type=${kind === "number" || kind === "embedding" ? "number" : "text"} step="any" value=${draft[name]} required
              onInput=${write(name)} />`}`)}
      <div class="row"><button class="primary">Send</button>
        <button type="button" onClick=${() => this.setState({ draft: null })}>Cancel</button></div>
    </form>`;
  }
}
