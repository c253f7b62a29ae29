"use strict";

// Figures are drawn as they come near the window: a page of two dozen images has a hundred of them. The static drawing
// stays unless plotly really drew: an old browser, or a script blocker, loses nothing but hovering.
async function loadPlotly() {
  const text = document.getElementById("plotly-gzip").textContent;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

async function drawFigures() {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  await loadPlotly();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      watcher.unobserve(entry.target);
      draw(entry.target, figures[Number(entry.target.dataset.figure)]);
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll("[data-figure]").forEach((figure) => watcher.observe(figure));
}

async function draw(figure, { data, layout }) {
  const live = figure.querySelector(".live");
  live.hidden = false;
  figure.classList.add("drawn");
  try {
    await Plotly.newPlot(live, data, layout, { displayModeBar: false, responsive: true });
  } catch {
    live.hidden = true;
    figure.classList.remove("drawn");
  }
}

function addCopyButton(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const code = block.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  block.append(button);
}

document.querySelectorAll(".code").forEach(addCopyButton);
drawFigures().catch(() => {});
