// Tables ----------------------------------------------------------------------------------------------------------

const byName = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;

// Calls `sort(column, text, sign)` when a heading is pressed: numbers fall at first, text rises.
function whenSorted(table, sort) {
  const headers = $$("thead th", table);
  headers.forEach((header, column) => $("button", header)?.addEventListener("click", () => {
    const text = header.dataset.type === "text", first = text ? "ascending" : "descending";
    const second = text ? "descending" : "ascending";
    const direction = header.ariaSort === first ? second : first;
    for (const other of headers) other.ariaSort = null;
    header.ariaSort = direction;
    sort(column, text, direction === "ascending" ? 1 : -1);
  }));
}

function makeSortable(table) {
  const body = table.tBodies[0], original = [...body.rows];
  whenSorted(table, (column, text, sign) => {
    const key = (row) => text ? row.cells[column].textContent.trim() : Number(row.cells[column].dataset.value);
    body.append(...original.toSorted((a, b) => sign * (text ? byName(key(a), key(b)) : key(a) - key(b))));
  });
}

// Long tables: their rows are made as they come into view, for there may be tens of thousands -----------------------

const SPARE = 12; // rows made beyond what is seen

const numberCells = {
  whole: (cell, value) => { cell.textContent = value.toLocaleString("en-US"); },
  odds: (cell, value) => { cell.textContent = value.toFixed(3); },
  ratio: (cell, value) => {
    cell.classList.add("ratio");
    cell.style.setProperty("--ratio", value);
    cell.append(document.createElement("span"));
    cell.firstChild.textContent = `${(100 * value).toFixed(1)}%`;
  },
  share: (cell, value, most) => {
    cell.classList.add("count");
    cell.style.setProperty("--share", value / most);
    cell.append(document.createElement("span"));
    cell.firstChild.textContent = value.toLocaleString("en-US");
  },
};

function makeLong(table, names, numbers) {
  const box = table.closest(".scroll"), body = table.tBodies[0], forms = $$("thead th", table).map((header) => header.dataset.form);
  const columns = [names, ...numbers], most = columns.map((values, column) => column ? values.reduce((a, b) => Math.max(a, b), 1) : 0);
  const everyRow = names.map((_, k) => k);
  let sorted = everyRow, shown = everyRow, height = 40, made = "", wanted = "";

  function rowOf(place) {
    const row = document.createElement("tr"), k = shown[place];
    row.ariaRowIndex = place + 2;
    row.append(...columns.map((values, column) => {
      const cell = document.createElement(column ? "td" : "th"), value = values[k];
      if (column) {
        cell.className = "num";
        if (value === null) cell.textContent = "–";
        else numberCells[forms[column]](cell, value, most[column]);
      } else {
        const name = document.createElement("bdi");
        name.className = "name";
        name.title = name.textContent = value;
        cell.scope = "row";
        cell.append(name);
      }
      return cell;
    }));
    return row;
  }

  function gap(rows) {
    const row = document.createElement("tr"), cell = document.createElement("td");
    row.className = "gap";
    row.ariaHidden = "true";
    cell.colSpan = columns.length;
    cell.style.height = `${rows * height}px`;
    row.append(cell);
    return row;
  }

  function fill(first, last) {
    const range = `${first} ${last}`;
    if (made === range) return;
    made = range;
    const rows = [];
    for (let place = first; place < last; place += 1) rows.push(rowOf(place));
    body.replaceChildren(...(first ? [gap(first)] : []), ...rows, ...(last < shown.length ? [gap(shown.length - last)] : []));
    table.ariaRowCount = shown.length + 1;
  }

  function fillSeen() {
    // In steps, so that most scrolling makes nothing.
    const first = SPARE * Math.max(0, Math.floor(box.scrollTop / height / SPARE) - 1);
    fill(first, Math.min(shown.length, first + Math.ceil(box.clientHeight / height) + 3 * SPARE));
  }

  function again() {
    made = "";
    fillSeen();
  }

  function find() {
    shown = wanted ? sorted.filter((k) => names[k].toLowerCase().includes(wanted)) : sorted;
    box.scrollTop = 0;
    again();
  }

  whenSorted(table, (column, text, sign) => {
    const values = columns[column], none = (k) => Number(values[k] === null);
    // The names come in order; what has no number stays at the end.
    const apart = text ? (a, b) => sign * (a - b) : (a, b) => none(a) - none(b) || sign * (values[a] - values[b]);
    sorted = everyRow.toSorted(apart);
    find();
  });
  const finder = $(`input[aria-controls="${table.id}"]`);
  finder?.addEventListener("input", () => {
    wanted = finder.value.trim().toLowerCase();
    find();
    $("output", finder.closest(".filter")).textContent = wanted ? `${shown.length.toLocaleString("en-US")} of ${names.length.toLocaleString("en-US")}` : "";
  });
  box.addEventListener("scroll", fillSeen, { passive: true });
  addEventListener("beforeprint", () => fill(0, shown.length));
  addEventListener("afterprint", again);
  fillSeen();
  new ResizeObserver(() => {
    // The first row has no line above it.
    const row = $$("tr:not(.gap)", body).at(-1)?.getBoundingClientRect().height;
    if (row && Math.abs(row - height) > 0.01) {
      height = row;
      again();
    } else fillSeen();
  }).observe(box);
}

if ($("#tables")) {
  const { names, columns } = JSON.parse($("#tables").textContent);
  for (const table of $$(".long")) makeLong(table, names, columns[table.id]);
}
for (const table of $$(".sortable:not(.long)")) makeSortable(table);
$("#filter")?.addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase(), rows = [...$("#per-class").tBodies[0].rows];
  for (const row of rows) row.hidden = !$("th", row).textContent.toLowerCase().includes(wanted);
  $("#found").textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
});
