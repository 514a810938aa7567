  // What the whole page shares: elements, the address, the theme, tables, print. Transcripts are in
  // transcripts.js, which stands in the same scope. What a model or a tool wrote is only ever put in
  // as text (`el` makes text nodes of strings), so nothing in it can become an element, a style, an
  // address or code. Class names and attributes come from these files.
  const byId = (id) => document.getElementById(id);

  /** An element. Children are elements or strings; null is left out. */
  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) made.append(child);
    }
    return made;
  }

  // --- theme ------------------------------------------------------------------------------------

  const theme = byId("theme");
  const remembered = () => {
    try { return localStorage.getItem("local-shutdown-theme"); } catch { return null; }
  };
  function setTheme(name) {
    if (name === "light" || name === "dark") document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  }
  theme.value = remembered() || "auto";
  if (!theme.value) theme.value = "auto";
  setTheme(theme.value);
  theme.addEventListener("change", () => {
    setTheme(theme.value);
    try { localStorage.setItem("local-shutdown-theme", theme.value); } catch { /* not kept */ }
  });

  // --- the address: filters of transcripts, an episode, and what tables show ---------------------

  const tables = new Map(); // name -> {sort, desc, find}
  const TABLE_KEYS = /^(sort|find)\./;

  function addressParts() {
    const text = location.hash.slice(1);
    return text.includes("=") ? new URLSearchParams(text) : new URLSearchParams();
  }

  /** Put parts into the address without a new entry of the history, with what tables show. */
  function writeAddress(parts, otherwise) {
    for (const key of [...parts.keys()]) if (TABLE_KEYS.test(key)) parts.delete(key);
    for (const [name, state] of tables) {
      if (state.sort !== null) parts.set(`sort.${name}`, `${state.sort}${state.desc ? "-" : "+"}`);
      if (state.find) parts.set(`find.${name}`, state.find);
    }
    const text = `#${parts.size ? parts : otherwise || ""}`;
    try { history.replaceState(null, "", text); } catch { /* the address stays */ }
  }

  /** After a click on a link: what tables show stays in the address, wherever it leads. */
  function keepTables() {
    const plain = location.hash.slice(1);
    const parts = addressParts();
    const known = [...parts.keys()].some((key) => TABLE_KEYS.test(key));
    const shown = [...tables.values()].some((state) => state.sort !== null || state.find);
    if (known || !shown) return;
    if (!parts.size && plain) parts.set("at", plain);
    writeAddress(parts);
  }

  // --- tables sort and filter --------------------------------------------------------------------

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const text = cell.textContent.trim();
    const number = Number.parseFloat(text.replaceAll(",", "").replace("−", "-").replace("<", ""));
    return /^[<−+\-]?[\d.,]+/.test(text) && !Number.isNaN(number) ? number : text;
  };

  function compare(a, b) {
    const unknown = (value) => value === "–" || value === "" || value === "·";
    if (unknown(a) || unknown(b)) return null;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function setUpTable(table) {
    const name = table.dataset.table;
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const state = { sort: null, desc: false, find: "" };
    tables.set(name, state);

    function show() {
      const order = [...original];
      if (state.sort !== null) {
        const values = new Map(order.map((row) => [row, valueOf(row, state.sort)]));
        const sign = state.desc ? -1 : 1;
        order.sort((a, b) => {
          const [x, y] = [values.get(a), values.get(b)];
          const found = compare(x, y);
          if (found !== null) return sign * found;
          return (compare(x, x) === null) - (compare(y, y) === null); // unknown ones last
        });
      }
      body.replaceChildren(...order);
      const needle = state.find.toLowerCase();
      let left = 0;
      for (const row of original) {
        const hit = !needle || row.textContent.toLowerCase().includes(needle);
        row.classList.toggle("filtered", !hit);
        left += hit;
      }
      heads.forEach((head, n) => {
        if (n === state.sort) head.setAttribute("aria-sort", state.desc ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      if (count) count.textContent = needle ? `${left} of ${original.length} rows` : "";
      if (clear) clear.hidden = state.sort === null && !state.find;
    }

    heads.forEach((head, n) => {
      if (head.getAttribute("aria-hidden")) return;
      const button = el("button", { type: "button", class: "sort" }, ...head.childNodes);
      button.addEventListener("click", () => {
        const first = original.some((row) => typeof valueOf(row, n) === "number");
        if (state.sort !== n) [state.sort, state.desc] = [n, first];
        else if (state.desc === first) state.desc = !first;
        else [state.sort, state.desc] = [null, false];
        show();
        writeAddress(addressParts());
      });
      head.replaceChildren(button);
    });
    let count = null;
    let clear = null;
    let field = null;
    if (name !== "first" && original.length > 5) {
      count = el("span", { role: "status" });
      clear = el("button", { type: "button", hidden: true }, "Clear");
      field = el("input", { type: "search", autocomplete: "off" });
      field.addEventListener("input", () => {
        state.find = field.value.trim();
        show();
        writeAddress(addressParts());
      });
      clear.addEventListener("click", () => {
        Object.assign(state, { sort: null, desc: false, find: "" });
        field.value = "";
        show();
        writeAddress(addressParts());
      });
      const tools = el("div", { class: "tools" }, el("label", {}, "Filter rows ", field), count, clear);
      (table.closest(".scroll") || table).before(tools);
    }
    return {
      name,
      read(parts) {
        const sort = /^(\d+)([+-])$/.exec((parts.get(`sort.${name}`) || "").replace(" ", "+"));
        const column = sort && Number(sort[1]) < heads.length ? Number(sort[1]) : null;
        const find = field ? parts.get(`find.${name}`) || "" : "";
        if (column === state.sort && find === state.find && !(sort && (sort[2] === "-") !== state.desc)) return;
        Object.assign(state, { sort: column, desc: Boolean(sort && sort[2] === "-"), find });
        if (field) field.value = find;
        if (column !== null || find) {
          const folded = table.closest("details");
          if (folded) folded.open = true;
        }
        show();
      },
    };
  }

  const MOST_FIRST = 24;
  /** The first chart is one screen: more models than that are a click away. */
  function foldFirst() {
    const table = document.querySelector("table.chart");
    const more = table ? table.tBodies[0].rows.length - MOST_FIRST : 0;
    if (more <= 0) return;
    table.classList.add("folded");
    const button = el("button", { type: "button", class: "more-rows" }, `Show ${more} more models`);
    button.addEventListener("click", () => {
      table.classList.remove("folded");
      button.remove();
    });
    table.after(button);
  }

  const readers = [...document.querySelectorAll("table[data-table]")].map(setUpTable);
  foldFirst();

  function readTables() {
    const parts = addressParts();
    for (const reader of readers) reader.read(parts);
    const place = parts.get("at") && byId(parts.get("at"));
    if (place) place.scrollIntoView();
  }
  readTables();
  window.addEventListener("hashchange", () => {
    keepTables();
    readTables();
  });

  // --- print: prompts and folded tables are open on paper ------------------------------------------

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.fold:not([open])")];
    for (const one of opened) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
