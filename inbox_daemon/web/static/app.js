// The pages' one script. Every page works without it but for live figures, keys, marks and dropping files.

document.documentElement.classList.add("js");

const $ = (what, where = document) => where.querySelector(what);
const $$ = (what, where = document) => [...where.querySelectorAll(what)];

// -- said for a moment, at the foot of the page

let silence;
function say(text) {
  const box = $("#say");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { box.hidden = true; }, 4000);
}

// -- times by the reader's own clock

function localise(where) {
  const today = new Date().toDateString();
  for (const time of $$("time[datetime]", where)) {
    const at = new Date(time.dateTime);
    const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    time.title = at.toLocaleString();
    time.textContent = at.toDateString() === today ? clock : `${at.toLocaleDateString([], { day: "numeric", month: "short" })} ${clock}`;
  }
}

// -- live figures: the page is asked for again where something has changed, and what differs is put in place

const KEPT = new Set(["checked", "open"]); // what is the reader's

function patch(now, then) {
  if (now.isEqualNode(then)) return;
  for (const { name } of [...now.attributes]) if (!then.hasAttribute(name) && !KEPT.has(name) && name !== "tabindex") now.removeAttribute(name);
  for (const { name, value } of then.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  const kept = new Map($$(":scope > [id]", now).map(child => [child.id, child]));
  let at = now.firstChild;
  for (const next of [...then.childNodes]) {
    const same = next.id ? kept.get(next.id) : at && !at.id && at.nodeName === next.nodeName ? at : null;
    if (!same) { now.insertBefore(document.importNode(next, true), at); continue; }
    if (same !== at) now.insertBefore(same, at); else at = at.nextSibling;
    if (same.nodeType === Node.TEXT_NODE) { if (same.data !== next.data) same.data = next.data; }
    else if (same.nodeType === Node.ELEMENT_NODE) patch(same, next);
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
}

async function pageNow() { // this page as the server has it; null where it does not give it
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
}
async function refresh() {
  const page = await pageNow();
  if (!page) return;
  localise(page);
  for (const part of $$("[data-live]")) {
    const next = page.getElementById(part.id);
    if (next) patch(part, next);
  }
  $("#send")?.classList.toggle("slim", !!$("#rows tr"));
  document.title = page.title;
  marked();
  more($("#answers"), $("#answers", page) || $("[data-again]", page));
}

function more(here, there) { // answers have come since: what is being read stays where it is until the reader asks
  if (!here && there) return location.reload(); // there were none when this page came
  const count = there && here ? there.dataset.total - here.dataset.total : 0;
  if (count > 0 && here.dataset.total === "0") return location.reload();
  const fresh = $("#fresh");
  if (count > 0 && fresh) { fresh.hidden = false; $("a", fresh).textContent = `${count.toLocaleString("en")} more answers have come; show them`; }
}

let tag = "", failed = 0;
async function look() {
  try {
    const answer = await fetch("/api/live", { headers: tag ? { "if-none-match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      const first = !tag;
      tag = answer.headers.get("etag") || "";
      if (!first || !tag) await refresh();
    }
    if (failed) await refresh();
    failed = 0;
  } catch {
    if (++failed === 2) say("The server does not answer; this page shows what was true before.");
  }
}
async function again() { // answers that are being read: once they are, the page is another
  const page = await pageNow();
  if (!page || !$("[data-again]", page)) return location.reload();
  patch($("[data-again]"), $("[data-again]", page));
}
async function watch() {
  for (;;) {
    if (document.visibilityState === "visible") await ($("[data-again]") ? again() : look());
    await new Promise(wake => setTimeout(wake, 2000));
  }
}

// -- the overview: marking for comparing

function marked() {
  const button = $("#compare");
  if (!button) return;
  const boxes = $$("#rows input[type=checkbox]"), on = boxes.filter(box => box.checked);
  button.disabled = on.length < 2 || on.length > 6;
  button.textContent = on.length > 1 ? `Compare ${on.length} batches` : "Compare";
  $("#marked").textContent = on.length > 6 ? "Six at most." : on.length > 1 ? "" : on.length && $$("#rows tr[data-input]").filter(row => row.dataset.input === on[0].closest("tr").dataset.input).length > 1 ? "The bar at the left is at batches of the same file." : "Mark two to six batches.";
  const input = on.length ? on[0].closest("tr").dataset.input : "";
  for (const box of boxes) {
    const row = box.closest("tr");
    row.classList.toggle("same", !!input && row.dataset.input === input);
  }
}
document.addEventListener("change", event => { if (event.target.matches("#rows input")) marked(); });

// -- forms that ask first, or that are answered in place

document.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.sure && !confirm(button.dataset.sure)) { event.preventDefault(); return; }
  if (button.matches("[data-copy]")) copy(button);
  if (button.closest("dialog")) return;
  if (button.formMethod === "post" && button.hasAttribute("formaction") && /\/(pause|resume|cancel)$/.test(button.formAction)) {
    event.preventDefault();
    control(button);
  }
});

async function control(button) {
  button.disabled = true;
  const answer = await fetch(button.formAction, { method: "POST", redirect: "manual", body: new URLSearchParams({ back: "/" }) });
  button.disabled = false;
  if (answer.type !== "opaqueredirect" && !answer.ok) return say(`Not done: the server said ${answer.status}.`);
  say(`${button.textContent}: asked for`);
  setTimeout(refresh, 700);
}

async function copy(button) {
  const text = $("pre", button.closest(".snippet"));
  try { await navigator.clipboard.writeText(text.textContent); } catch { getSelection().selectAllChildren(text); }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

// -- sending files: an upload, then a batch of it, as every client does

async function endpoint(file) {
  if (!file.name.endsWith(".jsonl")) return "/v1/chat/completions";
  try { return JSON.parse((await file.slice(0, 1 << 20).text()).split("\n").find(line => line.trim())).url || "/v1/chat/completions"; }
  catch { return "/v1/chat/completions"; }
}

function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const form = new FormData(), request = new XMLHttpRequest();
    form.append("purpose", "batch");
    form.append("file", file, file.name);
    request.open("POST", "/v1/files");
    request.responseType = "json";
    request.upload.onprogress = event => { if (event.lengthComputable) { progress.max = event.total; progress.value = event.loaded; } };
    request.onerror = () => reject(new Error("the connection broke; nothing was sent"));
    request.onload = () => request.status === 200 ? resolve(request.response) : reject(new Error(request.response?.error?.message || `the server said ${request.status}`));
    request.send(form);
  });
}

