// A picture with the boxes of what was found in it, which are told in the picture's own pixels.

import { Component } from "./vendor/preact.module.js";
import { html, percent } from "./parts.js";

const TONES = 6;

export class Boxes extends Component {
  state = { size: null };

  measure = ({ target }) => this.setState({ size: [target.naturalWidth, target.naturalHeight] });

  render({ url, things }) {
    const labels = [...new Set(things.map(({ label }) => label))].sort();
    const tone = (label) => `tone-${labels.indexOf(label) % TONES}`;
    return html`<figure class="found">
      ${url && html`<div><img src=${url} alt="The picture that was asked about" onLoad=${this.measure} />${this.drawn(things, tone)}</div>`}
      <ol class="shares">${things.map(({ box, label, probability }) => html`<li>
        <span class=${tone(label)} title=${`x, y, width, height: ${box.join(", ")}`}>${label}</span>
        <meter min="0" max="1" value=${probability} aria-label=${`${label}: ${percent(probability)}`}></meter>
        <span class="share">${percent(probability)}</span></li>`)}</ol>
    </figure>`;
  }

  drawn(things, tone) {
    if (!this.state.size) return "";
    const [wide, high] = this.state.size, letter = Math.max(wide, high) / 24;
    return html`<svg viewBox=${`0 0 ${wide} ${high}`} aria-hidden="true">${things.map(({ box: [x, y, w, h], label }) => html`
      <g class=${tone(label)}><rect x=${x} y=${y} width=${w} height=${h} />
        <text x=${x} y=${y > letter * 1.3 ? y - letter * 0.3 : y + h + letter} font-size=${letter}>${label}</text></g>`)}</svg>`;
  }
}
