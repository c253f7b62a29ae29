"""The app in the browser: navigation, and what every page shares.

A page is one function that draws a form, runs a job and shows a result. The sidebar, drawn once for all pages, holds the
model and the images. Nothing here imports torch: the shell of a page paints first, while ``engine`` imports in a thread.

=============  ============================================================================
``engine``     starts importing torch in the background, and waits for it
``frame``      what every page has around its form and its result
``sidebar``    which model, which images; remembered in the URL where they are samples
``uploads``    what strangers send: names, sizes, digests, a private copy on disk
``loading``    choices become a model and images, cached by content
``modelcard``  what was loaded and inferred, and the form that overrides it
``jobs``       a long call with a progress bar and a Cancel button
``text``       names of strangers made harmless; errors as one paragraph
``explain``    the page "Explain": choose, run, look
``gallery``    its result: pictures, predictions, maps on a shared scale
``robustness`` its last part: the curve, who broke what, and the report
``attack``     the page "Attack": choose, run, look
``attacked``   its result: both pictures, the difference, maps of both answers, files
``generate``   the page "Generate": choose, look; train where there is nothing yet
``versions``   its result: one picture as every class
``linear``     the page "Linear": choose, run, look
``apart``      its result: votes, bias and patterns of one picture
``pixel``      a picture to click on, and what the chosen pixel does
``fooled``     its part on attacks: the nearest adversarial picture, and what moved
``enlarging``  its last part: a network that returns pictures, one pixel of its answer at a time
``dissect``    the page "Dissect": choose, run, look
``dissected``  its result: how many units of which layer look for what
``units``      one unit at a time, and those that fire on a picture
``removed``    its part on what breaks without units
``moved``      its last part: which units an attack moves
``pictures``   one image as a file, a thumbnail, a line of predictions
``recipe``     "copy as Python"
=============  ============================================================================
"""

from __future__ import annotations

import streamlit as st

from . import attack, dissect, engine, explain, generate, linear, sidebar

_EXPLAIN, _ATTACK = ":material/visibility:", ":material/bolt:"
_GENERATE = ":material/style:"
_LINEAR, _DISSECT = ":material/function:", ":material/category:"


def main() -> None:
    """Draw the app: the sidebar, then the page that the person is on."""
    st.set_page_config(page_title="Classifier workbench", page_icon=":material/biotech:", layout="wide")
    chosen = sidebar.draw()
    engine.start()
    pages = [
        st.Page(lambda: explain.page(chosen), title="Explain", icon=_EXPLAIN, url_path="explain", default=True),
        st.Page(lambda: attack.page(chosen), title="Attack", icon=_ATTACK, url_path="attack"),
        st.Page(lambda: generate.page(chosen), title="Generate", icon=_GENERATE, url_path="generate"),
        st.Page(lambda: linear.page(chosen), title="Linear", icon=_LINEAR, url_path="linear"),
        st.Page(lambda: dissect.page(chosen), title="Dissect", icon=_DISSECT, url_path="dissect"),
    ]
    st.navigation(pages).run()
