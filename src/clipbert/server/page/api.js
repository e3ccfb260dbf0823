// Requests to the server. Errors are in words that can be shown.

export class RequestError extends Error {}

const byId = id => document.getElementById(id);

function inWords(status, text) {
  try {
    const error = JSON.parse(text).error;
    return error.message;
  } catch {
    return `The server answered with status ${status}. Its log says why.`;
  }
}

// Asks for the key of the server until it is right.
function askForKey() {
  return new Promise(resolve => {
    const dialog = byId("key-dialog"), form = byId("key-form"), field = byId("key"), error = byId("key-error");
    const refuse = event => event.preventDefault();
    dialog.addEventListener("cancel", refuse);
    form.onsubmit = async event => {
      event.preventDefault();
      error.textContent = "";
      const sent = await fetch("/v1/session", {method: "POST", body: new URLSearchParams({key: field.value || " "})});
      if (sent.status !== 204) {
        error.textContent = "This key is wrong.";
        field.select();
        return;
      }
      field.value = "";
      dialog.close();
      dialog.removeEventListener("cancel", refuse);
      resolve();
    };
    if (!dialog.open) dialog.showModal();
    field.focus();
  });
}

export async function get(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    throw new RequestError("The server does not answer. Is `clipbert serve` still running?");
  }
  if (answer.status === 401) {
    await askForKey();
    return get(path);
  }
  const text = await answer.text();
  if (!answer.ok) throw new RequestError(inWords(answer.status, text));
  return JSON.parse(text);
}

// Sends a form; onProgress gets the share of the upload, then 1. The signal stops it.
export function post(path, form, onProgress = () => {}, signal = null) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.upload.onprogress = event => { if (event.lengthComputable) onProgress(event.loaded / event.total); };
    request.upload.onload = () => onProgress(1);
    request.onerror = () => reject(new RequestError(
      "The server does not answer, or stopped the upload. Is `clipbert serve` still running, and is the file within its limits?"));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.onload = async () => {
      if (request.status === 401) {
        await askForKey();
        post(path, form, onProgress, signal).then(resolve, reject);
      } else if (request.status >= 200 && request.status < 300) {
        resolve(JSON.parse(request.responseText));
      } else {
        reject(new RequestError(inWords(request.status, request.responseText)));
      }
    };
    if (signal) signal.addEventListener("abort", () => request.abort(), {once: true});
    request.send(form);
  });
}

export function showError(error) {
  const box = byId("alert");
  if (error && error.name === "AbortError") return;
  box.textContent = error ? error.message : "";
  box.hidden = !error;
  if (error && !(error instanceof RequestError)) console.error(error);
  if (error) box.scrollIntoView({block: "nearest"});
}