async function send(file) {
  const line = document.createElement("li"), name = document.createElement("bdi"), said = document.createElement("span"), progress = document.createElement("progress");
  name.textContent = file.name;
  said.className = "dim";
  said.textContent = "being sent";
  progress.max = 1; progress.value = 0; progress.setAttribute("aria-label", "sent");
  line.append(name, said, progress);
  $("#sent").prepend(line);
  try {
    if (!/\.jsonl(\.gz|\.zst)?$/.test(file.name)) throw new Error("its name must end in .jsonl, .jsonl.gz or .jsonl.zst");
    const stored = await upload(file, progress);
    const answer = await fetch("/v1/batches", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ input_file_id: stored.id, endpoint: await endpoint(file), completion_window: "24h" }) });
    const batch = await answer.json();
    if (!answer.ok) throw new Error(batch.error?.message || `the server said ${answer.status}`);
    const link = document.createElement("a");
    link.href = `/batches/${encodeURIComponent(batch.id)}`;
    link.textContent = "sent; it is a batch now";
    said.replaceChildren(link);
    refresh();
  } catch (error) {
    said.className = "state bad";
    said.textContent = `not sent: ${error.message}`;
  }
  progress.remove();
}

const field = $("#drop");
if (field) {
  field.hidden = false;
  $("input", field).addEventListener("change", event => { [...event.target.files].forEach(send); event.target.value = ""; });
  const files = event => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", event => { if (files(event)) { event.preventDefault(); field.classList.add("over"); } });
  addEventListener("dragleave", event => { if (!event.relatedTarget) field.classList.remove("over"); });
  addEventListener("drop", event => {
    if (!files(event)) return;
    event.preventDefault();
    field.classList.remove("over");
    [...event.dataTransfer.files].forEach(send);
    $("#sent").scrollIntoView({ block: "nearest" });
  });
}

// -- keys

