// Show a vertical rule and the values of all series at the point nearest to the pointer.
function followPointer(figure) {
  const { labels, at, series } = JSON.parse(figure.dataset.points);
  const svg = figure.querySelector("svg");
  const rule = svg.querySelector(".rule");
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  figure.append(tip);
  const hide = () => { tip.hidden = true; rule.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const pointer = (event.clientX - box.left) * scale;
    if (at.length < 2 || pointer < at[0] - 20 || pointer > at[at.length - 1] + 20) return hide();
    const point = at.reduce((best, x, i) => (Math.abs(x - pointer) < Math.abs(at[best] - pointer) ? i : best), 0);
    const x = at[point];
    rule.setAttribute("x1", x);
    rule.setAttribute("x2", x);
    rule.setAttribute("visibility", "visible");
    const rows = Object.entries(series).filter(([, values]) => values[point] !== null);
    tip.replaceChildren(labels[point]);
    for (const [name, values] of rows) {
      tip.append(document.createElement("br"), `${name} ${values[point]}`);
    }
    tip.hidden = false;
    const room = figure.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.min(Math.max(0, x / scale + 12), room)}px`;
    tip.style.top = `${svg.offsetTop + 20}px`;
  });
}
for (const figure of document.querySelectorAll("figure[data-points]")) followPointer(figure);
