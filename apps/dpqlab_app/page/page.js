// What the page does in the browser alone. Handlers in HTML call window.dpqlab.
(() => {
  const OURS = ["model", "versions", "classes", "images", "seed", "steps", "guidance"];
  const result = () => document.querySelector("#dq-result .dq-result");

  // the address of a drawing; other parts of this page's address, such as the theme, stay
  const link = (query) => {
    const url = new URL(location.href);
    OURS.forEach((name) => url.searchParams.delete(name));
    const others = url.searchParams.toString();
    url.search = query + (others ? `&${others}` : "");
    return url.href;
  };

  const copy = async (text, button) => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // no clipboard without TLS: the old way
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      copied = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const label = (button.dataset.label ??= button.textContent);
    button.textContent = copied ? "Copied" : "Could not copy";
    setTimeout(() => (button.textContent = label), 1600);
  };

  // the number of what a click asks for: the same for all that the click starts, and ever larger
  let number = 0;
  document.addEventListener(
    "click",
    (event) => {
      if (event.target.closest("#dq-draw-button, #dq-trace-button"))
        number = Math.max(number + 1, Date.now());
    },
    true,
  );

  window.dpqlab = {
    number: () => number,

    copyLink: (button) => copy(link(result().dataset.query), button),
    copyCode: (button) => copy(result().querySelector("pre").textContent, button),

    // full precision over the compressed version, up to the handle
    slide: (input) =>
      input.closest("figure").style.setProperty("--x", `${input.value}%`),

    pick: (input) => {
      const section = input.closest("section");
      section.querySelectorAll(".dq-panel").forEach((panel, i) => {
        panel.hidden = i !== Number(input.value);
      });
    },

    // once a drawing is complete it is in the address
    remember: () => {
      setTimeout(() => {
        const shown = result();
        if (shown?.dataset.done === "1") history.replaceState(null, "", link(shown.dataset.query));
      }, 100);
    },

    drawLinked: () => {
      const asked = new URLSearchParams(location.search);
      if (!OURS.some((name) => asked.has(name))) return;
      setTimeout(() => {
        if (!document.querySelector("#dq-status .dq-bad"))
          document.querySelector("#dq-draw-button").click();
      }, 300);
    },
  };

  // A and B vote, where nobody is writing
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    const busy = event.ctrlKey || event.metaKey || event.altKey || event.repeat;
    if (busy || !["a", "b"].includes(key)) return;
    if (event.target.closest("input:not([type=radio]), textarea, [contenteditable]")) return;
    const button = document.querySelector(`#dq-vote-${key}`);
    if (button?.offsetParent) button.click();
  });
})();
