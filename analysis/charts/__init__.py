"""Tables -> charts: ``theme`` is the look, ``base`` what charts share, ``show`` the output."""
