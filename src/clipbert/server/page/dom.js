// Small helpers to build the page.

export const byId = id => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const percent = share => `${(100 * share).toFixed(1)} %`;

export function seconds(value) {
  if (value < 60) return `${value.toFixed(1)} s`;
  const rest = Math.floor(value % 60);
  return `${Math.floor(value / 60)}:${String(rest).padStart(2, "0")} min`;
}

export const sizeOf = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

export function meter(share) {
  const bar = make("i");
  bar.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  return make("div", {class: "meter", "aria-hidden": "true"}, bar);
}
