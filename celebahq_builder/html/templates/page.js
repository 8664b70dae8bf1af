// What all pages share: enlarged images, search and order of lists, values of charts, reloading of a live page.
// Every page is readable without it.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const textOf = (element) => element.textContent.replace(/\s+/g, " ").trim();
  const isShown = (element) => element.getClientRects().length > 0;

  // --- Lists: items have data-name, and may have data-score, data-zoom and data-search.

  const orders = {
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true }),
    score: (a, b) => number(b.dataset.score) - number(a.dataset.score),
    zoom: (a, b) => number(b.dataset.zoom) - number(a.dataset.zoom),
  };
  const number = (text) => (text ? Number(text) : -1);

  for (const form of document.querySelectorAll("form.tools")) {
    const [search, order, status] = ["input", "select", "output"].map((name) => form.querySelector(name));
    const sections = form.dataset.sections.split(" ").map((id) => document.getElementById(id)).filter(Boolean);
    const lists = sections.map((section) => [section, [...section.querySelectorAll("[data-name]")]]);
    const texts = new Map(lists.flatMap(([, items]) => items.map((item) =>
      [item, `${item.dataset.name} ${item.dataset.search ?? ""} ${textOf(item)}`.toLowerCase()])));

    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      status.replaceChildren();
      for (const [section, items] of lists) {
        for (const item of items) item.hidden = !words.every((word) => texts.get(item).includes(word));
        if (!words.length || !items.length) continue;
        const count = items.filter((item) => !item.hidden).length;
        status.append(status.childNodes.length ? ", " : "", make("a", { href: `#${section.id}` },
          `${count} of ${items.length} in ${textOf(section.querySelector("h2"))}`));
      }
    };
    const sort = () => {
      for (const parent of new Set([...texts.keys()].map((item) => item.parentNode))) {
        const items = [...texts.keys()].filter((item) => item.parentNode === parent);
        parent.append(...(order.value ? items.sort(orders[order.value]) : items));
      }
    };
    search.addEventListener("input", filter);
    order.addEventListener("change", sort);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    if (search.value) filter();  // a reloaded page keeps what was typed
    if (order.value) sort();
  }

  // --- Enlarged images: links of the class "enlarge". Their figure may have the photo with its landmarks, and its crop.

  const title = make("h2", { id: "viewer-title" });
  const stage = make("div", { className: "stage", tabIndex: 0 });
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50 });
  const compared = make("label", { className: "slider" }, make("span", {}, "photo"), slider,
    make("span", {}, "result"));
  const file = make("a", {}, "Open file");
  const button = (text, action, label) => {
    const made = make("button", { type: "button", onclick: action }, text);
    if (label) made.setAttribute("aria-label", label);
    return made;
  };
  const modes = new Map(["Result", "Compare", "Photo"].map((name) => [name, button(name, () => setMode(name))]));
  const whole = button("100 %", () => setFit(!stage.classList.contains("fit")));
  const viewer = make("dialog", { className: "viewer" },
    make("header", {}, title, make("div", { className: "buttons" }, button("\u2190", () => step(-1), "Previous image"),
      button("\u2192", () => step(1), "Next image"), ...modes.values(), whole, file,
      button("Close", () => viewer.close()))),
    stage, compared);
  viewer.setAttribute("aria-labelledby", title.id);
  document.body.append(viewer);
  stage.setAttribute("aria-label", "Image");

  let current = null;
  let mode = "Result";

  const drawnIn = (link) => link.querySelector("svg");  // a link to a photo instead of a result
  const parts = () => {
    const figure = current.closest("figure");
    return { Compare: figure?.querySelector("img.crop"), Photo: drawnIn(current) ?? figure?.querySelector(".origin svg") };
  };
  const neighbours = () => {
    const links = [...(current.closest("section") ?? document).querySelectorAll("a.enlarge")];
    return links.filter((link) => link === current || isShown(link));
  };
  const setMode = (name) => {
    mode = name;
    show();
  };
  const setFit = (fit) => {
    stage.classList.toggle("fit", fit);
    whole.setAttribute("aria-pressed", String(!fit));
  };
  const step = (by) => {
    const links = neighbours();
    current = links[(links.indexOf(current) + by + links.length) % links.length];
    show();
  };
  const missing = () => make("p", { className: "quiet" }, "The file is not there, or the browser cannot show it.");
  const image = (alt, onload) => {
    const shown = make("img", { alt, onload: () => onload?.(shown), onerror: () => {
      const small = current.querySelector("img")?.src ?? drawnIn(current)?.querySelector("image").getAttribute("href");
      shown.onerror = null;
      if (small) shown.src = small;
      shown.after(missing());
    } });
    shown.src = current.href;
    return shown;
  };
  const move = (value) => {
    slider.value = value;
    stage.style.setProperty("--at", `${slider.value}%`);
  };
  const centre = () => stage.scrollTo((stage.scrollWidth - stage.clientWidth) / 2, 0);

  const show = () => {
    const links = neighbours();
    const has = parts();
    const shown = mode === "Result" || has[mode] ? mode : "Result";
    const name = drawnIn(current)?.getAttribute("aria-label") ?? textOf(current.closest("figure")?.querySelector("figcaption, h3") ?? current.closest("tr") ?? current);
    title.replaceChildren(name, " ", make("small", {}, `${links.indexOf(current) + 1} of ${links.length}`));
    file.href = current.href;
    for (const [key, one] of modes) {
      one.hidden = key === "Result" ? !has.Compare && !has.Photo : !has[key];
      one.setAttribute("aria-pressed", String(key === shown));
    }
    compared.hidden = shown !== "Compare";
    whole.hidden = shown === "Photo";
    if (shown === "Photo") {
      const drawn = has.Photo.cloneNode(true);
      const large = make("img", { onload: () => drawn.querySelector("image").setAttribute("href", large.src), onerror: () => drawn.after(missing()) });
      stage.replaceChildren(drawn);
      drawn.style.setProperty("--unit", 1 / drawn.getScreenCTM().a);  // labels and dots have the same size in any photo
      large.src = drawn.dataset.photo;  // sharper than the thumbnail
    } else if (shown === "Compare") {
      const pair = make("div", { className: "pair" }, image(`${name}, result`, (one) => {
        stage.style.setProperty("--side", `${one.naturalWidth}px`);
        centre();
      }), make("img", { className: "before", src: has.Compare.src, alt: has.Compare.alt }));
      const drag = (event) => {
        const box = pair.getBoundingClientRect();
        if (event.buttons) move((100 * (event.clientX - box.left)) / box.width);
      };
      pair.addEventListener("pointerdown", drag);
      pair.addEventListener("pointermove", drag);
      pair.addEventListener("dragstart", (event) => event.preventDefault());
      stage.replaceChildren(pair);
      move(50);
    } else {
      stage.replaceChildren(image(name, centre));
    }
  };

  slider.addEventListener("input", () => move(slider.value));
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target === slider) return;
    event.preventDefault();
    if (event.shiftKey) stage.scrollBy(by * 80, 0);
    else step(by);
  });
  viewer.addEventListener("close", () => current.focus());
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a.enlarge");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    current = link;
    mode = drawnIn(link) ? "Photo" : "Result";
    modes.get("Result").textContent = drawnIn(link) ? "Photo" : "Result";
    modes.get("Photo").textContent = drawnIn(link) ? "Landmarks" : "Photo";
    setFit(innerWidth < 700 || mode === "Photo");
    viewer.showModal();
    show();
    stage.focus();
  });

  // --- Values of charts: the pointer, or the arrow keys, move a line from point to point.

  for (const svg of document.querySelectorAll(".chart svg")) {
    const [left, right, top, bottom] = svg.dataset.area.split(" ").map(Number);
    const bars = [...svg.querySelectorAll("g.bin")].map((bin) => {
      const box = bin.querySelector("rect");
      const words = bin.querySelector("title");
      words.remove();  // the line below the chart shows it
      return { x: Number(box.getAttribute("x")) + Number(box.getAttribute("width")) / 2, words: words.textContent };
    });
    const lines = [...svg.querySelectorAll("polyline[data-name]")].map((line) => ({ name: line.dataset.name,
      points: line.getAttribute("points").split(" ").filter(Boolean).map((pair) => pair.split(",").map(Number)) }));
    const range = (text) => (text ?? "0 1").split(" ").map(Number);
    const [xs, ys] = [range(svg.dataset.x), range(svg.dataset.y)];
    const between = ([low, high], share) => Number((low + (high - low) * share).toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 6 });
    const valuesAt = (x) => lines.filter((line) => line.points.length).map(({ name, points }) => {
      const [, y] = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      return `${name} ${between(ys, (bottom - y) / (bottom - top))}`;
    });
    const stops = bars.length ? bars : (lines[0]?.points ?? []).map(([x]) => ({
      x, words: `${svg.dataset.xName} ${between(xs, (x - left) / (right - left))}: ${valuesAt(x).join(", ")}`,
    }));
    if (!stops.length) continue;
    const cursor = document.createElementNS(svg.namespaceURI, "line");
    const readout = make("p", { className: "readout quiet" });
    readout.setAttribute("aria-live", "polite");
    cursor.setAttribute("class", "cursor");
    svg.append(cursor);
    svg.after(readout);
    svg.tabIndex = 0;
    svg.setAttribute("aria-description", "The pointer and the arrow keys show the values.");
    let at = -1;
    const go = (to) => {
      at = Math.max(0, Math.min(stops.length - 1, to));
      for (const [name, value] of Object.entries({ x1: stops[at].x, x2: stops[at].x, y1: top, y2: bottom })) cursor.setAttribute(name, value);
      readout.textContent = stops[at].words;
    };
    const point = (event) => {
      const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
      go(stops.reduce((best, stop, i) => (Math.abs(stop.x - x) < Math.abs(stops[best].x - x) ? i : best), 0));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: stops.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(to);
    });
  }

  // --- A live page is loaded again, but not while somebody searches or looks at an image.

  if (root.dataset.refresh) {
    setInterval(() => {
      if (!viewer.open && ![...document.querySelectorAll("form.tools input")].some((one) => one.value)) location.reload();
    }, 1000 * Number(root.dataset.refresh));
  }
})();
