// Replace the pieces of the page that have changed. Their HTML is made and escaped by the server; answers to controls are text.
const byId = (id) => document.getElementById(id);

function replace(id, html) {
  const piece = byId(id);
  const focused = piece.contains(document.activeElement) ? document.activeElement.id : "";
  const open = [...piece.querySelectorAll("details")].map((each) => each.open);
  const scrolled = [...piece.querySelectorAll(".scroll")].map((each) => [each.scrollLeft, each.scrollTop]);
  piece.innerHTML = html;
  piece.querySelectorAll("details").forEach((each, i) => { each.open = Boolean(open[i]); });
  piece.querySelectorAll(".scroll").forEach((each, i) => { [each.scrollLeft, each.scrollTop] = scrolled[i] ?? [0, 0]; });
  piece.querySelectorAll("figure[data-points]").forEach(followPointer);
  if (focused) byId(focused)?.focus({ preventScroll: true });
}

const source = new EventSource("events");
source.onopen = () => { byId("connection").textContent = "live"; };
source.onerror = () => { byId("connection").textContent = "not connected: these are the last values"; };
source.onmessage = (event) => {
  for (const [id, html] of Object.entries(JSON.parse(event.data))) replace(id, html);
};
source.addEventListener("end", () => {
  source.close();
  byId("connection").textContent = "the page is no longer served: these are the last values";
});

// The token comes in the fragment of the address, which no server sees, or from the field. It is kept for this tab.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
byId("token").value = sessionStorage.getItem("token") ?? "";
byId("token").addEventListener("input", () => sessionStorage.setItem("token", byId("token").value));
byId("token-form").addEventListener("submit", (event) => event.preventDefault());

async function ask(path, said, options = {}) {
  const headers = { Authorization: `Bearer ${encodeURIComponent(byId("token").value)}` };
  try {
    const answer = await fetch(path, { ...options, headers });
    const text = await answer.text();
    if (answer.ok) return text;
    byId(said).textContent = text;
  } catch (error) {
    byId(said).textContent = `no answer: ${error.message}`;
  }
  return null;
}
async function post(path, body) {
  const text = await ask(path, "said", { method: "POST", body: JSON.stringify(body) });
  if (text !== null) byId("said").textContent = text;
}

// A control names what it changes. The server knows the rest: another page may have changed it.
document.addEventListener("click", (event) => {
  const { pause, rollback } = event.target.dataset;
  if (pause) post("replay", { paused: pause === "true" });
  if (rollback && confirm(`Publish release ${rollback} again, under a new version?`)) post("rollback", { version: Number(rollback) });
});
byId("speed-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  post("replay", { paused: false, speed: byId("speed").value === "" ? null : Number(byId("speed").value) });
});
byId("skip-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  post("replay", { paused: false, skip_to: Date.parse(`${byId("skip-to").value}Z`) });
});
byId("user-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("user-said").textContent = "";
  const html = await ask(`user?name=${encodeURIComponent(byId("user-name").value)}`, "user-said");
  replace("user", html ?? "");
  if (html !== null) byId("user-said").textContent = "found";
});
