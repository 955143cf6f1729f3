// A picture on a canvas, its frames and its cursor. The attributes are told in pixels.py.

const HOVER_PAUSE = 100; // ms between two hover messages
const SVG = "http://www.w3.org/2000/svg";

// pictures of one group show the cell that is pointed at in any of them
const pointed = (globalThis.__dpqlabPixels ??= new EventTarget());

const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/** RGBA of the model's picture: looked up in the palette, grey, or as it is. */
function rgba(model) {
  const [rows, columns, channels] = model.get("shape");
  const from = bytes(model.get("pixels"));
  const palette = model.get("palette")?.byteLength ? bytes(model.get("palette")) : null;
  const to = new Uint8ClampedArray(4 * rows * columns).fill(255);
  for (let i = 0; i < rows * columns; i++) {
    for (let c = 0; c < Math.min(3, channels) || c < 3; c++) {
      if (channels > 1) to[4 * i + c] = from[channels * i + c];
      else to[4 * i + c] = palette ? palette[3 * from[i] + c] : from[i];
    }
    if (channels === 4) to[4 * i + 3] = from[4 * i + 3];
  }
  return new ImageData(to, columns, rows);
}

/** What a cell holds, in words. */
function reading(model, row, column) {
  const [, columns, channels] = model.get("shape");
  const from = bytes(model.get("pixels"));
  const start = channels * (row * columns + column);
  const span = model.get("span");
  let value = [...from.subarray(start, start + Math.min(3, channels))].join(", ");
  if (span.length) {
    const [low, high] = span;
    const digits = Math.max(0, 2 - Math.floor(Math.log10(high - low)));
    value = (low + (from[start] / 255) * (high - low)).toFixed(Math.min(6, digits));
    if (from[start] === 0) value = `${value} or less`;
    if (from[start] === 255) value = `${value} or more`;
  }
  return `row ${row}, column ${column}: ${value}`;
}

function framed(svg, [row, column, rows, columns], kind) {
  for (const layer of ["under", "over"]) {
    const rect = document.createElementNS(SVG, "rect");
    const at = { x: column, y: row, width: columns, height: rows, class: `${kind} ${layer}` };
    for (const [name, value] of Object.entries(at)) rect.setAttribute(name, value);
    svg.append(rect);
  }
}

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "dpqlab-pixels";
  root.innerHTML = `<div class="picture" tabindex="0" role="figure"><canvas></canvas></div>
    <div class="reading" aria-live="polite"></div>`;
  const [picture, words] = root.children;
  const canvas = picture.firstElementChild;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("preserveAspectRatio", "none");
  picture.append(svg);
  el.append(root);
  let cursor = null; // [row, column] of the keyboard
  let here = null; // [row, column] that is pointed at
  let hovered = 0;

  function draw() {
    const [rows, columns] = model.get("shape");
    if (canvas.width !== columns) canvas.width = columns;
    if (canvas.height !== rows) canvas.height = rows;
    canvas.getContext("2d").putImageData(rgba(model), 0, 0);
    const zoom = model.get("zoom");
    picture.style.width = zoom ? `${columns * zoom}px` : "100%";
    if (!zoom) root.style.width = "100%";
    picture.style.aspectRatio = `${columns} / ${rows}`;
    svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    if (here) words.textContent = reading(model, ...inside(...here));
    mark();
    picture.dataset.drawn = Number(picture.dataset.drawn ?? 0) + 1;
  }

  function mark() {
    svg.replaceChildren();
    picture.setAttribute("aria-label", model.get("label"));
    for (const frame of model.get("outline")) framed(svg, frame, "frame");
    const [height, width] = model.get("cell");
    const at = cursor ?? here;
    if (!at) return;
    const corner = [Math.floor(at[0] / height) * height, Math.floor(at[1] / width) * width];
    framed(svg, [...corner, height, width], "cursor");
  }

  function inside(row, column) {
    const [rows, columns] = model.get("shape");
    const clip = (value, count) => Math.max(0, Math.min(count - 1, value));
    return [clip(row, rows), clip(column, columns)];
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [rows, columns] = model.get("shape");
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    return inside(row, Math.floor(((event.clientX - box.left) / box.width) * columns));
  }

  function tell(trait, [row, column]) {
    model.set(trait, { row, column, at: Date.now() });
    model.save_changes();
  }

  /** Point at a cell here and in all pictures of the group; null points nowhere. */
  function point(cell) {
    const detail = { group: model.get("group"), cell };
    if (detail.group) pointed.dispatchEvent(new CustomEvent("point", { detail }));
    else show(cell);
    if (!cell || !model.get("hovers") || Date.now() - hovered < HOVER_PAUSE) return;
    hovered = Date.now();
    tell("hover", cell);
  }

  function show(cell) {
    here = cell;
    words.textContent = cell ? reading(model, ...inside(...cell)) : "";
    mark();
  }

  const together = ({ detail }) => {
    if (detail.group === model.get("group")) show(detail.cell);
  };
  pointed.addEventListener("point", together);

  picture.addEventListener("mousemove", (event) => {
    cursor = null;
    point(under(event));
  });
  picture.addEventListener("mouseleave", () => cursor ?? point(null));
  picture.addEventListener("click", (event) => tell("click", under(event)));
  picture.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key in steps) {
      const [height, width] = model.get("cell");
      const [down, right] = steps[event.key];
      const [row, column] = cursor ?? [-down * height, -right * width];
      cursor = inside(row + down * height, column + right * width);
      point(cursor);
    } else if (event.key === "Enter" && cursor) tell("click", cursor);
    else if (event.key === "Escape") {
      cursor = null;
      point(null);
    } else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would move to the next cell
  });

  // one message may change several traits: draw once, when all are there
  let due = false;
  const later = () => {
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      draw();
    });
  };
  const drawn = ["pixels", "shape", "palette", "span", "zoom"].map((name) => `change:${name}`);
  const marked = ["outline", "cell", "label"].map((name) => `change:${name}`);
  for (const event of drawn) model.on(event, later);
  for (const event of marked) model.on(event, mark);
  draw();
  return () => {
    pointed.removeEventListener("point", together);
    for (const event of drawn) model.off(event, later);
    for (const event of marked) model.off(event, mark);
  };
}

export default { render };
