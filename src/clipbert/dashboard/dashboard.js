// Sorts the tables by their header buttons, and shows the lines and points of the row that is pointed at.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : head.classList.contains("n");
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const key = (row) => row.cells[index].dataset.sort ?? row.cells[index].textContent.trim().toLowerCase();
    const rows = [...body.rows].sort((a, b) => {
      const first = key(a), second = key(b);
      if ((first === "") !== (second === "")) return first === "" ? 1 : -1;  // rows without a value come last
      const order = head.classList.contains("n") ? first - second : first.localeCompare(second);
      return down ? -order : order;
    });
    body.append(...rows);
  }));
}
const marks = [...document.querySelectorAll("svg [data-name]")];
for (const mark of marks) {
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = mark.dataset.name;
  mark.append(title);
}
function pick(name) {
  for (const mark of marks) mark.classList.toggle("on", mark.dataset.name === name);
  for (const svg of document.querySelectorAll("svg")) {
    svg.classList.toggle("picked", name !== null && svg.querySelector("[data-name].on") !== null);
  }
  for (const row of document.querySelectorAll("tr[data-name]")) row.classList.toggle("on", row.dataset.name === name);
}
for (const element of [...marks, ...document.querySelectorAll("tr[data-name]")]) {
  element.addEventListener("pointerenter", () => pick(element.dataset.name));
  element.addEventListener("pointerleave", () => pick(null));
}
