"use strict";

// The static drawing stays unless plotly really drew: an old browser, or a script blocker, loses nothing but hovering.
async function drawCurve() {
  const figure = document.getElementById("curve");
  const live = figure.querySelector(".live");
  try {
    const text = document.getElementById("plotly-gzip").textContent;
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    const { data, layout } = JSON.parse(document.getElementById("curve-figure").textContent);
    live.hidden = false;
    figure.classList.add("drawn");
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
drawCurve();
