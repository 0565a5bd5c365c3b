// The training that goes on, drawn anew every 2 s while it does and someone looks.

import "./common.js";

const region = document.getElementById("training");

async function look() {
  if (document.visibilityState !== "visible") return;
  const response = await fetch("/console/runs/live", { cache: "no-store" }).catch(() => null);
  if (response?.ok) region.innerHTML = await response.text(); // the server's own markup, in which all text is escaped
  if (state() !== "running") clearInterval(timer);
}

const state = () => document.getElementById("training-state")?.dataset.state;
const timer = setInterval(look, 2000);
if (state() !== "running") clearInterval(timer);
