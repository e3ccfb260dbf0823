"use strict";
// The table of predictions: filters, order and pages of what the JSON element "data" has.
(() => {
  const PAGE = 20;
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("rows");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  let chosen = data.rows;
  let shown = 0;

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function picture(source, alt) {
    const image = element("img");
    image.src = source;
    image.alt = alt;
    return image;
  }

  function strip(entry) {
    const figure = element("div", `strip n${entry.times.length}`);
    figure.append(picture(entry.picture, entry.alt));
    const times = element("ol");
    times.setAttribute("aria-hidden", "true"); // the description of the picture has them
    entry.times.forEach((time, index) => times.append(element("li", entry.used[index] ? "used" : "", time)));
    figure.append(times);
    return figure;
  }

  function ranking(entries) {
    const ranked = element("ol", "ranking");
    entries.forEach((entry, index) => {
      const item = element("li", entry.truth ? "truth" : "");
      const name = `${entry.truth ? "the right video" : "another video"}, ${entry.media}`;
      if (entry.picture) item.append(picture(data.pictures[entry.picture], `a frame of ${name}`));
      item.append(`${index + 1}. score ${entry.score}${entry.truth ? ", right" : ""}`);
      ranked.append(item);
    });
    return ranked;
  }

  function row(entry) {
    const item = element("li", `item${entry.right ? " right" : ""}${entry.strip ? "" : " no-frames"}`);
    if (entry.strip) item.append(strip(data.strips[entry.strip]));
    const words = element("div");
    entry.lines.forEach((line, index) => {
      const paragraph = element("p", index ? "" : "first", line);
      paragraph.dir = "auto";
      words.append(paragraph);
    });
    if (entry.ranking.length) words.append(ranking(entry.ranking));
    const notes = element("div", "notes");
    notes.append(element("span", "outcome", form.elements.outcome.options[entry.right ? 1 : 2].text));
    if (entry.type) notes.append(element("span", "", entry.type));
    notes.append(element("span", "", `score ${entry.shown}`));
    if (entry.loss !== null) notes.append(element("span", "", `loss ${entry.loss}`));
    notes.append(element("span", "", entry.id));
    if (entry.media !== entry.id) notes.append(element("span", "", entry.media));
    words.append(notes);
    item.append(words);
    return item;
  }

  function add() {
    list.append(...chosen.slice(shown, shown + PAGE).map(row));
    shown = Math.min(shown + PAGE, chosen.length);
    more.hidden = shown === chosen.length;
    count.textContent = `${shown} of ${chosen.length} predictions`;
  }

  function value(entry, key) {
    return entry[key] === null ? -Infinity : entry[key];
  }

  function update() {
    const { sample, outcome, type, sort, text } = form.elements;
    const wanted = text.value.trim().toLowerCase();
    chosen = data.rows.filter((entry) =>
      (!sample.value || entry.samples.includes(sample.value)) &&
      (!outcome.value || entry.right === (outcome.value === "right")) &&
      (!type || !type.value || entry.type === type.value) &&
      (!wanted || [entry.id, entry.media, ...entry.lines].some((line) => line.toLowerCase().includes(wanted))));
    if (sort.value) {
      const [key, direction] = sort.value.split("-");
      const sign = direction === "up" ? 1 : -1;
      chosen = [...chosen].sort((a, b) => sign * (value(a, key) - value(b, key)) || 0);
    }
    shown = 0;
    list.replaceChildren();
    add();
  }

  more.addEventListener("click", () => {
    const first = shown;
    add();
    const next = list.children[first];
    next.tabIndex = -1; // so that a keyboard continues at the first new row
    next.focus();
  });
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (!data.rows.some((entry) => entry.loss !== null)) {
    for (const option of [...form.elements.sort.options]) if (option.value.startsWith("loss")) option.remove();
  }
  form.hidden = false;
  update();
})();
