"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const list = byId("cards");
  const cards = Array.from(document.querySelectorAll(".card"));
  const search = byId("search"), filter = byId("filter"), reviewed = byId("reviewed");
  const save = byId("save"), progress = byId("progress"), shown = byId("shown"), nothing = byId("nothing");
  const different = byId("different"); // only where two outputs are compared
  const allShown = shown.textContent;
  const verdicts = new Map(); // row_id -> { verdict, answer }
  let current = -1, isSaved = true;

  document.querySelector(".controls").hidden = !cards.length;

  // ------------------------------------------------------------------ labels, search and filters

  const answeredLabels = new Set(), labels = new Map();
  for (const card of cards) {
    const label = card.dataset.label;
    const isFailed = card.classList.contains("failed");
    if (label) labels.set(label, isFailed);
    if (label && !isFailed) answeredLabels.add(label);
  }
  const otherLabels = Array.from(answeredLabels).sort();
  const option = (value, text) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    return made;
  };
  for (const [label, isFailed] of Array.from(labels).sort()) {
    filter.append(option(label, isFailed ? `failed: ${label}` : label));
  }
  const texts = new Map();
  const textOf = (card) => {
    if (!texts.has(card)) texts.set(card, card.querySelector(".body").textContent.toLowerCase());
    return texts.get(card);
  };

  function isVisible(card) {
    const words = search.value.trim().toLowerCase();
    const verdict = verdicts.get(card.dataset.id);
    if (filter.value && card.dataset.label !== filter.value) return false;
    if (reviewed.value === "open" ? verdict : reviewed.value && (!verdict || verdict.verdict !== reviewed.value)) return false;
    if (different && different.checked && !("different" in card.dataset)) return false;
    return !words || textOf(card).includes(words);
  }

  // The list leaves the document while cards are hidden: in place, Chromium takes seconds for 2,000 cards.
  function apply() {
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const after = list.nextSibling, section = list.parentNode;
    list.remove();
    let count = 0;
    for (const card of cards) {
      const visible = isVisible(card);
      if (card.hidden === visible) card.hidden = !visible;
      count += visible;
    }
    section.insertBefore(list, after);
    if (focused) focused.focus({ preventScroll: true });
    nothing.hidden = count > 0;
    const isAll = count === cards.length;
    shown.textContent = isAll ? allShown : `${count.toLocaleString("en")} shown`;
    for (const button of document.querySelectorAll(".bar")) {
      button.setAttribute("aria-pressed", String(Boolean(filter.value) && button.dataset.filter === filter.value));
    }
  }

  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(apply, 80);
  });
  filter.addEventListener("change", apply);
  reviewed.addEventListener("change", apply);
  if (different) different.addEventListener("change", apply);
  for (const button of document.querySelectorAll("[data-filter]")) {
    button.addEventListener("click", () => {
      const label = button.dataset.filter;
      filter.value = filter.value === label || !labels.has(label) ? "" : label;
      apply();
      byId("rows").scrollIntoView();
    });
  }

  // ------------------------------------------------------------------ review

  // A card has its bar from the moment when it comes near the window: 2,000 bars would delay the page.
  function verdictBar(card) {
    if (card.classList.contains("failed")) return null;
    const existing = card.querySelector(".verdict");
    if (existing) return existing;
    const bar = document.createElement("div");
    bar.className = "verdict";
    for (const [verdict, text] of [["right", "Right"], ["wrong", "Wrong"]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.dataset.verdict = verdict;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => judge(card, verdict, verdict === "right" ? card.dataset.answer : ""));
      bar.append(button);
    }
    const other = document.createElement(otherLabels.length ? "select" : "input");
    other.setAttribute("aria-label", `The right answer for ${card.dataset.id}`);
    if (otherLabels.length) {
      other.append(option("", "other label…"), ...otherLabels.map((label) => option(label, label)));
    } else {
      other.placeholder = "right answer";
    }
    other.addEventListener("change", () => {
      if (other.value) judge(card, other.value === card.dataset.answer ? "right" : "wrong", other.value);
    });
    bar.append(other);
    card.append(bar);
    return bar;
  }

  function judge(card, verdict, answer) {
    const before = verdicts.get(card.dataset.id);
    if (before && before.verdict === verdict && before.answer === answer) verdicts.delete(card.dataset.id);
    else verdicts.set(card.dataset.id, { verdict, answer, given: card.dataset.answer });
    isSaved = false;
    show(card);
  }

  function undo(card) {
    if (verdicts.delete(card.dataset.id)) show(card);
  }

  function show(card) {
    const found = verdicts.get(card.dataset.id);
    const bar = verdictBar(card);
    for (const button of bar.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Boolean(found) && found.verdict === button.dataset.verdict));
    }
    card.classList.toggle("right", Boolean(found) && found.verdict === "right");
    card.classList.toggle("wrong", Boolean(found) && found.verdict === "wrong");
    const other = bar.querySelector("select, input");
    other.value = found && found.verdict === "wrong" ? found.answer : "";
    const wrong = Array.from(verdicts.values()).filter((each) => each.verdict === "wrong").length;
    progress.textContent = `${verdicts.size} reviewed, ${wrong} wrong`;
    save.disabled = !verdicts.size;
  }

  const cell = (text) => `"${text.replaceAll('"', '""')}"`;

  function saveReview() {
    if (!verdicts.size) return;
    const lines = ["row_id,answer,verdict,given"];
    for (const [id, each] of verdicts) lines.push([id, each.answer, each.verdict, each.given].map(cell).join(","));
    const url = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = "review.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    isSaved = true;
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        verdictBar(entry.target);
        near.unobserve(entry.target);
      }
    },
    { rootMargin: "600px" },
  );
  for (const card of cards) near.observe(card);
  save.addEventListener("click", saveReview);
  addEventListener("beforeunload", (event) => {
    if (!isSaved && verdicts.size) event.preventDefault();
  });

  // ------------------------------------------------------------------ keyboard

  function go(step) {
    for (let place = current + step; place >= 0 && place < cards.length; place += step) {
      if (!cards[place].hidden) return focus(place);
    }
  }

  function focus(place) {
    current = place;
    cards[place].focus({ preventScroll: true });
    cards[place].scrollIntoView({ block: "nearest" });
  }

  const keys = {
    j: () => go(1),
    k: () => go(-1),
    r: (card) => card && judge(card, "right", card.dataset.answer),
    w: (card) => card && judge(card, "wrong", ""),
    l: (card) => card && verdictBar(card).querySelector("select, input").focus(),
    u: (card) => card && undo(card),
    s: () => saveReview(),
    "/": () => search.focus(),
    d: () => different && different.click(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target.closest(".verdict, .controls")) {
      if (current >= 0) cards[current].focus();
      return;
    }
    if (event.target.matches("input:not([type=checkbox]), select, textarea") || !keys[event.key]) return;
    event.preventDefault();
    const card = cards[current];
    keys[event.key](card && !card.classList.contains("failed") ? card : null);
  });
  document.addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (card) current = cards.indexOf(card);
  });

  // ------------------------------------------------------------------ anchors: #row=ID

  function goToHash() {
    if (!location.hash.startsWith("#row=")) return;
    let id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch {
      // a hash with a bare % names the row as it stands
    }
    const card = byId(id);
    if (!card) return;
    if (card.hidden) {
      search.value = filter.value = reviewed.value = "";
      if (different) different.checked = false;
      apply();
    }
    focus(cards.indexOf(card));
  }

  addEventListener("hashchange", goToHash);
  goToHash();
})();
