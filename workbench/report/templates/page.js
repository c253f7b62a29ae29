// The static drawing stays unless plotly really drew: an old browser, or a script blocker, loses nothing but hovering.
async function drawCurve() {
  const figure = document.getElementById("curve");
  const live = figure.querySelector(".live");
  try {
    await loadPlotly();
    const { data, layout } = JSON.parse(document.getElementById("curve-figure").textContent);
    live.hidden = false;
    figure.classList.add("drawn");
    await Plotly.newPlot(live, data, layout, { displayModeBar: false, responsive: true });
  } catch {
    live.hidden = true;
    figure.classList.remove("drawn");
  }
}

drawCurve();
