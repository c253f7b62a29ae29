"""Entry point of ``streamlit run app.py``: navigation only, every page lives in ``workbench/pages/``."""

from workbench.pages import main

main()
