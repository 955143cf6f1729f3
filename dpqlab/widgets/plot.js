// One plotly figure. How plotly.js reaches the page is told in plot.py.

const ARRIVES_WITHIN = 3000; // ms before a page without plotly.js asks for it
const ASKS = 5; // times that a page asks for the figure of an empty plot
const HOVER_PAUSE = 100; // ms between two hover messages

const page = (globalThis.__dpqlabPlot ??= {});
page.plotly ??= new Promise((resolve) => (page.give = resolve));

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Evaluate plotly.js, if this is the first copy of it that reaches the page. */
async function offer(bundle) {
  if (!bundle?.byteLength || page.given) return;
  page.given = true;
  const unpacked = new Blob([bundle]).stream().pipeThrough(new DecompressionStream("gzip"));
  const source = await new Response(unpacked).text();
  // a module of its own: plotly.js then sees neither require.js nor the page's globals
  const wrapped = `const module = { exports: {} }, exports = module.exports, define = undefined;
${source}
export default module.exports;`;
  const url = URL.createObjectURL(new Blob([wrapped], { type: "text/javascript" }));
  try {
    page.give((await import(/* webpackIgnore: true */ url)).default);
  } catch (error) {
    page.given = false;
    throw error;
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** plotly.js, once it is there; asks the kernel for it while nobody has brought it. */
async function plotly(model) {
  for (;;) {
    const found = await Promise.race([page.plotly, pause(ARRIVES_WITHIN)]);
    if (found) return found;
    if (page.given || Date.now() - (page.asked ?? 0) < 3 * ARRIVES_WITHIN) continue;
    page.asked = Date.now();
    model.send({ kind: "plotly" });
  }
}

/** Give slider handles the name beside them, which ipywidgets does not; once a page. */
function nameSliders() {
  if (page.naming) return;
  page.naming = true;
  const nameless = ".widget-slider .noUi-handle:not([aria-label])";
  const name = () => {
    for (const handle of document.querySelectorAll(nameless)) {
      const label = handle.closest(".widget-slider").querySelector(".widget-label")?.textContent;
      if (label) handle.setAttribute("aria-label", label);
    }
  };
  let soon = 0;
  new MutationObserver(() => {
    clearTimeout(soon);
    soon = setTimeout(name, 200);
  }).observe(document.body, { childList: true, subtree: true });
  name();
}

/** The colour of text where the figure stands: JupyterLab's, VS Code's, or the page's own. */
function ink(element) {
  const style = getComputedStyle(element);
  for (const name of ["--jp-content-font-color1", "--vscode-foreground"]) {
    const colour = style.getPropertyValue(name).trim();
    if (colour) return colour;
  }
  return style.color;
}

/** The layout as it is drawn: the page's ink, no background, the whole width. */
function dressed(layout, height, colour) {
  const clear = "rgba(0,0,0,0)";
  return {
    uirevision: "same", // zoom survives an update
    ...layout,
    height,
    autosize: true,
    font: { ...layout.font, color: colour },
    paper_bgcolor: clear,
    plot_bgcolor: clear,
  };
}

const plain = (value) => (ArrayBuffer.isView(value) ? Array.from(value) : (value ?? null));

/** A point of plotly's event as plain values. */
function told(point) {
  return {
    x: plain(point.x),
    y: plain(point.y),
    z: plain(point.z),
    curve: point.curveNumber,
    point: plain(point.pointNumber ?? point.pointNumbers),
    customdata: plain(point.customdata),
    at: Date.now(),
  };
}

/** Arrow keys choose a point (of a heatmap a cell), Enter clicks it, Escape lets it go. */
class Cursor {
  constructor(Plotly, figure) {
    Object.assign(this, { Plotly, figure, trace: 0, index: null });
  }

  traces() {
    return (this.figure._fullData ?? []).filter(
      (trace) => trace.visible === true && trace.hoverinfo !== "skip",
    );
  }

  move(key) {
    const traces = this.traces();
    if (!traces.length) return;
    this.trace = Math.min(this.trace, traces.length - 1);
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const [right, up] = steps[key];
    if (traces[this.trace].type === "heatmap") this.cell(traces[this.trace], right, up);
    else this.point(traces, right, up);
  }

  cell(trace, right, up) {
    const [rows, columns] = [trace.z.length, trace.z[0].length];
    const axis = (letter) =>
      this.figure._fullLayout[trace[letter + "axis"].replace(letter, letter + "axis")];
    const way = (letter) => (axis(letter).range[0] > axis(letter).range[1] ? -1 : 1);
    const clip = (value, count) => Math.max(0, Math.min(count - 1, value));
    const [row, column] = Array.isArray(this.index) ? this.index : [0, 0];
    const first = !Array.isArray(this.index);
    this.index = [
      clip(row + (first ? 0 : up * way("y")), rows),
      clip(column + (first ? 0 : right * way("x")), columns),
    ];
    const { x, y } = this.figure.calcdata[trace.index][0];
    const middle = (edges, i) => (edges[i] + edges[i + 1]) / 2;
    const at = { xval: middle(x, this.index[1]), yval: middle(y, this.index[0]) };
    this.Plotly.Fx.hover(this.figure, at, trace.xaxis + trace.yaxis);
  }

  point(traces, right, up) {
    const count = traces.length;
    if (up) this.trace = (this.trace - up + count) % count;
    const trace = traces[this.trace];
    const last = this.figure.calcdata[trace.index].length - 1;
    const from = typeof this.index === "number" ? this.index + right : 0;
    this.index = Math.max(0, Math.min(last, from));
    const at = [{ curveNumber: trace.index, pointNumber: this.index }];
    this.Plotly.Fx.hover(this.figure, at);
  }

  chosen() {
    return this.index === null ? null : (this.figure._hoverdata?.[0] ?? null);
  }

  leave() {
    this.index = null;
    this.Plotly.Fx.unhover(this.figure);
  }
}

function buttons(Plotly, model) {
  const save = (format) => async (figure) => {
    // the figure's own mid-grey ink, which can be read on any paper
    const { data = [], layout = {} } = structuredClone(model.get("spec"));
    const size = { width: figure.clientWidth, height: figure.clientHeight };
    const url = await Plotly.toImage({ data, layout }, { format, ...size, scale: 2 });
    const link = Object.assign(document.createElement("a"), { href: url });
    link.download = `figure.${format}`;
    link.click();
  };
  const { camera, disk } = Plotly.Icons;
  return [
    { name: "png", title: "Download PNG", icon: camera, click: save("png") },
    { name: "svg", title: "Download SVG", icon: disk, click: save("svg") },
  ];
}

function render({ model, el }) {
  const figure = document.createElement("div");
  figure.className = "dpqlab-plot";
  figure.tabIndex = 0;
  figure.setAttribute("role", "figure");
  const spoken = document.createElement("div");
  spoken.className = "dpqlab-unseen";
  spoken.setAttribute("aria-live", "polite");
  el.append(figure, spoken);

  let cursor = null;
  let config = null;
  let busy = false;
  let again = false;
  let gone = false;
  let hovered = 0;
  let colour = "";

  const tell = (trait, point) => {
    model.set(trait, told(point));
    model.save_changes();
  };

  function listen() {
    figure.on("plotly_click", (event) => event.points?.[0] && tell("click", event.points[0]));
    figure.on("plotly_hover", (event) => {
      if (!model.get("hovers") || !event.points?.[0] || Date.now() - hovered < HOVER_PAUSE) return;
      hovered = Date.now();
      tell("hover", event.points[0]);
    });
  }

  async function draw() {
    again = true;
    if (busy) return; // what is drawn next is the newest figure
    busy = true;
    try {
      const Plotly = await plotly(model);
      // before it is in the page it has no theme, and its text would stay in plotly's own colour
      while (!figure.isConnected && !gone) await new Promise(requestAnimationFrame);
      colour = ink(figure);
      // one object for all drawings: were it new, plotly would take the figure apart each time
      config ??= {
        responsive: false, // the observer below knows more than the window's size
        displaylogo: false,
        modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d"],
        modeBarButtonsToAdd: buttons(Plotly, model),
      };
      while (again && !gone) {
        again = false;
        const { data = [], layout = {} } = structuredClone(model.get("spec"));
        const height = model.get("height") || layout.height || 380;
        figure.style.height = `${height}px`;
        figure.setAttribute("aria-label", model.get("label"));
        await Plotly.react(figure, data, dressed(layout, height, colour), config);
        // drawn while the page gave it no width, it has plotly's own
        if (figure.clientWidth && figure._fullLayout.width !== figure.clientWidth)
          Plotly.Plots.resize(figure);
        if (!cursor) {
          cursor = new Cursor(Plotly, figure);
          listen();
        }
        figure.dataset.drawn = Number(figure.dataset.drawn ?? 0) + 1;
      }
    } catch (error) {
      figure.textContent = `The figure cannot be drawn: ${error.message}`;
      console.error(error);
    } finally {
      busy = false;
    }
  }

  figure.addEventListener("keydown", (event) => {
    if (!cursor) return;
    if (event.key.startsWith("Arrow")) {
      cursor.move(event.key);
      // plotly shows the label a little later
      setTimeout(() => {
        spoken.textContent = figure.querySelector(".hoverlayer")?.textContent ?? "";
      }, 120);
    } else if (event.key === "Enter" && cursor.chosen()) tell("click", cursor.chosen());
    else if (event.key === "Escape") cursor.leave();
    else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would move to the next cell
  });

  const relabel = () => figure.setAttribute("aria-label", model.get("label"));
  model.on("change:spec", draw);
  model.on("change:height", draw);
  model.on("change:label", relabel);

  let width = 0;
  const resized = new ResizeObserver(async () => {
    if (figure.clientWidth === width || !cursor) return;
    width = figure.clientWidth;
    (await page.plotly).Plots.resize(figure);
  });
  resized.observe(figure);
  const themes = new MutationObserver(() => {
    if (ink(figure) === colour) return;
    colour = ink(figure);
    draw();
  });
  const attributes = ["data-jp-theme-light", "data-jp-theme-name", "class", "style"];
  for (const element of [document.body, document.documentElement])
    themes.observe(element, { attributes: true, attributeFilter: attributes });

  draw();
  nameSliders();
  // an update sent right after the widget was made can be lost on its way
  let asked = 0;
  const empty = setInterval(() => {
    if (model.get("spec").data?.length || asked++ === ASKS) clearInterval(empty);
    else model.send({ kind: "spec" });
  }, ARRIVES_WITHIN);
  return () => {
    gone = true;
    clearInterval(empty);
    resized.disconnect();
    themes.disconnect();
    model.off("change:spec", draw);
    model.off("change:height", draw);
    model.off("change:label", relabel);
    page.plotly.then((Plotly) => Plotly.purge(figure));
  };
}

function initialize({ model }) {
  const trouble = (error) => console.error("plotly.js could not be started", error);
  offer(model.get("bundle")).catch(trouble);
  model.on("msg:custom", (content, buffers) => {
    if (content?.kind === "plotly") offer(buffers[0]).catch(trouble);
  });
}

export default { initialize, render };
