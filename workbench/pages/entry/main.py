"""What ``workbench serve`` runs: the same navigation as ``app.py``.

Streamlit puts the folder of this script first on the path, so it has a folder of its own: among the pages, ``import
explain`` would find our page instead of the engine.
"""

from workbench.pages import main

main()
