// Under the pointer: a vertical rule and the values of every series at that place.
for (const figure of document.querySelectorAll("figure[data-points]")) {
  const { labels, left, width, series } = JSON.parse(figure.dataset.points);
  const svg = figure.querySelector("svg");
  const rule = svg.querySelector(".rule");
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  figure.append(tip);
  const hide = () => { tip.hidden = true; rule.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const last = labels.length - 1;
    const at = Math.round((((event.clientX - box.left) * scale - left) / width) * last);
    if (last < 1 || at < 0 || at > last) return hide();
    const x = left + (width * at) / last;
    rule.setAttribute("x1", x);
    rule.setAttribute("x2", x);
    rule.setAttribute("visibility", "visible");
    const rows = Object.entries(series).filter(([, values]) => values[at] !== null);
    tip.replaceChildren(labels[at]);
    for (const [name, values] of rows) {
      tip.append(document.createElement("br"), `${name} ${values[at]}`);
    }
    tip.hidden = false;
    const room = figure.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.min(Math.max(0, x / scale + 12), room)}px`;
    tip.style.top = `${svg.offsetTop + 20}px`;
  });
}
