"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Verdicts and stories: those that have all the words, and one of the outcomes.
  const form = document.querySelector(".filter");
  if (form) {
    const known = new Set(all("input[name=outcome]", form).map((box) => box.value));
    const filtered = all("[data-outcomes]").map((item) => ({
      item, row: item.matches("tr"), story: item.id.startsWith("story-"),
      text: `${(item.querySelector(":scope > summary") || item).textContent} ${item.dataset.words}`.toLowerCase(),
      outcomes: item.dataset.outcomes.split(" "),
    }));
    const matching = document.getElementById("matching");
    const stories = document.getElementById("matching-stories");
    const count = (which) => {
      const found = filtered.filter((each) => each[which]);
      return [found.filter((each) => !each.item.hidden).length, found.length];
    };
    const filter = () => {
      const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = new Set(all("input[name=outcome]:checked", form).map((box) => box.value));
      for (const { item, text, outcomes } of filtered) {
        const listed = outcomes.some((each) => wanted.has(each) || !known.has(each));
        item.hidden = !(listed && words.every((word) => text.includes(word)));
      }
      const [rows, ofRows] = count("row");
      matching.textContent = `${rows} of ${ofRows} rows`;
      if (!stories) return;
      const [told, ofStories] = count("story");
      stories.hidden = told === ofStories;
      stories.textContent = `${told} of ${ofStories} stories match the filter of the verdicts.`;
    };
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }

  // Diagrams: what is done to one when its story is first opened.
  const tip = document.createElement("div");
  tip.className = "tip-box";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  const hide = () => { tip.hidden = true; };
  const show = (row, x, y) => {
    if (row.querySelector("details").open) { hide(); return; }
    tip.replaceChildren(...row.querySelector(".d").cloneNode(true).childNodes);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 16, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 12) : y + 18}px`;
  };

  const seen = new WeakSet();
  const prepare = (diagram) => {
    if (!diagram || seen.has(diagram)) return;
    seen.add(diagram);
    const scroll = diagram.querySelector(".scroll");
    const zoomed = diagram.querySelector(".zoomed");
    const one = diagram.querySelector("[data-zoom=one]");
    let zoom = 1;
    const set = (to) => {
      zoom = Math.max(0.3, Math.min(4, to));
      zoomed.style.zoom = zoom;
      one.textContent = `${Math.round(zoom * 100)} %`;
    };
    const wide = diagram.querySelector(".r").viewBox.baseVal.width;
    const steps = {
      in: () => set(zoom * 1.2), out: () => set(zoom / 1.2), one: () => set(1),
      fit: () => set((scroll.clientWidth - 2) / wide),
    };
    diagram.addEventListener("click", (event) => {
      const button = event.target.closest("[data-zoom]");
      if (button) steps[button.dataset.zoom]();
    });
    scroll.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      set(zoom * (event.deltaY < 0 ? 1.1 : 1 / 1.1));
    }, { passive: false });
    if (scroll.clientWidth > 500 && scroll.clientWidth < wide) set(Math.max(0.75, (scroll.clientWidth - 2) / wide));

    const events = all(".ev", diagram);
    const select = diagram.querySelector(".connection");
    const choose = () => {
      const wanted = select.value && new Set(select.value.split(" "));
      for (const row of events) row.hidden = Boolean(wanted) && !wanted.has(row.dataset.c);
      for (const bar of all(".events .bar", diagram)) {
        bar.toggleAttribute("hidden", Boolean(wanted) && !wanted.has(bar.dataset.c));
      }
    };
    if (select) { select.addEventListener("change", choose); choose(); }
    for (const row of events) row.querySelector("summary").tabIndex = -1;
    const visible = () => events.filter((row) => row.checkVisibility());
    const go = (from, by) => {
      const rows = visible();
      const at = rows.indexOf(from);
      const next = by === Infinity ? rows.at(-1) : by === -Infinity ? rows[0]
        : rows[Math.max(0, Math.min(rows.length - 1, at + by))];
      if (next) next.querySelector("summary").focus();
    };
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity };
    scroll.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const zooms = { "+": "in", "=": "in", "-": "out", 0: "one" }[event.key];
      if (zooms) steps[zooms]();
      else if (event.key in moves) go(event.target.closest(".ev"), moves[event.key]);
      else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    });
    diagram.addEventListener("mousemove", (event) => {
      const row = event.target.closest(".ev");
      if (row && event.target.closest("summary")) show(row, event.clientX, event.clientY); else hide();
    });
    diagram.addEventListener("mouseleave", hide);
    scroll.addEventListener("scroll", hide, { passive: true });
  };

  const open = (story) => { story.open = true; prepare(story.querySelector(".diagram")); };
  for (const story of all(".story")) {
    if (story.open) prepare(story.querySelector(".diagram"));
    story.addEventListener("toggle", () => { if (story.open) prepare(story.querySelector(".diagram")); });
  }

  // A link to a story or to an event of one opens it, whatever is hidden by then.
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const filtered = target && target.closest("[data-outcomes]");
    if (filtered) filtered.hidden = false;
    const story = target && target.closest(".story");
    if (!story) return;
    open(story);
    if (target.matches(".ev")) {
      const select = story.querySelector(".connection");
      if (target.hidden && select) { select.value = ""; select.dispatchEvent(new Event("change")); }
      for (const box of all(".kinds input", story)) {
        if (target.matches(`.${box.className.replace("f-", "k-")}`)) box.checked = true;
      }
      target.querySelector("summary").focus({ preventScroll: true });
    }
    target.scrollIntoView({ block: target === story ? "start" : "center" });
  };
  addEventListener("hashchange", follow);
  follow();

  // On paper every story is open, and as it was again afterwards.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])").filter((each) => !each.closest(".ev"));
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });
})();
