// Start of the page: what the server can do, and which part is shown.
import {get, showError} from "./api.js";
import {startAsking} from "./ask.js";
import {byId} from "./dom.js";
import {startSearching} from "./search.js";

const VIEWS = ["ask", "search"];

function show(view) {
  for (const name of VIEWS) {
    byId(`view-${name}`).hidden = name !== view;
    if (name === view) byId(`tab-${name}`).setAttribute("aria-current", "page");
    else byId(`tab-${name}`).removeAttribute("aria-current");
  }
  document.title = view === "search" ? "Search · ClipBERT" : "ClipBERT";
  showError(null);
}

const viewOf = () => VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "ask";

// Waits until the models are loaded.
async function readyServer() {
  for (;;) {
    const info = await get("/v1/info");
    if (info.ready) return info;
    byId("models").textContent = "The server is loading its models.";
    await new Promise(resolve => setTimeout(resolve, 500));
  }
}

async function start() {
  addEventListener("hashchange", () => show(viewOf()));
  show(viewOf());
  const info = await readyServer();
  byId("models").textContent = `Version ${info.version}. Models: ${Object.values(info.models).join(" · ") || "loading"}.`;
  startAsking(info);
  startSearching(info);
  document.documentElement.dataset.ready = "true";
}

start().catch(showError);
