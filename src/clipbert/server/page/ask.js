// One video: pick it, ask, choose, caption, match.
import {post, RequestError, showError} from "./api.js";
import {byId, make, meter, percent, sizeOf} from "./dom.js";
import {showWhy} from "./why.js";

const MODES = {ask: ["Ask", "Ask"], choose: ["Choose", "Choose"], caption: ["Caption", "Describe"], match: ["Match", "Compare"]};
const state = {mode: "ask", file: null, id: null, address: null, running: null, uploadMb: Infinity};

function chooseMode(mode) {
  state.mode = mode;
  for (const field of document.querySelectorAll("[data-mode]")) field.hidden = !field.dataset.mode.split(" ").includes(mode);
  byId("submit").textContent = MODES[mode][1];
}

function addModes(models) {
  const names = Object.keys(MODES).filter(name => models[name]);
  const first = names[0];
  byId("modes").append(...names.map(name => {
    const input = make("input", {type: "radio", name: "mode", value: name, onchange: () => chooseMode(name)});
    input.checked = name === first;
    return make("label", {}, input, make("span", {}, MODES[name][0]));
  }));
  chooseMode(first);
}

function addOption(text = "") {
  const field = make("input", {type: "text", maxlength: "1000", autocomplete: "off", "aria-label": "Option"});
  field.value = text;
  const remove = make("button", {type: "button", class: "secondary small", "aria-label": "Remove this option"}, "Remove");
  const row = make("div", {class: "option"}, field, remove);
  remove.addEventListener("click", () => {
    if (byId("options").children.length > 2) row.remove();
    else field.value = "";
    byId("add-option").focus();
  });
  byId("options").append(row);
  return field;
}

function clearResult() {
  byId("result").hidden = true;
  showWhy(null);
  showError(null);
}

