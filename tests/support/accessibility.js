// Of axe's rules those that a page of ours can break: names, labels, ids, headings in order, focus, contrast, language.
const bad = [], name = e => (e.getAttribute("aria-label") || e.textContent || "").trim();
for (const e of document.querySelectorAll("button, [role=region]")) if (!name(e)) bad.push("no name: " + e.outerHTML);
for (const e of document.querySelectorAll("input")) if (!e.labels.length) bad.push("no label: " + e.id);
for (const e of document.querySelectorAll("svg[role=img]")) for (const id of e.getAttribute("aria-labelledby").split(" "))
  if (!document.getElementById(id)) bad.push("no title: " + id);
const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
for (const id of ids) if (ids.indexOf(id) != ids.lastIndexOf(id)) bad.push("twice: " + id);
let level = 0;
for (const e of document.querySelectorAll("h1, h2, h3")) {
  if (+e.tagName[1] > level + 1) bad.push("heading skips a level: " + e.textContent);
  level = +e.tagName[1];
}
for (const e of document.querySelectorAll("th")) if (!name(e)) bad.push("empty header of a column");
for (const e of document.querySelectorAll(".scroll"))
  if (e.clientHeight && e.scrollHeight > e.clientHeight + 1 && e.tabIndex < 0 && !e.closest("details")) bad.push("no focus");
const luminance = colour => colour.match(/[\d.]+/g).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
for (const e of document.querySelectorAll("p, td, th, h1, h2, h3, label, button, summary, figcaption, .tile b")) {
  let behind = e;
  while (behind && getComputedStyle(behind).backgroundColor == "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const [a, b] = [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor].map(luminance).sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5 && e.textContent.trim()) bad.push("contrast: " + e.textContent);
}
if (!document.documentElement.lang || !document.title) bad.push("no language or title");
return bad;
