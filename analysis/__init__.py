"""Looks at what `ovmse` learned: run folders -> tables -> charts, live curves and reports.

Only `demo` and the form of 01_train start a training, and nothing in `ovmse` imports this package.
Import the part you need:

    from analysis.tables import curves, summary     # run folders -> tidy tables
    from analysis.charts.curves import figure1      # tables -> Altair charts
    from analysis.charts.show import show           # one offline-proof output for a chart
    from analysis.widgets.live import follow         # learning curves while training runs
    from analysis.report import write_report        # a notebook -> one self-contained HTML page
"""
