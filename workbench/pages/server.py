"""The process of ``workbench serve``: Streamlit, with torch being imported before the first visitor comes."""

from __future__ import annotations

from streamlit.web.cli import main

from . import engine

if __name__ == "__main__":
    engine.start()
    main(prog_name="streamlit")
