import { ask, attempt, say } from "./common.js";

const form = document.getElementById("add"), once = document.getElementById("shown-once"), secret = document.getElementById("secret");
const sure = document.getElementById("sure");
let name = "";

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const scopes = [...form.querySelectorAll("[name=scopes]:checked")].map((box) => box.value);
  const limits = form.limits.value.split("\n").map((line) => line.trim()).filter(Boolean);
  await attempt(async () => {
    const made = await ask("/console/keys", { name: form.elements.name.value, scopes, expires: form.expires.value, limits });
    document.getElementById("secret-of").textContent = `Key of ${made.name}`;
    secret.value = made.key;
    once.hidden = false;
    form.reset();
    say(`The key of ${made.name} was made. It is shown once.`);
    secret.focus();
    secret.select();
  });
});

document.getElementById("copy").addEventListener("click", async () => {
  secret.select();
  try {
    await navigator.clipboard.writeText(secret.value);
    say("Copied.");
  } catch {
    say("It is marked: copy it with Ctrl C.");
  }
});

document.getElementById("seen").addEventListener("click", () => location.reload());

for (const button of document.querySelectorAll(".revoke")) {
  button.addEventListener("click", () => {
    name = button.closest("tr").dataset.key;
    document.getElementById("sure-of").textContent = `Revoke the key of ${name}?`;
    sure.showModal();
    document.getElementById("keep-key").focus();
  });
}
document.getElementById("keep-key").addEventListener("click", () => sure.close());
document.getElementById("do-revoke").addEventListener("click", async () => {
  sure.close();
  if (await attempt(() => ask("/console/keys/revoke", { name }))) location.reload();
});