const keys = $("#keys");
const KEYS = {
  "?": () => keys.showModal(),
  "/": () => $("input[type=search]")?.focus(),
  "[": () => $("[rel=prev]")?.click(),
  "]": () => $("[rel=next]")?.click(),
};
if ($("#rows")) {
  const step = by => {
    const links = $$("#rows .name a"), at = links.indexOf(document.activeElement?.closest("tr")?.querySelector(".name a"));
    links[Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
  };
  Object.assign(KEYS, {
    j: () => step(1),
    k: () => step(-1),
    x: () => $("input[type=checkbox]", document.activeElement?.closest("#rows tr") || document.createElement("i"))?.click(),
    c: () => { const button = $("#compare"); if (!button.disabled) button.click(); },
  });
}

// -- answers: a row and an answer in it are chosen; marks are the answer's

const answers = $("#answers");
if (answers) {
  const list = $$("article.row", answers), many = $$(".cell", list[0] || answers).length > 1;
  let at = -1, side = 0;
  const row = () => list[at], cell = () => row() && $$(".cell", row())[side];
  const choose = (to, within = side, scroll = true) => {
    if (!list.length) return;
    row()?.classList.remove("at"); cell()?.classList.remove("at");
    at = Math.max(0, Math.min(list.length - 1, to));
    side = Math.max(0, Math.min($$(".cell", row()).length - 1, within));
    row().classList.add("at"); cell().classList.add("at");
    cell().focus({ preventScroll: true });
    if (scroll) row().scrollIntoView({ block: row().offsetHeight > innerHeight * .7 ? "start" : "nearest" });
    sessionStorage.setItem(`at ${location.search}`, row().id);
  };
  const done = []; // [cell, mark and note before]
  const said = of => ({ mark: of.dataset.mark, note: of.dataset.note });
  const show = (of, { mark, note }) => {
    of.dataset.mark = mark; of.dataset.note = note;
    const word = $("h3 .mark", of);
    word.className = `mark ${mark}`;
    word.textContent = { good: "good", bad: "bad", defer: "later", best: "best" }[mark] || "";
    for (const button of $$("[data-as]", of)) button.setAttribute("aria-pressed", button.dataset.as === mark);
    const line = $(".note", of);
    line.textContent = note; line.hidden = !note;
  };
  let sent = Promise.resolve(), unsent = 0; // one after another: the last word counts; the page waits for them to be left
  const tell = (of, next) => {
    const before = said(of);
    show(of, next);
    unsent++;
    sent = sent.then(() => post(of, next, before)).finally(() => { unsent--; });
  };
  const afterwards = (event, go) => { if (unsent) { event.preventDefault(); event.stopPropagation(); sent.then(go); } };
  document.addEventListener("click", event => {
    const link = event.target.closest("a[href]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) afterwards(event, () => link.click());
  }, true);
  document.addEventListener("submit", event => {
    if (event.target.method !== "dialog") afterwards(event, () => event.target.requestSubmit(event.submitter));
  }, true);
  addEventListener("beforeunload", event => { if (unsent) event.preventDefault(); });
  const post = async (of, next, before) => {
    try {
      const answer = await fetch("/api/marks", { method: "POST", keepalive: true, headers: { "content-type": "application/json" }, body: JSON.stringify({ batches: answers.dataset.set.split(" "), side: +of.dataset.side, custom_id: of.closest("article").dataset.id, ...next }) });
      if (!answer.ok) throw new Error((await answer.json()).error.message);
    } catch (error) { show(of, before); say(`Not marked: ${error.message}`); }
  };
  const mark = (of, as) => {
    if (!of || !$("[data-as]", of)) return;
    const before = said(of);
    done.push([[of, before]]);
    const others = as === "best" ? $$(".cell", of.closest("article")).filter(each => each !== of && each.dataset.mark === "best") : [];
    for (const other of others) { done.at(-1).push([other, said(other)]); tell(other, { ...said(other), mark: "" }); }
    tell(of, { ...before, mark: before.mark === as ? "" : as });
  };
  const undo = () => {
    const last = done.pop();
    if (!last) return say("Nothing to undo on this page.");
    for (const [of, before] of last) { tell(of, before); choose(list.indexOf(of.closest("article")), +of.dataset.side); }
  };
  const note = of => {
    if (!of) return;
    const box = document.createElement("dialog"), form = document.createElement("form"), title = document.createElement("h2"), text = document.createElement("textarea"), save = document.createElement("button");
    box.id = "note"; form.method = "dialog"; form.className = "noting";
    title.textContent = "Note on this answer"; title.id = "note-title"; box.setAttribute("aria-labelledby", "note-title");
    text.value = of.dataset.note; text.maxLength = 4000; text.setAttribute("aria-label", "Note");
    save.className = "primary"; save.textContent = "Save";
    form.append(title, text, save); box.append(form); document.body.append(box);
    text.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(save); });
    form.addEventListener("submit", () => { done.push([[of, said(of)]]); tell(of, { ...said(of), note: text.value.trim() }); });
    box.addEventListener("close", () => { box.remove(); of.focus({ preventScroll: true }); });
    box.showModal(); text.focus();
  };
  const open = of => { if (of) { of.classList.toggle("open"); of.scrollIntoView({ block: "nearest" }); } };

  // what differs from the first answer, word by word
  const words = text => text.match(/\s*\S+\s*$|\s*\S+/gu) || [];
  const compared = (before, after) => {
    const a = words(before).slice(0, 1200), b = words(after).slice(0, 1200), width = b.length + 1;
    const same = (i, j) => a[i].trim() === b[j].trim();
    const length = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--)
      length[i * width + j] = same(i, j) ? length[(i + 1) * width + j + 1] + 1 : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    if (length[0] * 3 < Math.max(a.length, b.length)) return before.length > 60 ? [["ins", after]] : [["del", before], ["ins", after]]; // another text altogether
    const found = []; // runs of [what only A has, what only this one has, what both have]
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      const run = ["", "", ""];
      while (i < a.length || j < b.length) {
        if (i < a.length && j < b.length && same(i, j)) break;
        if (j === b.length || (i < a.length && length[(i + 1) * width + j] >= length[i * width + j + 1])) run[0] += a[i++];
        else run[1] += b[j++];
      }
      while (i < a.length && j < b.length && same(i, j)) { run[2] += b[j++]; i++; }
      found.push(run);
    }
    return found.flatMap(([gone, come, both]) => [["del", gone], ["ins", come], ["", both]]).filter(([, text]) => text);
  };
  const parts = of => new Map($$(".body .text", of).map((text, place) => [text.previousElementSibling?.textContent ?? `${place}`, text]));
  let differing = false;
  const differences = () => {
    differing = !differing;
    for (const article of list) {
      const [first, ...rest] = $$(".cell", article), base = parts(first);
      for (const other of rest) for (const [name, text] of parts(other)) {
        if (!differing) { text.textContent = text.dataset.plain ?? text.textContent; continue; }
        if (!base.has(name)) continue;
        text.dataset.plain = text.textContent;
        text.replaceChildren(...compared(base.get(name).textContent, text.dataset.plain).map(([kind, word]) => {
          if (!kind) return document.createTextNode(word);
          const piece = document.createElement(kind);
          piece.textContent = word;
          return piece;
        }));
      }
    }
    say(differing ? "Green: not in A. Struck out: in A alone. x shows the answers as they are." : "Answers as they are.");
  };

  for (const body of $$(".body", answers)) body.classList.toggle("long", body.scrollHeight > body.clientHeight + 4);
  for (const markers of $$(".markers", answers)) markers.hidden = false;
  answers.addEventListener("click", event => {
    const button = event.target.closest("button"), of = event.target.closest(".cell"), article = event.target.closest("article");
    if (article && of) choose(list.indexOf(article), $$(".cell", article).indexOf(of), false);
    if (button?.dataset.as) mark(of, button.dataset.as);
    else if (button?.hasAttribute("data-note-of")) note(of);
    else if (event.target.closest(".body.long, .prompt") && !getSelection().toString()) article.classList.toggle("open");
  });
  answers.addEventListener("focusin", event => {
    const article = event.target.closest("article"), of = event.target.closest(".cell");
    if (article && list.indexOf(article) !== at && event.target.matches("a, summary, button")) choose(list.indexOf(article), of ? +of.dataset.side : side, false), event.target.focus();
  });
  const best = number => { const to = row() && $$(".cell", row())[number - 1]; if (to && many) { choose(at, number - 1); mark(to, "best"); } };
  Object.assign(KEYS, {
    j: () => choose(at + 1), k: () => choose(at - 1), h: () => choose(at < 0 ? 0 : at, side - 1), l: () => choose(at < 0 ? 0 : at, side + 1),
    ArrowLeft: () => choose(at < 0 ? 0 : at, side - 1), ArrowRight: () => choose(at < 0 ? 0 : at, side + 1),
    g: () => mark(cell(), "good"), b: () => mark(cell(), "bad"), d: () => mark(cell(), "defer"), n: () => note(cell()), u: undo,
    " ": () => open(row()), o: () => $("h2 a", row() || answers)?.click(), e: () => $("#export")?.click(), Backspace: () => $("#back")?.click(),
    ...(many ? { x: differences } : {}),
    ...Object.fromEntries([1, 2, 3, 4, 5, 6].map(number => [`${number}`, () => best(number)])),
  });
  $("#back")?.addEventListener("click", event => { // to the very filter and page, where the reader came from there
    if (!document.referrer.startsWith(`${location.origin}/`) || !/\/(compare|batches)/.test(document.referrer)) return;
    event.preventDefault();
    history.back();
  });
  if (answers.classList.contains("whole")) choose(0, 0, false);
  else {
    const last = list.findIndex(each => each.id === (location.hash.slice(1) || sessionStorage.getItem(`at ${location.search}`)));
    if (last >= 0) choose(last);
  }
  for (const select of $$("#filters select")) select.addEventListener("change", () => select.form.requestSubmit());
  for (const form of $$("form.choose")) form.addEventListener("submit", () => { for (const field of $$("input, select", form)) if (!field.value && field.name !== "by") field.disabled = true; });
}

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
  if (event.target.matches("button, a, summary") && (event.key === "Enter" || event.key === " ")) return;
  if (event.target.matches("input:not([type=checkbox], [type=radio]), select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
  const does = KEYS[event.key];
  if (does) { event.preventDefault(); does(); }
});

localise(document);
for (const button of $$("[data-copy]")) button.hidden = false;
marked();
if ($("[data-live]")) watch();