// Shows a video: a file of the reader, or one of the library by its path and address.
export function pick({file = null, id = null, address = null, start = null, end = null, picture: still = false}) {
  if (file && file.size > state.uploadMb * 1e6) {
    showError(new RequestError(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB: this server takes at most ${state.uploadMb} MB.`));
    return;
  }
  if (state.file && state.address) URL.revokeObjectURL(state.address);
  Object.assign(state, {file, id, address: file ? URL.createObjectURL(file) : address});
  clearResult();
  const isPicture = file ? file.type.startsWith("image/") : still;
  const video = byId("video"), picture = byId("picture");
  video.hidden = Boolean(isPicture);
  picture.hidden = !isPicture;
  video.removeAttribute("src");
  picture.removeAttribute("src");
  if (isPicture) picture.src = state.address;
  else if (state.address) video.src = state.address + (start === null ? "" : `#t=${start}`);
  byId("picked-name").textContent = file ? file.name : id;
  byId("picked-detail").textContent = file ? sizeOf(file.size) : "from the library";
  byId("start").value = start === null ? "" : start.toFixed(1);
  byId("end").value = end === null ? "" : end.toFixed(1);
  byId("segment").open = start !== null;
  byId("segment").hidden = Boolean(isPicture);
  byId("drop").hidden = true;
  byId("picked").hidden = false;
  byId("question").focus({preventScroll: true});
}

function unpick() {
  Object.assign(state, {file: null, id: null, address: null});
  byId("video").removeAttribute("src");
  byId("video").load();
  byId("drop").hidden = false;
  byId("picked").hidden = true;
  byId("file").value = "";
  clearResult();
  byId("file").focus();
}

// The fields of the form; throws what is missing, in words.
function fields() {
  const form = new FormData();
  const need = (text, id, message) => {
    if (text) return text;
    byId(id).focus();
    throw new RequestError(message);
  };
  if (!state.file && !state.id) need("", "file", "Choose a video or picture first.");
  if (state.file) form.append("video", state.file, state.file.name);
  else form.append("video_id", state.id);
  if (state.mode === "ask" || state.mode === "choose") {
    form.append("question", need(byId("question").value.trim(), "question", "Write a question first."));
  }
  if (state.mode === "choose") {
    const options = [...document.querySelectorAll(".option input")].map(field => field.value.trim()).filter(Boolean);
    if (options.length < 2) need("", "add-option", "Write two options or more.");
    for (const option of options) form.append("options", option);
  }
  if (state.mode === "match") {
    const texts = byId("texts").value.split("\n").map(text => text.trim()).filter(Boolean);
    need(texts.length, "texts", "Write at least one description.");
    for (const text of texts) form.append("texts", text);
  }
  if (!byId("segment").hidden) {
    if (byId("start").value) form.append("start_s", byId("start").value);
    if (byId("end").value) form.append("end_s", byId("end").value);
  }
  form.append("explain", byId("explain").checked);
  return form;
}

function working(on) {
  byId("submit").disabled = on;
  byId("cancel").hidden = !on;
  byId("progress").hidden = !on;
  if (!on) byId("status").textContent = "";
}

function progress(share) {
  const uploading = state.file && share < 1;
  byId("progress").classList.toggle("unknown", !uploading);
  byId("fill").style.width = uploading ? `${100 * share}%` : "";
  byId("status").textContent = uploading ? `Uploading, ${Math.round(100 * share)} %` : "The model watches the video.";
}

async function submit(event) {
  event.preventDefault();
  if (state.running) return;
  clearResult();
  let form;
  try {
    form = fields();
  } catch (error) {
    showError(error);
    return;
  }
  state.running = new AbortController();
  const mode = state.mode, started = performance.now();
  working(true);
  progress(state.file ? 0 : 1);
  try {
    const answer = await post(`/v1/${mode}`, form, progress, state.running.signal);
    show(mode, answer, (performance.now() - started) / 1000);
  } catch (error) {
    showError(error);
  } finally {
    state.running = null;
    working(false);
  }
}

function row(text, value, share) {
  return make("li", {class: "row"}, make("span", {}, text), make("span", {class: "value"}, value), meter(share));
}

function rowsOf(mode, answer) {
  if (mode === "match") {
    const odds = answer.score_kind === "log_odds";
    return answer.texts.map(found => row(
      found.text, odds ? `score ${found.score.toFixed(2)}` : percent(found.score),
      odds ? 1 / (1 + Math.exp(-found.score)) : found.score));
  }
  return (answer.answers || []).map(found => {
    const share = found.confidence ?? found.score;
    return row(found.answer, percent(share), share);
  });
}

function show(mode, answer, took) {
  const best = mode === "caption" ? answer.caption || "(an empty caption)" : mode === "match" ? answer.texts[0].text : answer.answers[0].answer;
  const notes = answer.remarks.map(remark => make("p", {class: "note"}, `${remark[0].toUpperCase()}${remark.slice(1)}.`));
  const scale = mode === "caption" ? `log-probability ${answer.score.toFixed(2)}`
    : mode === "match" ? (answer.score_kind === "log_odds" ? "scores are log odds of a match" : "probability of a match")
    : answer.calibrated ? "calibrated probabilities" : "probabilities, not calibrated";
  const box = byId("result");
  box.replaceChildren(
    make("h3", {class: "best"}, best),
    ...(mode === "caption" ? [] : [make("ol", {class: "rows"}, ...rowsOf(mode, answer))]),
    ...notes,
    make("p", {class: "facts"}, `${scale} · ${answer.model.name} · ${took.toFixed(1)} s`),
  );
  box.hidden = false;
  showWhy(answer.explanation, mode, seek);
  box.focus({preventScroll: true});
}

function seek(time) {
  const video = byId("video");
  if (video.hidden || !video.src) return;
  video.pause();
  video.currentTime = time;
  video.scrollIntoView({block: "nearest"});
}

export function startAsking(info) {
  state.uploadMb = info.limits.upload_mb;
  byId("drop-limits").textContent =
    `Up to ${info.limits.upload_mb} MB and ${Math.round(info.limits.duration_s / 60)} minutes. It is not kept.`;
  addModes(info.models);
  addOption();
  addOption();
  byId("add-option").addEventListener("click", () => addOption().focus());
  byId("file").addEventListener("change", event => { if (event.target.files[0]) pick({file: event.target.files[0]}); });
  byId("replace").addEventListener("click", unpick);
  byId("form").addEventListener("submit", submit);
  byId("cancel").addEventListener("click", () => state.running && state.running.abort());
  byId("start-now").addEventListener("click", () => { byId("start").value = byId("video").currentTime.toFixed(1); });
  byId("end-now").addEventListener("click", () => { byId("end").value = byId("video").currentTime.toFixed(1); });
  const stage = byId("drop").parentElement;
  for (const name of ["dragenter", "dragover"]) {
    stage.addEventListener(name, event => { event.preventDefault(); byId("drop").classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) stage.addEventListener(name, () => byId("drop").classList.remove("over"));
  stage.addEventListener("drop", event => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) pick({file: event.dataTransfer.files[0]});
  });
  for (const name of ["dragover", "drop"]) addEventListener(name, event => event.preventDefault());
}
