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
  const whole = button("100 %", () => {
    remember();
    setFit(fits[shown === "Photo"] = !isFit());
  });
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
  let shown = mode;  // the mode, where the image has it
  let fits = {};  // of results (false) and photos (true): whether they are fitted into the window, once somebody chose
  let middle = [0.5, 0.5];  // what is in the middle of the window at 100 %, as shares of width and height

  const drawnIn = (link) => link.querySelector("svg");  // a link to a photo instead of a result
  const parts = () => {  // of the same face in another list, where this one has only the result
    const name = current.closest("[data-name]")?.dataset.name;
    const item = name && document.querySelector(`[data-name="${CSS.escape(name)}"]:has(.origin)`);
    return { Compare: item?.querySelector("img.crop"), Photo: drawnIn(current) ?? item?.querySelector(".origin svg") };
  };
  const neighbours = () => {
    const links = [...(current.closest("section") ?? document).querySelectorAll("a.enlarge")];
    return links.filter((link) => link === current || isShown(link));
  };
  const setMode = (name) => {
    remember();
    mode = name;
    show();
  };
  const setBusy = (busy) => stage.setAttribute("aria-busy", String(busy));
  const isFit = () => stage.classList.contains("fit");
  const setFit = (fit) => {
    stage.classList.toggle("fit", fit);
    whole.setAttribute("aria-pressed", String(!fit));
    const drawn = stage.querySelector(":scope > svg");  // labels and dots have the same size in any photo
    drawn?.style.setProperty("--unit", 1 / drawn.getScreenCTM().a);
    stage.scrollTo(middle[0] * stage.scrollWidth - stage.clientWidth / 2, middle[1] * stage.scrollHeight - stage.clientHeight / 2);
  };
  const remember = () => {
    if (isFit() || stage.getAttribute("aria-busy") === "true") return;
    middle = [(stage.scrollLeft + stage.clientWidth / 2) / stage.scrollWidth, (stage.scrollTop + stage.clientHeight / 2) / stage.scrollHeight];
  };
  const step = (by) => {
    remember();
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
      else setBusy(false);
      shown.after(missing());
    } });
    shown.src = current.href;
    return shown;
  };
  const move = (value) => {
    slider.value = value;
    stage.style.setProperty("--at", `${slider.value}%`);
  };
  const place = (one) => {  // 100 %, unless that is too wide, or the image is a grid of small ones
    const small = current.querySelector("img");
    const isGrid = Boolean(small) && getComputedStyle(small).imageRendering === "pixelated";
    one.classList.toggle("grid", isGrid);
    one.classList.toggle("pixels", isGrid && one.naturalWidth < stage.clientWidth);
    setFit(fits[false] ?? (isGrid || one.naturalWidth > stage.clientWidth));
    setBusy(false);
  };

  const show = () => {
    const links = neighbours();
    const has = parts();
    shown = has[mode] ? mode : "Result";
    const name = current.dataset.title ?? drawnIn(current)?.getAttribute("aria-label") ?? textOf(current.closest("figure")?.querySelector("figcaption, h3") ?? current.closest("tr") ?? current);
    setBusy(true);
    title.replaceChildren(name, " ", make("small", {}, `${links.indexOf(current) + 1} of ${links.length}`));
    file.href = current.href;
    for (const [key, one] of modes) {
      one.hidden = key === "Result" ? !has.Compare && !has.Photo : !has[key];
      one.setAttribute("aria-pressed", String(key === shown));
    }
    compared.hidden = shown !== "Compare";
    if (shown === "Photo") {
      const drawn = has.Photo.cloneNode(true);
      const placePhoto = () => {
        if (!drawn.isConnected) return;  // another image was chosen meanwhile
        setFit(fits[true] ?? true);
        setBusy(false);
      };
      const large = make("img", { onload: () => {
        drawn.querySelector("image").setAttribute("href", large.src);
        drawn.style.setProperty("--width", `${large.naturalWidth}px`);
        placePhoto();
      }, onerror: () => {
        drawn.after(missing());
        placePhoto();
      } });
      stage.replaceChildren(drawn);
      setFit(fits[true] ?? true);
      large.src = drawn.dataset.photo;  // sharper than the thumbnail
    } else if (shown === "Compare") {
      const pair = make("div", { className: "pair" }, image(`${name}, result`, (one) => {
        stage.style.setProperty("--side", `${one.naturalWidth}px`);
        place(one);
      }), make("img", { className: "before", src: has.Compare.src, alt: has.Compare.alt }));
      stage.replaceChildren(pair);
      move(50);
    } else {
      stage.replaceChildren(image(name, place));
    }
  };

  slider.addEventListener("input", () => move(slider.value));
  // A drag moves the line between photo and result, or at 100 % the image; fingers scroll without a script.
  let divided = null;
  const moveLine = (event) => move((100 * (event.clientX - divided.left)) / divided.width);
  stage.addEventListener("pointerdown", (event) => {
    if (event.button || event.target === stage) return;
    const box = stage.querySelector(".pair")?.getBoundingClientRect();
    const isNear = box && Math.abs(event.clientX - box.left - (box.width * slider.value) / 100) < 24;
    divided = isNear || (box && isFit()) ? box : null;
    if (divided) moveLine(event);
    if (divided || event.pointerType === "mouse") stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!stage.hasPointerCapture(event.pointerId)) return;
    if (divided) moveLine(event);
    else stage.scrollBy(-event.movementX, -event.movementY);
  });
  stage.addEventListener("dragstart", (event) => event.preventDefault());
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
    [fits, middle] = [{}, [0.5, 0.5]];
    stage.replaceChildren();
    viewer.showModal();
    setFit(true);
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
