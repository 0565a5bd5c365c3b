// The API for people: every route of /openapi.json with what it takes, gives and refuses.

import { Component, render } from "./vendor/preact.module.js";
import { Failure, keepKey, manual } from "./client.js";
import { html, lock } from "./parts.js";

const DEEP = 4; // objects within objects that are opened; a schema that names itself would go on for ever

class Manual extends Component {
  state = { document: null, key: false, failure: "" };

  componentDidMount() {
    this.load();
  }

  async load() {
    this.setState({ failure: "" });
    try {
      const found = await manual();
      document.title = `API of ${found.info.title} · Treadle`;
      this.setState({ document: found, key: false }, () => document.getElementById(location.hash.slice(1))?.scrollIntoView());
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.setState({ key: error.status === 401, failure: error.message });
    }
  }

  open = (key) => {
    keepKey(key);
    this.load();
  };

  render(_, { document: found, key, failure }) {
    const routes = found ? Object.entries(found.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ path, method, ...operation }))) : [];
    return html`
      <header>
        <a href="/" aria-label="To the model's page"><img src="/page/icon.svg" alt="" width="28" height="28" /></a>
        <h1>${found ? `API of ${found.info.title}` : "API"}</h1>
        ${found && html`<span class="version">version ${found.info.version}</span>`}
      </header>
      ${failure && html`<p class="failure" role="alert">${failure}</p>`}
      ${key && lock(this.open)}
      ${found && html`<main class="api">
        <nav aria-label="Routes">${routes.map((route) => html`<a href=${`#${route.operationId}`}>${route.path}</a>`)}</nav>
        <div class="routes">
          <p class="about">${found.info.description} As JSON: <a href="/openapi.json">/openapi.json</a>.</p>
          ${routes.map((route) => operation(found, route))}
        </div>
      </main>`}`;
  }
}

// What a reference stands for.
function look(found, part) {
  if (!part?.$ref) return part ?? {};
  const { $ref, ...own } = part;
  return { ...$ref.slice(2).split("/").reduce((at, step) => at[step], found), ...own };
}

function operation(found, { path, method, operationId, summary, security, requestBody, responses }) {
  const asked = requestBody?.content["application/json"];
  const [good, ...refused] = Object.entries(responses).map(([status, response]) => [status, look(found, response)]);
  const [kind, given] = Object.entries(good[1].content)[0];
  const scopes = security.flatMap((need) => need.key ?? []);
  const free = security.length === 0 || security.some((need) => !need.key);
  return html`<section id=${operationId} aria-labelledby=${`${operationId}-name`}>
    <h2 id=${`${operationId}-name`}><b>${method.toUpperCase()}</b>${path}<span>${summary}</span></h2>
    ${scopes.length > 0 && html`<p><small>${free ? "Needs no key on this machine; one that is sent must have" : "Needs a key with"} the
      ${" scope "}<code>${scopes.join(", ")}</code>: <code>Authorization: Bearer KEY</code></small></p>`}
    ${asked && html`<div><h3>Request</h3>${fields(found, asked.schema, 0)}</div>`}
    ${asked?.example && html`<details><summary>Example</summary><pre tabindex="0">${command(path, asked.example)}</pre></details>`}
    <details><summary>Response <small>${kind}${good[1].content["text/event-stream"] ? ", or text/event-stream" : ""}</small></summary>
      ${good[1].content["text/event-stream"] && html`<p><small>${good[1].description}</small></p>`}
      ${kind === "application/json" ? fields(found, given.schema, 0) : html`<p><small>Plain text.</small></p>`}</details>
    <details><summary>What is refused <small>${refused.map(([status]) => status).join(", ")}</small></summary>
      <table class="statuses"><thead><tr><th scope="col">status</th><th scope="col">when</th></tr></thead>
      <tbody>${refused.map(([status, { description }]) => html`<tr><td>${status}</td><td>${code(description)}</td></tr>`)}</tbody></table>
    </details>
  </section>`;
}

const command = (path, body) => `curl ${location.origin}${path} \\
  -H 'Content-Type: application/json' \\
  -d '${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`;

// `words` between backquotes as code.
const code = (text) => (text ?? "").split("`").map((piece, place) => (place % 2 ? html`<code>${piece}</code>` : piece));

// The fields of an object, of a list's items, or of the first of several forms that has any.
function fields(found, given, depth) {
  const shape = objectOf(found, given);
  if (!shape || depth >= DEEP) return null;
  const needed = new Set(shape.required ?? []);
  return html`<table><thead><tr><th scope="col">field</th><th scope="col">meaning</th></tr></thead>
    <tbody>${Object.entries(shape.properties).map(([name, field]) => {
      const inner = objectOf(found, field), optional = depth === 0 && shape.additionalProperties === false && !needed.has(name);
      return html`<tr>
        <td>${name}${needed.has(name) && shape.additionalProperties === false && html`<small>needed</small>`}</td>
        <td>${code(look(found, field).description)}<span class="kind">${kindOf(found, field)}${optional ? ", may be left out" : ""}</span>
          ${inner && depth + 1 < DEEP && html`<details><summary><small>its fields</small></summary>${fields(found, field, depth + 1)}</details>`}</td>
      </tr>`;
    })}</tbody></table>`;
}

function objectOf(found, given) {
  const shape = look(found, given);
  if (shape.properties && Object.keys(shape.properties).length) return shape;
  if (shape.items) return objectOf(found, shape.items);
  for (const form of shape.anyOf ?? []) {
    const inner = objectOf(found, form);
    if (inner) return inner;
  }
  return null;
}

const BOUNDS = {
  minimum: (n) => ` from ${n}`, exclusiveMinimum: (n) => ` over ${n}`, maximum: (n) => ` to ${n}`, exclusiveMaximum: (n) => ` under ${n}`,
  maxLength: (n) => ` of at most ${n} characters`, maxItems: (n) => `, at most ${n} items`,
};

// A schema's kind in words, such as "integer from 1 to 512 or null".
function kindOf(found, given) {
  const shape = look(found, given);
  const bounds = Object.entries(BOUNDS).filter(([name]) => name in shape).map(([name, words]) => words(shape[name])).join("");
  const seen = shape.examples?.length ? `; seen in training: ${shape.examples.map((name) => JSON.stringify(name)).join(", ")}` : "";
  if (shape.anyOf) return [...new Set(shape.anyOf.map((form) => kindOf(found, form)))].join(" or ") + bounds + seen;
  if ("const" in shape) return JSON.stringify(shape.const);
  if (shape.enum) return shape.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (shape.type === "array") return `list of ${kindOf(found, shape.items ?? {})}${bounds}`;
  return (Array.isArray(shape.type) ? shape.type.join(" or ") : shape.type ?? "any JSON") + bounds + seen;
}

render(html`<${Manual} />`, document.body);
