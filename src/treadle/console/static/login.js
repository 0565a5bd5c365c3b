import { ask, attempt } from "./common.js";

const form = document.getElementById("sign-in");

form.key.focus();
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await attempt(() => ask("/console/login", { key: form.key.value.trim() }))) location.assign(form.dataset.after);
  else form.key.select();
});
