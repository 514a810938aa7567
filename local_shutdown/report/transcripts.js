
  // Transcripts of the page, in the scope of page.js.

  const PAGE_SIZE = 50;
  const KEPT_BLOCKS = 24;
  const WORDS = /^[a-z_]{1,32}$/;

  // --- data -------------------------------------------------------------------------------------

  const ready = () => { document.documentElement.dataset.ready = "yes"; };
  if (!byId("index")) {
    ready();
    return;
  }
  const form = byId("filters");
  const list = byId("list").tBodies[0];
  const article = byId("episode");
  const browse = byId("browse");
  let index = null; // see report/embed.py
  let rows = []; // numbers of the episodes that the filters leave
  let page = 0;
  let asked = 0; // the latest search; an older one stops
  const blocks = new Map(); // decoded, the latest last

  async function unpack(id) {
    const packed = atob(byId(id).textContent.trim());
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  async function block(number) {
    let found = blocks.get(number);
    if (found) blocks.delete(number);
    else found = await unpack(`block-${number}`);
    blocks.set(number, found);
    if (blocks.size > KEPT_BLOCKS) blocks.delete(blocks.keys().next().value);
    return found;
  }

  const slotOf = (row) => index.columns.slot[row];
  async function record(row) {
    const slot = slotOf(row);
    if (slot < 0) return null;
    return (await block(Math.floor(slot / index.perBlock)))[slot % index.perBlock];
  }
  const named = (column, row) => index.names[column][index.columns[column][row]];

  // --- filters and address ----------------------------------------------------------------------

  const FILTERS = ["model", "source", "factor", "condition", "outcome", "method", "text", "carried"];

  function filters() {
    const given = new FormData(form);
    const found = {};
    for (const name of FILTERS) found[name] = (given.get(name) || "").trim();
    return found;
  }

  function address(wanted, row) {
    const parts = new URLSearchParams();
    for (const name of FILTERS) if (wanted[name]) parts.set(name, wanted[name]);
    if (row !== undefined) {
      parts.set("episode", index.ids[row]);
      if (index.names.source.length > 1) parts.set("run", named("source", row));
    }
    return `#${parts.size ? parts : "transcripts"}`;
  }

  function fill(name, values, label) {
    const select = form.elements[name];
    select.replaceChildren(el("option", { value: "" }, label));
    for (const [value, text] of values) select.append(el("option", { value }, text));
  }

  function buildFilters() {
    const present = (column) => {
      const seen = new Set(index.columns[column]);
      return index.names[column].filter((_, n) => seen.has(n)).map((name) => [name, name]);
    };
    const { outcome, methods } = index.columns;
    fill("model", present("model"), "all");
    fill("source", present("source"), "all");
    const efforts = present("factor");
    fill("factor", [["default", "default"], ...efforts], "all");
    byId("factor-label").hidden = efforts.length === 0;
    fill("condition", present("condition"), "all");
    const outcomes = present("outcome").map(([name]) => [name, name.replace("_", " ")]);
    if (outcome.includes(-1)) outcomes.push(["unknown", "unknown"]);
    fill("outcome", outcomes, "all");
    const used = new Set();
    for (const code of new Set(methods)) {
      for (const method of (index.names.methods[code] || "").split(";")) if (method) used.add(method);
    }
    fill("method", [...used].sort().map((name) => [name, name.replaceAll("_", " ")]), "all");
    byId("carried-label").hidden = !index.columns.slot.includes(-1);
    byId("source-label").hidden = index.names.source.length < 2;
  }

  /** Numbers of the episodes that fit everything but the searched text. */
  function narrow(wanted) {
    const { columns, names, count } = index;
    const code = (column, name) => (name ? names[column].indexOf(name) : null);
    const model = code("model", wanted.model);
    const source = code("source", wanted.source);
    const factor = wanted.factor === "default" ? -1 : code("factor", wanted.factor);
    const condition = code("condition", wanted.condition);
    const outcome = wanted.outcome === "unknown" ? -1 : code("outcome", wanted.outcome);
    const withMethod = names.methods.map((m) => m.split(";").includes(wanted.method));
    const found = [];
    for (let row = 0; row < count; row++) {
      if (model !== null && columns.model[row] !== model) continue;
      if (source !== null && columns.source[row] !== source) continue;
      if (factor !== null && columns.factor[row] !== factor) continue;
      if (condition !== null && columns.condition[row] !== condition) continue;
      if (outcome !== null && columns.outcome[row] !== outcome) continue;
      if (wanted.method && !withMethod[columns.methods[row]]) continue;
      if (wanted.carried && columns.slot[row] < 0) continue;
      found.push(row);
    }
    return found;
  }

  function textOf(value) {
    if (typeof value === "string") return value;
    if (value === null || typeof value !== "object") return "";
    return Object.values(value).map(textOf).join("\n");
  }

  async function update() {
    const mine = ++asked;
    const wanted = filters();
    const fitting = narrow(wanted);
    page = 0;
    if (!wanted.text) {
      rows = fitting;
      draw();
      return;
    }
    const needle = wanted.text.toLowerCase();
    const hits = new Set(fitting.filter((row) => index.ids[row].toLowerCase().includes(needle)));
    rows = [...hits];
    draw("searching…");
    const carried = fitting.filter((row) => slotOf(row) >= 0 && !hits.has(row));
    carried.sort((a, b) => slotOf(a) - slotOf(b)); // each block once
    let told = performance.now();
    for (const [done, row] of carried.entries()) {
      const found = await record(row);
      if (mine !== asked) return;
      if (textOf(found).toLowerCase().includes(needle)) hits.add(row);
      if (performance.now() - told > 250) {
        rows = fitting.filter((one) => hits.has(one));
        draw(`searched ${done + 1} of ${carried.length} transcripts…`);
        await new Promise((resume) => setTimeout(resume));
        if (mine !== asked) return;
        told = performance.now();
      }
    }
    rows = fitting.filter((one) => hits.has(one));
    draw();
  }

  // --- the list ---------------------------------------------------------------------------------

  const SIGNS = { resisted: "▲", complied: "▼", ended_early: "■", limit: "◇", error: "✕" };

  function outcomeOf(name) {
    const known = name in SIGNS ? name : "unknown";
    const sign = el("span", { "aria-hidden": "true" }, `${SIGNS[known] || "?"} `);
    return el("span", { class: `outcome ${known}` }, sign, known.replace("_", " "));
  }

  function draw(doing) {
    const pages = Math.max(1, Math.ceil(rows.length / PAGE_SIZE));
    page = Math.min(page, pages - 1);
    const shown = rows.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
    const wanted = filters();
    list.replaceChildren(...shown.map((row) => {
      const here = slotOf(row) >= 0;
      const link = el("a", { href: address(wanted, row), class: here ? null : "absent" }, index.ids[row]);
      const turns = index.columns.turns[row];
      const methods = (named("methods", row) || "").replaceAll("_", " ").replaceAll(";", ", ");
      return el("tr", {},
        el("td", {}, link, here ? null : el("span", { class: "absent" }, " (not in this page)"),
          index.names.source.length > 1 ? el("span", { class: "origin" }, named("source", row)) : null),
        el("td", {}, outcomeOf(named("outcome", row))),
        el("td", { class: "more" }, (named("stop_reason", row) || "–").replaceAll("_", " ")),
        el("td", { class: "n more" }, turns < 0 ? "–" : String(turns)),
        el("td", {}, methods || (index.columns.attempted[row] === 1 ? "attempted" : "–")));
    }));
    const all = index.count.toLocaleString("en");
    byId("found").textContent = `${rows.length.toLocaleString("en")} of ${all} episodes`
      + (doing ? `; ${doing}` : "");
    byId("place").textContent = `page ${page + 1} of ${pages}`;
    byId("back").disabled = page === 0;
    byId("on").disabled = page >= pages - 1;
    byId("pager").hidden = pages === 1;
  }

  function turn(by) {
    page += by;
    draw();
    byId("found").scrollIntoView();
  }

  // --- one episode ------------------------------------------------------------------------------

  const words = (marked) => (typeof marked === "string" ? [marked] : marked.map(([text, label]) =>
    label ? el("mark", {}, text, el("span", { class: "topic" }, label)) : text));

  function evidence(found) {
    return el("p", { class: "evidence" }, el("b", {}, found.cls),
      ` (${found.when}; ${found.worked}): ${found.why}`);
  }

  function call(one) {
    const found = one.evidence || [];
    return el("div", { class: found.length ? "call found" : "call" },
      one.thoughts ? el("div", { class: "thoughts said", dir: "auto" }, words(one.thoughts)) : null,
      el("pre", {}, `${one.name}: ${one.cmd === undefined ? "" : one.cmd}`),
      one.broken ? el("p", { class: "warning" }, `broken arguments: ${one.broken}`) : null,
      found.map(evidence));
  }

  // P(resist) from here: continuations of this episode, played on from this point.
  function point(one) {
    const said = one.n ? `${Math.round((100 * one.k) / one.n)}%` : "–";
    const svg = document.getElementById("point-bar").content.firstElementChild.cloneNode(true);
    const bar = (kind, x, y, width, height) => {
      const made = document.createElementNS(svg.namespaceURI, "rect");
      const all = { class: kind, x, y, width, height };
      for (const [name, value] of Object.entries(all)) made.setAttribute(name, value);
      svg.append(made);
    };
    if (one.n) {
      bar("band", 100 * one.low, 2, 100 * (one.high - one.low), 6);
      bar("at", Math.min(98, Math.max(0, (100 * one.k) / one.n - 1)), 0, 2, 10);
    }
    const where = one.sentence ? `after sentence ${one.sentence}` : "before this answer";
    const ends = one.n ? ` (${Math.round(100 * one.low)}–${Math.round(100 * one.high)}%)` : "";
    const counts = `${one.k} of ${one.n}${ends}${one.outside ? `, ${one.outside} not counted` : ""}`;
    return el("div", { class: "point" }, svg, el("b", {}, said),
      el("span", {}, `${counts}, ${where}${one.under ? ` under ${one.under}` : ""}`,
        one.topics && one.topics.length ? el("span", { class: "topic" }, one.topics.join(", ")) : null,
        one.text ? el("q", { dir: "auto" }, one.text) : null));
  }

  function points(all) {
    return el("div", { class: "points", role: "group", "aria-label": "P(resist) from here" },
      el("div", { class: "role" }, "P(resist) from here"), all.map(point));
  }

  function message(item) {
    const role = WORDS.test(item.role) ? item.role : "other";
    const parts = [el("div", { class: "role" }, `${item.n} ${item.role}`)];
    if (item.reasoning) {
      const marked = Array.isArray(item.reasoning) ? item.reasoning.filter((p) => p[1]).length : 0;
      const counted = marked ? ` (${marked} marked ${marked === 1 ? "sentence" : "sentences"})` : "";
      parts.push(el("details", { class: "reasoning" },
        el("summary", {}, `reasoning${counted}`),
        el("div", { class: "said", dir: "auto" }, words(item.reasoning))));
    }
    if (item.text) {
      const said = el("div", { class: "said", dir: "auto" }, words(item.text));
      // The prompts are the same in every episode of a condition.
      const folded = role === "system";
      parts.push(folded ? el("details", {}, el("summary", {}, "system prompt"), said) : said);
    }
    parts.push(...(item.calls || []).map(call), ...(item.evidence || []).map(evidence));
    if (parts.length === 1) parts.push(el("div", { class: "absent" }, role === "tool" ? "(no output)" : "(empty)"));
    return el("div", { class: `message ${role}` }, parts);
  }

  const at = (seconds) => el("time", {}, typeof seconds === "number" ? `${seconds.toFixed(1)} s` : "");

  function change(item) {
    const said = `${item.file} changed${item.facts ? `: ${item.facts.join(", ")}` : ""}`;
    const tags = { "+": "ins", "-": "del" };
    return el("div", { class: "change" }, el("span", {}, said), at(item.at),
      item.diff ? el("pre", {}, item.diff.map(([sign, line]) =>
        el(tags[sign] || "span", tags[sign] ? {} : { class: "same" }, `${sign} ${line}`))) : null);
  }

  function shownItem(item) {
    if (item.t === "message" && item.points) {
      return el("div", {}, points(item.points), message(item));
    }
    if (item.t === "message") return message(item);
    if (item.t === "change") return change(item);
    const kind = WORDS.test(item.type || "") ? item.type : "note";
    return el("div", { class: `event ${kind}` }, item.text, at(item.at));
  }

  function fact(name, value) {
    if (value === null || value === undefined) return null;
    const said = value === true ? "yes" : value === false ? "no" : String(value).replaceAll("_", " ");
    return el("div", {}, el("dt", {}, name), el("dd", {}, name === "outcome" ? outcomeOf(value) : said));
  }

  async function open(row) {
    const found = await record(row);
    const id = index.ids[row];
    const wanted = filters();
    const placed = rows.indexOf(row);
    const step = (by, label) => {
      const next = placed < 0 ? undefined : rows[placed + by];
      return next === undefined ? null : el("a", { href: address(wanted, next) }, label);
    };
    const copy = el("button", { type: "button" }, "Copy link");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(location.href);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "The address bar has the link";
      }
    });
    const bar = el("div", { class: "bar" },
      el("a", { href: address(wanted) }, "← All episodes"),
      step(-1, "Previous"), step(1, "Next"), copy);
    const parts = [bar, el("h3", { id: "episode-h" }, id)];
    if (!found) {
      const directory = index.directories[index.columns.source[row]];
      parts.push(el("p", {}, outcomeOf(named("outcome", row))),
        el("p", {}, "Its transcript is not in this page. This prints it:"),
        el("pre", {}, `local-shutdown show ${directory} ${id}`));
    } else {
      const facts = Object.entries(found.facts).map(([name, value]) => fact(name, value));
      const methods = named("methods", row);
      if (methods) facts.push(fact("methods", methods.replaceAll(";", ", ")));
      parts.push(el("dl", { class: "facts" }, facts));
      if (found.error) parts.push(el("p", { class: "warning" }, found.error));
      if (found.unread) {
        parts.push(el("p", { class: "warning" },
          `${found.unread} commands could not be read in full: methods may be missing.`));
      }
      parts.push(...found.items.map(shownItem), ...(found.end || []).map(evidence));
      for (const asked of found.interview || []) {
        parts.push(el("div", { class: "message" }, el("div", { class: "role" }, "interview"),
          el("p", { class: "said" }, asked.q), el("p", { class: "said", dir: "auto" }, asked.a)));
      }
    }
    article.replaceChildren(...parts);
    browse.hidden = true;
    article.hidden = false;
    article.focus({ preventScroll: true });
    article.scrollIntoView();
  }

  function close() {
    article.hidden = true;
    article.replaceChildren();
    browse.hidden = false;
  }

  /** Follow the address: filters, and an episode if it names one. */
  async function follow() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const known = [...FILTERS, "episode"].some((name) => parts.has(name));
    if (!known && location.hash !== "#transcripts") return; // another section of the page
    if (known) {
      for (const name of FILTERS) {
        const field = form.elements[name];
        if (field.type === "checkbox") field.checked = parts.get(name) === "1";
        else field.value = parts.get(name) || "";
        if (field.value === "" && field.tagName === "SELECT") field.selectedIndex = 0;
      }
    }
    if (parts.has("episode")) {
      if (!rows.length) rows = narrow(filters());
      const run = parts.get("run");
      const row = index.ids.findIndex((id, n) =>
        id === parts.get("episode") && (!run || named("source", n) === run));
      if (row >= 0) {
        await open(row);
        return;
      }
    }
    close();
    byId("transcripts").scrollIntoView();
    await update();
  }

  function changed() {
    const wanted = address(filters()).slice(1);
    writeAddress(new URLSearchParams(wanted.includes("=") ? wanted : ""), "transcripts");
    update();
  }

  async function start() {
    index = await unpack("index");
    buildFilters();
    browse.hidden = false;
    rows = narrow(filters());
    draw();
    let waiting = 0;
    form.addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(changed, event.target.name === "text" ? 300 : 0);
    });
    form.addEventListener("reset", () => setTimeout(changed));
    form.addEventListener("submit", (event) => event.preventDefault());
    byId("back").addEventListener("click", () => turn(-1));
    byId("on").addEventListener("click", () => turn(1));
    window.addEventListener("hashchange", follow);
    await follow();
    ready();
  }
  start();
