"use strict";
// Clips come as data and become text nodes, never markup: what a model or a file name says can't act here.
(() => {
  const PAGE = 20;
  const clips = JSON.parse(document.getElementById("clips").textContent);
  const texts = clips.map((clip) => JSON.stringify([clip.video, clip.answers, clip.failures]).toLowerCase());
  const search = document.getElementById("search");
  const failed = document.getElementById("failed");
  const overlay = document.getElementById("overlay");
  const list = document.getElementById("list");
  const place = document.getElementById("place");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  let page = 0;

  const add = (parent, name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    parent.append(element);
    return element;
  };

  const drawTokens = (canvas, picture) => {
    const rows = picture.states.length / picture.columns;
    canvas.width = picture.columns * 16;
    canvas.height = rows * 16;
    const pen = canvas.getContext("2d");
    [...picture.states].forEach((state, index) => {
      const x = (index % picture.columns) * 16;
      const y = Math.floor(index / picture.columns) * 16;
      if (state === "0") {
        pen.fillStyle = "rgba(0, 0, 0, .72)";
        pen.fillRect(x, y, 16, 16);
      } else if (state === "1") {
        pen.fillStyle = "rgba(30, 110, 220, .45)";
        pen.fillRect(x, y, 16, 16);
      } else {
        pen.strokeStyle = "#ffd400";
        pen.lineWidth = 2;
        pen.strokeRect(x + 1, y + 1, 14, 14);
      }
    });
  };

  const showPicture = (parent, clip) => {
    const holder = add(parent, "div");
    if (!clip.picture) {
      if (clip.tokens !== null) add(holder, "p", `${clip.tokens} tokens, no picture`, "quiet");
      return;
    }
    const box = add(holder, "span", undefined, "picture");
    const image = add(box, "img");
    image.alt = `a frame of ${clip.video}`;
    image.src = `data:image/jpeg;base64,${clip.picture.jpeg}`;
    if (overlay.checked) drawTokens(add(box, "canvas"), clip.picture);
    add(holder, "p", `${clip.picture.after} of ${clip.picture.before} tokens`, "quiet");
  };

  const showClip = (clip) => {
    const row = add(list, "article", undefined, "clip");
    showPicture(row, clip);
    const body = add(row, "div");
    const [start, end] = clip.span;
    const span = start === null && end === null ? "" : ` ${start ?? 0} s to ${end === null ? "the end" : `${end} s`}`;
    add(body, "h3", clip.video + span);
    const answers = add(body, "dl");
    for (const answer of clip.answers) {
      const options = answer.options ? ` [${answer.options.join(" | ")}]` : "";
      add(answers, "dt", answer.question + options);
      const given = add(answers, "dd", answer.response);
      if (answer.cut) add(given, "span", " (cut)", "quiet");
      if (answer.expected !== null) {
        const same = answer.expected.trim().toLowerCase() === answer.response.trim().toLowerCase();
        add(given, "span", same ? "  ✓ expected" : `  expected: ${answer.expected}`, same ? "right" : "quiet");
      }
    }
    for (const failure of clip.failures) {
      add(body, "p", `${failure.stage}, ${failure.type}: ${failure.message}`, "wrong");
    }
  };

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = clips.filter((clip, index) =>
      (!failed.checked || clip.failures.length) && words.every((word) => texts[index].includes(word)));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    list.replaceChildren();
    found.slice(page * PAGE, (page + 1) * PAGE).forEach(showClip);
    place.textContent = `${found.length} of ${clips.length} clips, page ${page + 1} of ${pages}`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  };

  const turn = (by) => { page += by; show(); };
  search.addEventListener("input", () => { page = 0; show(); });
  failed.addEventListener("change", () => { page = 0; show(); });
  overlay.addEventListener("change", show);
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === search;
    if (event.key === "/" && !typing) { event.preventDefault(); search.focus(); }
    else if (event.key === "Escape" && typing) { search.value = ""; page = 0; show(); }
    else if (event.key === "ArrowLeft" && !typing && !previous.disabled) turn(-1);
    else if (event.key === "ArrowRight" && !typing && !next.disabled) turn(1);
  });
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", () => {
      const range = document.createRange();
      range.selectNodeContents(button.previousElementSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      navigator.clipboard?.writeText(button.previousElementSibling.textContent).catch(() => {});
    });
  }
  show();
})();
