// Why: the frames that the model saw, what each clip alone gives, and the words that count.
import {byId, make, meter, percent, seconds} from "./dom.js";

const COLORS = [[255, 217, 77], [242, 115, 13], [204, 26, 13]];

function heatColor(value) {
  const place = Math.max(0, Math.min(1, value)) * (COLORS.length - 1);
  const low = Math.min(Math.floor(place), COLORS.length - 2), share = place - low;
  const mixed = COLORS[low].map((part, i) => Math.round(part + (COLORS[low + 1][i] - part) * share));
  return [...mixed, Math.round(255 * 0.72 * Math.max(0, Math.min(1, value)))];
}

// Draws the relevance of grid cells over a frame, which fills the upper left part of the grid.
function drawHeat(canvas, explained, cells) {
  const rows = cells.length, columns = cells[0].length;
  const grid = new OffscreenCanvas(columns, rows), painted = grid.getContext("2d");
  const pixels = painted.createImageData(columns, rows);
  cells.flat().forEach((value, i) => pixels.data.set(heatColor(value), 4 * i));
  painted.putImageData(pixels, 0, 0);
  canvas.width = 240;
  canvas.height = 240;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(grid, 0, 0, columns * explained.shown_width, rows * explained.shown_height, 0, 0, 240, 240);
}

function frameButton(explained, clip, frame, number, seek) {
  const canvas = make("canvas", {"aria-hidden": "true"});
  drawHeat(canvas, explained, clip.cells);
  const time = seconds(frame.time_s);
  return make(
    "button",
    {type: "button", class: "frame", "aria-label": `Frame at ${time}, clip ${number + 1}: show it in the video`,
      onclick: () => seek(frame.time_s)},
    make("span", {class: "shot"}, make("img", {src: frame.image, alt: ""}), canvas),
    make("span", {class: "time"}, time),
  );
}

export function showWhy(explained, kind, seek) {
  const box = byId("why");
  box.hidden = !explained;
  if (!explained) return;
  const heat = make("input", {type: "checkbox", id: "heat"});
  heat.checked = true;
  const best = Math.max(...explained.clips.map(clip => clip.score));
  const clips = explained.clips.map((clip, number) => make(
    "li", {class: "clip"},
    make("div", {class: "clip-frames"}, ...clip.frames.map(frame => frameButton(explained, clip, frame, number, seek))),
    make("div", {class: "row"},
      make("span", {}, `Clip ${number + 1}${clip.score === best && explained.clips.length > 1 ? ", counts most" : ""}`),
      make("span", {class: "value"}, percent(clip.score)), meter(clip.score)),
  ));
  const words = explained.words.map(({word, relevance}) => {
    const chip = make("li", {class: "word", title: percent(relevance)}, word,
      make("span", {class: "visually-hidden"}, ` ${percent(relevance)}`));
    chip.style.setProperty("--share", relevance);
    return chip;
  });
  const list = make("ol", {class: "clips"}, ...clips);
  heat.addEventListener("change", () => list.classList.toggle("no-heat", !heat.checked));
  box.replaceChildren(
    make("div", {class: "why-head"},
      make("h2", {id: "why-title"}, "Which frames were used, and why"),
      make("label", {class: "check"}, heat, "Color where the model looked")),
    make("p", {class: "soft"}, kind === "caption"
      ? "The model saw these frames. Percentages say how well each clip alone fits the caption."
      : `The model saw these frames. Percentages say how probable “${explained.about}” is from each clip alone.`),
    list,
    ...(words.length ? [make("h3", {}, kind === "caption" ? "Probability of each word" : "Words that the answer rests on"),
      make("ul", {class: "words"}, ...words)] : []),
  );
}
