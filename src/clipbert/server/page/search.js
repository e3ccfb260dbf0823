// Search over the library: moments with thumbnails, which play where they were found.
import {post, RequestError, showError} from "./api.js";
import {pick} from "./ask.js";
import {byId, make, seconds} from "./dom.js";

const SHOWN = 24;
let current = null;

// What the reader sees on the picture itself, or does not look for.
const TECHNICAL = new Set(["kind", "container", "codec", "width", "height", "fps", "duration_s"]);

const isPicture = hit => hit.end_s <= hit.start_s;
const range = hit => !isPicture(hit) ? `${seconds(hit.start_s)} to ${seconds(hit.end_s)}` : "picture";
const nameOf = hit => hit.video_id.split("/").pop();

function watch(hit) {
  current = hit;
  byId("watch-title").textContent = nameOf(hit);
  byId("watch-detail").textContent = `${range(hit)} · score ${hit.score.toFixed(2)}`;
  const video = byId("watch-video"), picture = byId("watch-picture");
  picture.hidden = !isPicture(hit);
  video.hidden = isPicture(hit);
  byId("watch-ask").textContent = isPicture(hit) ? "Ask about this picture" : "Ask about this moment";
  if (isPicture(hit)) {
    picture.src = hit.media;
    byId("watch").showModal();
    return;
  }
  video.poster = hit.thumbnail;
  video.src = `${hit.media}#t=${hit.start_s},${hit.end_s}`;
  byId("watch").showModal();
  video.play().catch(() => {});  // the browser may want a click first
}

function card(hit) {
  const metadata = Object.entries(hit.metadata).filter(([name, value]) => !TECHNICAL.has(name) && value !== null).map(([name, value]) => `${name}: ${value}`).join(" · ");
  return make("li", {class: "hit"}, make(
    "button",
    {type: "button", onclick: () => watch(hit), "aria-label": `${nameOf(hit)}, ${range(hit)}: play`},
    make("span", {class: "shot"},
      make("img", {src: hit.thumbnail, alt: "", loading: "lazy"}), make("span", {class: "range"}, range(hit))),
    make("span", {class: "text"},
      make("span", {class: "name"}, nameOf(hit)), make("span", {class: "score"}, hit.score.toFixed(2)),
      make("span", {class: "meta"}, metadata)),
  ));
}

async function search(event) {
  event.preventDefault();
  const text = byId("query").value.trim();
  showError(null);
  if (!text) {
    byId("query").focus();
    showError(new RequestError("Write what to look for first."));
    return;
  }
  const button = byId("search-submit"), status = byId("search-status"), started = performance.now();
  button.disabled = true;
  status.textContent = "Searching.";
  try {
    const form = new FormData();
    form.append("text", text);
    form.append("k", SHOWN);
    const found = await post("/v1/search", form);
    byId("hits").replaceChildren(...found.hits.map(card));
    const took = ((performance.now() - started) / 1000).toFixed(2);
    status.textContent = found.hits.length
      ? `${found.hits.length} moments of ${found.videos} videos, best first, in ${took} s.` : "Nothing was found.";
  } catch (error) {
    status.textContent = "";
    byId("hits").replaceChildren();
    showError(error);
  } finally {
    button.disabled = false;
  }
}

export function startSearching(info) {
  if (!info.search) {
    byId("search-status").textContent =
      "The library has no index yet. Make one in the project of the server: clipbert index build";
  }
  byId("search-form").addEventListener("submit", search);
  byId("watch-close").addEventListener("click", () => byId("watch").close());
  byId("watch").addEventListener("close", () => {
    if (byId("watch").open) return;  // the event comes late: another moment is open already
    byId("watch-video").pause();
    byId("watch-video").removeAttribute("src");
    byId("watch-video").load();
  });
  byId("watch-ask").addEventListener("click", () => {
    const hit = current;
    byId("watch").close();
    location.hash = "#ask";
    if (isPicture(hit)) pick({id: hit.video_id, address: hit.media, picture: true});
    else pick({id: hit.video_id, address: hit.media, start: hit.start_s, end: hit.end_s});
  });
}
