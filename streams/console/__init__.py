"""What the command ``streams`` is made of; :mod:`streams.cli` has its words.

``targets`` understands which books are meant, ``board`` takes pictures of a market, ``lines`` and
``screen`` show them, ``live`` does so again and again until it is time to end.
"""
