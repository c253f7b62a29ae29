// Figures are drawn as they come near the window: a page of two dozen images has a hundred of them. The static drawing
// stays unless plotly really drew: an old browser, or a script blocker, loses nothing but hovering.
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

drawFigures().catch(() => {});
